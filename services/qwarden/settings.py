"""All settings, read from `QWARDEN_*` in the environment; `__` goes into a group.

Unknown names are refused, so that a typing error is not a default.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import parse_qs, urlsplit

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, EnvSettingsSource, SettingsConfigDict

from qwarden.contracts import topics
from qwarden.contracts.keys import ContentKey
from qwarden.redis_address import read_address
from qwarden_engine.settings import EngineSettings
from qwarden_engine.stream.settings import StreamSettings

PREFIX = "QWARDEN_"
Seconds = Annotated[float, Field(gt=0)]


class SettingsError(ValueError):
    """The settings are wrong; each line of the message names one and what would be right."""


class Group(BaseModel):
    """A group of settings: frozen, unknown names refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


@dataclass(frozen=True, slots=True)
class Certificates:
    """Files in PEM that one dependency's settings name. `setting`: what stands before CA_FILE,
    CERTIFICATE_FILE and KEY_FILE in their names."""

    setting: str
    ca_file: Path | None = None
    certificate_file: Path | None = None
    key_file: Path | None = None

    @property
    def named(self) -> dict[str, Path]:
        """The files by the names of their settings."""
        files = {
            "CA_FILE": self.ca_file,
            "CERTIFICATE_FILE": self.certificate_file,
            "KEY_FILE": self.key_file,
        }
        return {f"{self.setting}{name}": file for name, file in files.items() if file is not None}


class Certified(Group):
    """A group with a server that may show a certificate, and ask for one."""

    ca_file: Path | None = None
    """The authority that signed the server's certificate; the system's own where absent."""
    certificate_file: Path | None = None
    """Our own, where the server asks for one (mTLS), with those between it and its authority."""
    key_file: Path | None = None
    """The private key of certificate_file, without a passphrase; where absent it stands there."""

    @property
    def certificates(self) -> Certificates:
        setting = f"{PREFIX}{type(self).__name__.upper()}__"
        return Certificates(setting, self.ca_file, self.certificate_file, self.key_file)


class Kafka(Certified):
    """The broker, and this consumer's place in its group."""

    bootstrap_servers: str = "127.0.0.1:9092"
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"] = (
        "SCRAM-SHA-512"
    )
    sasl_username: str | None = None
    sasl_password: SecretStr | None = None
    oauth_token_url: str | None = None
    """Where OAUTHBEARER gets its tokens, by client credentials. https:// is trusted by the system's
    authorities and by ca_file."""
    oauth_client_id: str | None = None
    oauth_client_secret: SecretStr | None = None
    oauth_scope: str | None = None
    """With spaces between several; without it the issuer's default."""
    group_id: str = "qwarden-moderator"
    session_timeout_ms: Annotated[int, Field(ge=1000)] = 30_000
    """How long a dead moderator keeps its partitions. Over a garbage collection or a frozen node
    of some seconds, under what people notice."""
    max_poll_interval_ms: Annotated[int, Field(ge=1000)] = 300_000
    """How long after its last poll a moderator counts as hung and loses its partitions. It polls at
    least every other second, in an outage too, so that only a blocked process comes near it."""
    request_timeout_ms: Annotated[int, Field(ge=1000)] = 30_000
    """How long a request to a broker may take before its connection is given up. Over the seconds
    in which a partition changes its leader, under each service's hung_s."""

    @field_validator("oauth_token_url")
    @classmethod
    def _is_web(cls, value: str | None) -> str | None:
        if value is not None and not _is_web_address(value):
            raise ValueError("the address of a token endpoint is https://HOST/PATH, or http://")
        return value

    @property
    def is_encrypted(self) -> bool:
        return self.security_protocol.endswith("SSL")

    @property
    def has_sasl(self) -> bool:
        return self.security_protocol.startswith("SASL")

    @property
    def groups(self) -> dict[str, str]:
        """The consumer group of each lane, by its topic: a lane's offsets are its own."""
        return {topics.CONTENT: self.group_id, topics.BACKLOG: f"{self.group_id}-backlog"}

    def group_of(self, topic: str) -> str:
        """The consumer group of a lane; that of a topic of somebody else's has its name."""
        return self.groups.get(topic, f"{self.group_id}-{topic}")


class Redis(Certified):
    """The shared cache. Without an address the fleet runs on the caches in its processes."""

    url: SecretStr | None = None
    """`redis://[USER:PASSWORD@]HOST:PORT[/DB]`; with Sentinel
    `redis+sentinel://[USER:PASSWORD@]HOST:PORT[,HOST:PORT…]/SERVICE[/DB]`, a cluster
    `redis+cluster://[USER:PASSWORD@]HOST:PORT[,HOST:PORT…]`; `rediss` in each for TLS."""
    timeout_s: Seconds = 0.25
    """Of one read or write: over a busy Redis's p99 of some milliseconds, and about what judging
    the batch anew costs."""
    pause_s: Seconds = 5.0
    """How long a Redis that failed is left alone."""
    ttl_s: Annotated[int, Field(ge=1)] = 86_400
    """How long an assessment is kept: most repeats of a text come within a day."""
    waiting: Annotated[int, Field(ge=1)] = 20_000
    """Writes that may wait; what comes on top is dropped. Some 10 MB."""
    batch: Annotated[int, Field(ge=1, le=7000)] = 500
    """Entries a write. Redis works on one script at a time: 500 take it about 1 ms. (Lua unpacks
    at most some 8,000 arguments.)"""

    @field_validator("url")
    @classmethod
    def _can_be_read(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            read_address(value.get_secret_value())
        return value


class Triton(Certified):
    """The guard's server."""

    url: str = "127.0.0.1:8001"
    """gRPC, host:port."""
    tls: bool = False
    """Whether its gRPC is encrypted, the stream guard's too (tritonserver --grpc-use-ssl=true)."""
    timeout_s: Seconds = 120.0
    """Of one request, its time in Triton's queue included; a full request of long texts on a CPU
    takes most of a minute, behind the queue_s that it may wait."""
    queue_s: Seconds = 60.0
    """How long a request may wait in Triton's queue before it is refused there, which makes this
    client send less at a time; at most half of what the request may take."""
    probe_s: Seconds = 60.0
    """Of the known good conversation, which is asked after a failure and in an outage. Over what
    the engine may have begun before it: a full micro-batch of a 4B guard on two cores takes 36 s.
    So long may an outage of a guard that hangs be taken for the fault of a row."""
    alone_s: Seconds = 150.0
    alone_1000_tokens_s: Seconds = 20.0
    """Of a row that has failed and is sent alone, and what each 1,000 of its tokens add: over
    timeout_s, so that it gets more time than it had, and what a 4B guard on two cores takes for
    them. Twice that passes before a row is answered `no_answer`."""
    suspects_in_flight: Annotated[int, Field(ge=1)] = 2
    """Rows that have failed and are tried alone, beside requests_in_flight: one that waits out its
    deadline keeps nobody else waiting, and the other clears those that only stood beside it."""
    rows_a_request: Annotated[int, Field(ge=1, le=256)] = 64
    """A request costs its client 200 µs whatever it carries; from 64 rows on that is small. At
    most the model's max_batch_size."""
    bytes_a_request: Annotated[int, Field(ge=1)] = 131_072
    """Bounds one request's work where texts are long: about 32,000 tokens."""
    requests_in_flight: Annotated[int, Field(ge=1)] = 4
    """Enough for one request to be read while others run (measured: 1 gives a third of 4)."""
    backoff_s: Seconds = 0.2
    max_backoff_s: Seconds = 5.0
    """How often an absent guard is asked; also how late its return may be noticed."""


class StreamGuard(Group):
    """The client of the guard's server for running sessions."""

    urls: str = ""
    """gRPC, host:port, with commas between several; empty is `triton.url`. A name that stands for
    many addresses, such as a headless service, is all of them: a session stays with one."""
    look_s: Seconds = 10.0
    """How often such names are asked for anew."""
    leave_s: Seconds = 10.0
    """How long a replica may be away before its sessions go to the others: over its restart, since
    each of them is sent there whole."""
    timeout_s: Seconds = 30.0
    """Of one request, its time in Triton's queue included: appends are short, and a whole
    transcript of 8,000 tokens takes some seconds on a CPU."""
    queue_s: Seconds = 10.0
    """How long a request may wait in Triton's queue before it is refused there; at most half of
    what the request may take."""
    appends_a_request: Annotated[int, Field(ge=1, le=256)] = 64
    """At most the model's max_batch_size."""
    requests_in_flight: Annotated[int, Field(ge=1)] = 4
    """For each replica, of short appends, and as many again of what goes alone."""
    replay_tokens_a_second: Annotated[float, Field(gt=0)] = 20_000.0
    """Of transcripts that are sent again, to each replica: a restart of 1,000 sessions of 600
    tokens is spread over half a minute, and what runs on is not starved."""
    backoff_s: Seconds = 0.2
    max_backoff_s: Seconds = 5.0
    """How often an absent guard is asked; also how late its return may be noticed."""
    probe_s: Seconds = 30.0
    """Of the known good append, which is asked after a failure and in an outage."""
    alone_s: Seconds = 60.0
    alone_1000_tokens_s: Seconds = 20.0
    """Of an append that has failed and is sent alone, or is long, as a whole transcript is, and
    what each 1,000 of its tokens add: over timeout_s, so that it gets more time than it had."""

    @field_validator("urls")
    @classmethod
    def _has_ports(cls, value: str) -> str:
        for name in cls._names(value):
            host, _, port = name.rpartition(":")
            if not host or not port.isdecimal():
                raise ValueError(f"{name} has no port; write host:port, with commas between")
        return value

    @staticmethod
    def _names(value: str) -> tuple[str, ...]:
        return tuple(name for name in map(str.strip, value.split(",")) if name)

    @property
    def names(self) -> tuple[str, ...]:
        """Each of `urls`."""
        return self._names(self.urls)


class Guard(Group):
    """Where the guard runs."""

    mode: Literal["triton", "in-process"] = "triton"
    """`in-process` loads the engine here (extra `engine`): where there is no Triton."""
    exact_bound: Annotated[float, Field(ge=0, le=0.25)] = 0.03
    """The most that other rows in a batch move a score by: one that is as near to a number in a
    policy's rules is asked for once more, alone. A score moves by a quarter of its logits at most,
    and those by 0.12 in bfloat16, at most, where sums depend on the batch (bench/near_ties.py). The
    engine says at its start how much it is there; 0, where it says that a batch moves no logit (a
    CPU), asks for none."""


class Http(Group):
    """Where /metrics, /healthz and /readyz are served."""

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8080


class PolicySettings(Group):
    """Policies and tenants."""

    path: Path | None = None
    """A folder with policies/NAME.yaml, tenants/NAME.yaml and topics/NAME.yaml; without it the
    built-in ones."""
    strict_tenants: bool = False
    """Refuse events of tenants that have no file, instead of giving them the policy `default`."""


class Registry(Group):
    """The schema registry, for topics whose files say `decoder: confluent`."""

    url: str | None = None
    """What stands before /schemas in its REST interface, such as http://registry:8081."""
    username: str | None = None
    password: SecretStr | None = None
    ca_file: Path | None = None
    """The authority that signed its certificate; the system's own where absent."""
    timeout_s: Seconds = 5.0
    """Of one request. A schema is asked for once in a process's life, so that a slow answer costs
    little; records that need it wait, and no others."""
    backoff_s: Seconds = 0.2
    max_backoff_s: Seconds = 5.0
    """How often an absent registry is asked; also how late its return may be noticed."""

    @field_validator("url")
    @classmethod
    def _is_plain(cls, value: str | None) -> str | None:
        if value is not None:
            if not _is_web_address(value):
                raise ValueError(
                    "the address of a registry is http://HOST:PORT, or https://; its port is at "
                    "most 65535"
                )
            if "@" in urlsplit(value).netloc:
                raise ValueError("has a password in it; set REGISTRY__USERNAME and its PASSWORD")
            if "?" in value or "#" in value:
                raise ValueError("paths are put behind it; leave out '?' and '#' and what follows")
        return value


class Consuming(Group):
    """What every service has that consumes and publishes; each sets its own."""

    commit_interval_s: Seconds = 0.5
    commit_records: Annotated[int, Field(ge=1)] = 10_000
    """How often offsets are committed, whichever comes first: what a crash may repeat, beside what
    is in flight."""
    revoke_s: Seconds = 5.0
    """How long a revoke may take: half of it to finish what is published in part, half to commit.
    Under kafka.session_timeout_ms, which is also the group's rebalance timeout."""
    publisher_close_s: Seconds = 5.0
    """How long a producer that failed may take to close before it is abandoned: what it has sent
    may still be acknowledged, and need not be sent again."""
    look_s: Seconds = 30.0
    """How often it is looked whether every partition is read on; two looks make one stuck."""
    hung_s: Seconds = 90.0
    """How long a lane may go without a poll before /healthz says that the process hangs. Over
    kafka.request_timeout_ms, which a broker that is away may take of a poll; aiokafka stops
    counting kafka.max_poll_interval_ms after the first poll that raised (0.14, from its source)."""
    drain_s: Seconds = 20.0
    """How long a stopping service may finish what it has; under the pod's grace period (30 s)."""
    max_event_bytes: Annotated[int, Field(ge=1000)] = topics.MAX_EVENT_BYTES
    """The largest event, chunk, and session. The topics' max.message.bytes must have room for it
    and what we add."""
    tenant_labels: Annotated[int, Field(ge=0)] = 50
    """Tenants without a file that get a metric label of their own; the rest are `other`."""


class Judging(Consuming):
    """What every service has beside, that asks the guard."""

    evidence_sample: Annotated[float, Field(ge=0, le=1)] = 0.01
    """The share of allowed verdicts that are kept with their content, to know the error rate."""
    memory_entries: Annotated[int, Field(ge=0)] = 100_000
    """Assessments kept in the process: about 50 MB."""


class Moderator(Judging):
    """The moderator's own limits."""

    records_in_flight: Annotated[int, Field(ge=1)] = 8000
    """Four full polls. Measured: four give 1.3 times the throughput of one."""
    bytes_in_flight: Annotated[int, Field(ge=1)] = 64 * 1024 * 1024
    """Of the values that are judged at a time, some 16 million tokens; with what is made of them
    some 300 MiB of memory."""
    poll_records: Annotated[int, Field(ge=1)] = 2000
    """Records a poll at most; polls of 500 give half the throughput of 2,000."""
    backlog_records: Annotated[int, Field(ge=1)] = 256
    """Records a poll of the backlog's lane, and judged of it at a time: its share of the guard
    beside the fresh lane, which waits behind so many at most (a fifth of a second at 1,400 rows a
    second on two CPU cores, less on a GPU), and never so few that it starves."""
    uncommitted_records: Annotated[int, Field(ge=1)] = 200_000
    """Delivered and not committed, at most: what lies done behind one slow record is what a crash
    repeats. A minute of a busy partition; its notes take some 30 MB."""
    halt_contents: Annotated[int, Field(ge=2)] = 5
    halt_outcomes: Annotated[int, Field(ge=2)] = 100
    """So many different contents that crashed the guard, or that it never answered, among so many
    rows that it was asked about, halt the fleet: one may be a row's own fault, five are the
    deploy's, and each crash costs half a minute of everybody's time."""


class Streamer(Judging):
    """The streamer's own limits."""

    group_id: str = "qwarden-streamer"
    gap_s: Seconds = 30.0
    """How long a chunk waits for one before it, in the topic's time, before its session ends
    incomplete. Over a producer's own retries (two minutes where nobody set them, but a session that
    stands still for so long helps nobody); it holds the commits of its partition."""
    max_age_s: Seconds = 3600.0
    """How old a session gets, in the topic's time; then what is there is judged. An
    hour is over any exchange with a model, and bounds what is read again at a rebalance. The
    topic's retention must be longer, by the longest outage."""
    sessions_remembered: Annotated[int, Field(ge=0)] = 100_000
    """Sessions of a partition that are over and known as such, so that a late chunk begins none
    anew; some 20 MB."""
    records_in_flight: Annotated[int, Field(ge=1)] = 16_000
    """Chunks at a time, those included that wait for one before them: 1,000 sessions at 50 tokens a
    second give 50,000 a second at one token a chunk, a third of a second of them."""
    bytes_in_flight: Annotated[int, Field(ge=1)] = 64 * 1024 * 1024
    """Of their values."""
    poll_records: Annotated[int, Field(ge=1)] = 2000
    """Records a poll at most; polls of 500 give half the throughput of 2,000."""
    uncommitted_records: Annotated[int, Field(ge=1)] = 400_000
    """Delivered and not committed, at most: what lies done behind one chunk that waits gap_s."""


Share = Annotated[float, Field(ge=0, le=1)]


class Review(Consuming):
    """The review service: its database, and how people work with it."""

    group_id: str = "qwarden-review"
    database_url: SecretStr | None = None
    """`postgresql://USER:PASSWORD@HOST/NAME`, or `sqlite:///FILE` for one process alone."""
    database_ca_file: Path | None = None
    """The authority that signed PostgreSQL's certificate. With any of these three files its
    certificate and name are checked (verify-full)."""
    database_certificate_file: Path | None = None
    database_key_file: Path | None = None
    """Our own certificate, where the server asks for one, and its key, which may stand in it."""
    connections: Annotated[int, Field(ge=2)] = 10
    """To PostgreSQL, at most, for each process: 50 claimers wait for one another less than for the
    two cores that ten transactions keep busy."""
    token: SecretStr | None = None
    """Of a person, for `qwarden review` on a terminal: `qwarden review token add` makes one."""
    public_url: str = "http://127.0.0.1:8080"
    """Where people's browsers reach the service: in sign-in links and in what OpenID Connect
    returns to. With https:// its cookies are for https alone."""
    records_in_flight: Annotated[int, Field(ge=1)] = 4000
    """Eight full polls."""
    bytes_in_flight: Annotated[int, Field(ge=1)] = 64 * 1024 * 1024
    """Of their values."""
    poll_records: Annotated[int, Field(ge=1)] = 500
    """Records a poll at most: one transaction each. A thousand rows take PostgreSQL some 50 ms."""
    uncommitted_records: Annotated[int, Field(ge=1)] = 20_000
    """Delivered and not committed, at most: what a crash has read again: a second of work."""
    keep_days: Annotated[int, Field(ge=1)] = 180
    """The appeal window: how long the ledger keeps verdicts with their content (the EU's Digital
    Services Act gives users at least six months, Art. 20(1))."""
    lease_s: Annotated[float, Field(ge=5)] = 120.0
    """How long an item stays with who claimed it after the last sign of life; the console gives one
    every third of it. Long enough for a laptop's nap, short enough for the next reviewer."""
    held_items: Annotated[int, Field(ge=1)] = 20
    """Items that one person may hold at a time."""
    take_back_s: Annotated[float, Field(ge=0)] = 30.0
    """How long a decision can be taken back, and waits to be published."""
    override_days: Annotated[int, Field(ge=1)] = 30
    """How long a decision holds for equal content of the tenant, where a person has said so."""
    bulk_items: Annotated[int, Field(ge=1)] = 1000
    """Decisions that a lead makes at once, at most, one for each escalation of an item: what can be
    looked over before it is published."""
    urgent_sla_s: Annotated[float, Field(gt=0)] = 900.0
    """Of the urgent queue: a threat to life waits a quarter of an hour at most."""
    appeal_sla_s: Annotated[float, Field(gt=0)] = 7 * 86_400.0
    quality_sla_s: Annotated[float, Field(gt=0)] = 7 * 86_400.0
    """Of disagreements and samples: behind what users wait for. A second review has the SLA of its
    first one, or it would not look like one."""
    golden_share: Share = 0.02
    """Of claims that get an item whose answer is known."""
    second_share: Share = 0.05
    """Of decisions that a second person makes again without knowing the first."""
    sample_share: Share = 0.1
    """Of the ledger's automatic allowed and blocked verdicts that a person looks at: with
    evidence_sample at 1 %, one allowed verdict of a thousand."""
    samples_open: Annotated[int, Field(ge=0)] = 500
    """Samples that may wait at a time; more would push people's real work aside."""
    session_s: Annotated[float, Field(gt=0)] = 12 * 3600.0
    """How long a person stays signed in: a working day."""
    link_s: Annotated[float, Field(gt=0)] = 3600.0
    """How long a sign-in link is good for, once."""
    requests_a_minute: Annotated[int, Field(ge=1)] = 600
    """Of one person or tool; a reviewer by keyboard stays under 120. A tool gets ten times that."""
    sign_ins_a_minute: Annotated[int, Field(ge=1)] = 20
    """From one address: nobody guesses a token of 256 bits, and nobody keeps us busy with it."""
    redress: str = (
        "You can complain to us free of charge within six months, have a certified out-of-court "
        "body settle the dispute, or go to court."
    )
    """How a user can have a restriction looked at again, as statements of reasons say it."""

    @field_validator("database_url")
    @classmethod
    def _is_known(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not value.get_secret_value().startswith(
            ("postgresql://", "sqlite:///")
        ):
            raise ValueError("the database's address begins with postgresql:// or sqlite:///")
        return value

    @property
    def database_certificates(self) -> Certificates:
        return Certificates(
            f"{PREFIX}REVIEW__DATABASE_",
            self.database_ca_file,
            self.database_certificate_file,
            self.database_key_file,
        )


class Oidc(Group):
    """OpenID Connect, for production. Without an issuer people sign in with links."""

    issuer: str
    """What stands before /.well-known/openid-configuration."""
    client_id: str
    client_secret: SecretStr
    audience: str | None = None
    """Of access tokens that programs send as Bearer; without it only tokens of our own are taken
    there."""
    scopes: str = "openid profile"
    roles_claim: str = "roles"
    tenants_claim: str | None = None
    languages_claim: str | None = None
    """Where a claim is not named, `qwarden review user change` says what a person has."""
    roles: dict[str, Literal["reviewer", "lead", "auditor", "admin"]] = {}
    """From the claim's words to our roles; empty: they are ours."""
    session_s: Annotated[float, Field(gt=0)] = 3600.0
    """How long until claims are read anew, by signing in again: how late a removed role is seen."""
    timeout_s: Seconds = 5.0
    """Of a request to the issuer: a person waits for it between two pages."""


class Telemetry(Group):
    """Logs and traces."""

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    otlp_endpoint: str | None = None
    """Where sampled traces go (OTLP over HTTP); without it context is carried and none made."""
    trace_ratio: Annotated[float, Field(ge=0, le=1)] = 0.01
    """Of the records that come without a trace so many begin one; those with one are traced where
    their producer's trace is."""
    group_look_s: Annotated[float, Field(ge=0.1)] = 15.0
    """How often each process asks a broker how its whole groups stand: as often as Prometheus
    comes by. It reads one record of each partition that lags and whose commit has moved."""


class Stack(Group):
    """The local stack."""

    home: Path | None = None
    """Its folder, `.qwarden/` of the checkout by default; another one runs a second stack."""


class Settings(BaseSettings):
    """Everything that a service can be told."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_nested_delimiter="__", extra="forbid", frozen=True
    )

    content_key: SecretStr
    """At least 32 bytes, as hexadecimal digits: `openssl rand -hex 32`. All services of a fleet
    need the same one; a new one makes the caches cold and the content hashes new."""
    kafka: Kafka = Kafka()
    redis: Redis = Redis()
    triton: Triton = Triton()
    guard: Guard = Guard()
    engine: EngineSettings | None = None
    http: Http = Http()
    policy: PolicySettings = PolicySettings()
    registry: Registry = Registry()
    moderator: Moderator = Moderator()
    stream: StreamSettings | None = None
    stream_guard: StreamGuard = StreamGuard()
    streamer: Streamer = Streamer()
    review: Review = Review()
    oidc: Oidc | None = None
    telemetry: Telemetry = Telemetry()
    stack: Stack = Stack()

    @field_validator("content_key")
    @classmethod
    def _usable(cls, value: SecretStr) -> SecretStr:
        try:
            ContentKey(bytes.fromhex(value.get_secret_value()))
        except ValueError as error:
            raise ValueError(
                f"not a content key ({error}); openssl rand -hex 32 makes one"
            ) from None
        return value

    @model_validator(mode="after")
    def _connects(self) -> Settings:
        """What is said of connections that could not be made with it, or that nobody would read."""
        faults = [_certificates_fault(certificates, fix) for certificates, fix in self._uses]
        for fault in (self._sasl_fault(), *faults):
            if fault is not None:
                raise ValueError(fault)
        url = self.review.database_url.get_secret_value() if self.review.database_url else ""
        named = sorted(name for name in parse_qs(urlsplit(url).query) if name in _TLS_OF_POSTGRESQL)
        if named and self.review.database_certificates.named:
            raise ValueError(
                f"QWARDEN_REVIEW__DATABASE_URL: has {named[0]} in it, and "
                f"{next(iter(self.review.database_certificates.named))} is set too, which means "
                "verify-full; leave one of them out"
            )
        return self

    @property
    def certificates(self) -> tuple[Certificates, ...]:
        """Of each dependency that may have any."""
        return tuple(certificates for certificates, _ in self._uses)

    @property
    def _uses(self) -> tuple[tuple[Certificates, str | None], ...]:
        """Each dependency's certificates, and what to change so that they are used at all, None
        where they are."""
        redis = self.redis.url.get_secret_value() if self.redis.url else ""
        database = self.review.database_url.get_secret_value() if self.review.database_url else ""
        return (
            (
                self.kafka.certificates,
                None if self.kafka.is_encrypted
                else "set QWARDEN_KAFKA__SECURITY_PROTOCOL to SSL or SASL_SSL",
            ),
            (
                self.redis.certificates,
                None if redis.startswith("rediss") else "begin QWARDEN_REDIS__URL with rediss",
            ),
            (
                self.triton.certificates,
                None if self.triton.tls else "set QWARDEN_TRITON__TLS to true",
            ),
            (
                self.review.database_certificates,
                None if database.startswith("postgresql://")
                else "begin QWARDEN_REVIEW__DATABASE_URL with postgresql://",
            ),
        )  # fmt: skip

    def _sasl_fault(self) -> str | None:
        kafka = self.kafka
        login = {"SASL_USERNAME": kafka.sasl_username, "SASL_PASSWORD": kafka.sasl_password}
        oauth = {
            "OAUTH_TOKEN_URL": kafka.oauth_token_url,
            "OAUTH_CLIENT_ID": kafka.oauth_client_id,
            "OAUTH_CLIENT_SECRET": kafka.oauth_client_secret,
        }
        is_oauth = kafka.sasl_mechanism == "OAUTHBEARER"
        wanted = (oauth if is_oauth else login) if kafka.has_sasl else {}
        for name, value in wanted.items():
            if value is None:
                return (
                    f"QWARDEN_KAFKA__{name}: is not set, and "
                    f"QWARDEN_KAFKA__SECURITY_PROTOCOL is {kafka.security_protocol} with "
                    f"{kafka.sasl_mechanism}; set it"
                )
        for name, value in {**login, **oauth, "OAUTH_SCOPE": kafka.oauth_scope}.items():
            if value is None or name in wanted or (name == "OAUTH_SCOPE" and oauth is wanted):
                continue
            if not kafka.has_sasl:
                return (
                    f"QWARDEN_KAFKA__{name}: is set, and QWARDEN_KAFKA__SECURITY_PROTOCOL is "
                    f"{kafka.security_protocol}, which sends none; make that SASL_SSL, or leave "
                    "it out"
                )
            return (
                f"QWARDEN_KAFKA__{name}: is set, and QWARDEN_KAFKA__SASL_MECHANISM is "
                f"{kafka.sasl_mechanism}, which does not use it; leave it out, or make that "
                f"{'SCRAM-SHA-512' if is_oauth else 'OAUTHBEARER'}"
            )
        return None

    @model_validator(mode="after")
    def _fits(self) -> Settings:
        """Timeouts that stand in each other's way."""
        session_s = self.kafka.session_timeout_ms / 1000
        for name, service in self._services:
            if service.revoke_s >= session_s:
                raise ValueError(
                    f"QWARDEN_{name}__REVOKE_S: {service.revoke_s:g} s must be under "
                    f"QWARDEN_KAFKA__SESSION_TIMEOUT_MS ({session_s:g} s), or the group goes on "
                    f"without a {name.lower()} that is still letting go"
                )
        if self.streamer.gap_s >= self.streamer.max_age_s:
            raise ValueError(
                f"QWARDEN_STREAMER__GAP_S: {self.streamer.gap_s:g} s must be under "
                f"QWARDEN_STREAMER__MAX_AGE_S ({self.streamer.max_age_s:g} s), or no session gets "
                "old"
            )
        if self.moderator.halt_outcomes < self.moderator.halt_contents:
            raise ValueError(
                f"QWARDEN_MODERATOR__HALT_OUTCOMES: {self.moderator.halt_outcomes} must be at "
                f"least QWARDEN_MODERATOR__HALT_CONTENTS ({self.moderator.halt_contents}), or "
                "nothing ever halts"
            )
        request_s = self.kafka.request_timeout_ms / 1000
        for name, service in self._services:
            if service.hung_s <= request_s:
                raise ValueError(
                    f"QWARDEN_{name}__HUNG_S: {service.hung_s:g} s must be over "
                    f"QWARDEN_KAFKA__REQUEST_TIMEOUT_MS ({request_s:g} s), or a broker that is "
                    f"away looks like a {name.lower()} that hangs"
                )
        return self

    @property
    def _services(self) -> tuple[tuple[str, Consuming], ...]:
        return (
            ("MODERATOR", self.moderator),
            ("STREAMER", self.streamer),
            ("REVIEW", self.review),
        )

    @property
    def stream_urls(self) -> tuple[str, ...]:
        """Where the stream guard is: names, each host:port."""
        return self.stream_guard.names or (self.triton.url,)

    def keys(self) -> ContentKey:
        return ContentKey(bytes.fromhex(self.content_key.get_secret_value()))


def load(environ: Mapping[str, str] | None = None) -> Settings:
    """The settings that an environment gives, by default this process's.

    Raises `SettingsError` with a line for each fault.
    """
    env = os.environ if environ is None else environ
    errors = [
        f"{name}: unknown setting; its group must be one of {', '.join(Settings.model_fields)}"
        for name in sorted(env)
        if name.startswith(PREFIX) and _group(name) not in Settings.model_fields
    ]
    try:
        loaded = _from(env)
    except ValidationError as error:
        errors += [_sentence(each) for each in error.errors()]
        raise SettingsError("\n".join(errors)) from None
    if errors:
        raise SettingsError("\n".join(errors))
    return loaded


def _from(environ: Mapping[str, str]) -> Settings:
    source = EnvSettingsSource(Settings)
    source.env_vars = {name.lower(): value for name, value in environ.items()}
    return Settings.model_validate(source())


def _is_web_address(text: str) -> bool:
    """Whether the client that will call it takes it."""
    import httpx  # takes longer than all else to import

    try:
        parts = urlsplit(text)
        host = httpx.URL(text).host
        return parts.scheme in ("http", "https") and bool(host) and parts.port != 0
    except (ValueError, httpx.InvalidURL):
        return False


_TLS_OF_POSTGRESQL = {"sslmode", "sslrootcert", "sslcert", "sslkey"}


def _certificates_fault(certificates: Certificates, fix: str | None) -> str | None:
    """What is wrong with these files beside the other settings; `fix`: see `Settings._uses`."""
    named = certificates.named
    if named and fix is not None:
        return (
            f"{next(iter(named))}: is set, and nothing is encrypted there; {fix}, or leave it out"
        )
    if certificates.key_file is not None and certificates.certificate_file is None:
        own = f"{certificates.setting}CERTIFICATE_FILE"
        return f"{certificates.setting}KEY_FILE: is set without its certificate; set {own}"
    return None


def _group(name: str) -> str:
    return name.removeprefix(PREFIX).split("__")[0].lower()


def _sentence(error: Any) -> str:
    if not error["loc"]:  # of several settings together, which it names itself
        return str(error["msg"]).removeprefix("Value error, ")
    name = PREFIX + "__".join(str(part) for part in error["loc"]).upper()
    if error["type"] == "extra_forbidden":
        return f"{name}: unknown setting; remove it or correct its name"
    if error["type"] == "missing":
        hint = "; make one with: openssl rand -hex 32" if name == "QWARDEN_CONTENT_KEY" else ""
        return f"{name}: is not set and has no default{hint}"
    return f"{name}: {error['msg'].removeprefix('Value error, ')}"


def shown(settings: Settings) -> dict[str, Any]:
    """The settings for people's eyes: secrets hidden, also one inside an address."""
    plain = settings.model_dump(mode="json")
    if settings.redis.url is not None:
        plain["redis"]["url"] = _without_password(settings.redis.url.get_secret_value())
    return plain


def _without_password(url: str) -> str:
    # A query may hold a password too.
    scheme, _, rest = url.partition("?")[0].partition("://")
    credentials, at, host = rest.rpartition("@")
    return f"{scheme}://{'**********@' if at and credentials else ''}{host}"
