"""What all services must know within seconds: the records of `moderation.control`.

A record is keyed by its kind, tenant and subject; a null value withdraws what stands under the key.
The topic is compacted, so a superseded record may be gone and offsets have holes. A reader keeps
what it does not know by its key and ignores it, so that an older service outlives a new kind.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Generic, Literal, NamedTuple, TypeVar

import msgspec

from qwarden.contracts.decision import ACTIONS
from qwarden.contracts.headers import CLI, MODERATOR, REVIEW_SERVICE, Header, cloud_event
from qwarden.contracts.values import Instant, one_of
from qwarden.contracts.verdict import Category, encode

HALT, LOSS_ACCEPTED = "halt", "loss_accepted"
POLICY, IN_FORCE, FREEZE = "policy", "in_force", "freeze"
OVERRIDE = "override"
"""The kinds that this version knows."""

ALL_TENANTS = "*"
"""Stands for every tenant where a record names one: policies are everybody's, a freeze may be."""


class Key(NamedTuple):
    """What a record is about. `tenant` and `subject` are empty where the kind has none."""

    kind: str
    tenant: str = ""
    subject: str = ""

    def encode(self) -> bytes:
        """The key's one canonical form, a JSON array without spaces: compaction compares bytes."""
        return msgspec.json.encode(tuple(self))


def decode_key(data: bytes | None) -> Key | None:
    """The key of a record, or None for bytes that no `Key.encode` gives."""
    try:
        key = Key(*msgspec.json.decode(data or b"", type=tuple[str, str, str]))
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    return key if key.encode() == data else None


class Halt(msgspec.Struct, frozen=True, kw_only=True):
    """The whole fleet stops judging until a person withdraws this."""

    schema_version: Literal[1] = 1
    reason: str
    """A sentence with the figures."""
    at: Instant
    """When it was decided."""
    by: str
    """Which consumer decided it."""

    def key(self) -> Key:
        return Key(HALT)


class LossAccepted(msgspec.Struct, frozen=True, kw_only=True):
    """A person has seen that records of a partition are lost; its reader goes on behind them."""

    schema_version: Literal[1] = 1
    topic: str
    partition: int
    group: str
    """Whose committed offset is out of range."""
    committed: int
    """That offset. The acceptance is of this one loss: another offset is another loss."""
    resume_at: int
    """Where to go on: the first record that is there."""
    at: Instant
    by: str
    """Who accepted it."""

    def key(self) -> Key:
        return loss_key(self.topic, self.partition, self.group)


class PolicyBody(msgspec.Struct, frozen=True, kw_only=True):
    """A policy with all that it extends in it. It acts only where `InForce` says so."""

    schema_version: Literal[1] = 1
    policy: str
    """Its name."""
    version: str
    """12 hexadecimal digits of the hash of its body: what verdicts call its version, except under
    a freeze."""
    body: dict[str, Any]
    """As `policies/NAME.yaml`, in canonical form: without defaults, cases and `extends`."""
    at: Instant
    by: str
    """Who activated it."""

    def key(self) -> Key:
        return body_key(self.policy, self.version)


class InForce(msgspec.Struct, frozen=True, kw_only=True):
    """Which version of a policy acts, for every tenant that may use it."""

    schema_version: Literal[1] = 1
    policy: str
    version: str | None
    """Of its body. Null: each service's own file acts again. That is a record and no null value,
    which compaction would remove in the end, and with it the serial that verdicts carry."""
    previous: str | None
    """The version to go back to; null for the file."""
    at: Instant
    by: str
    """Who decided it."""
    declared: str | None = None
    """The version that a release last asked for (`qwarden policy activate --if-changed`), whatever
    people have activated or taken back since; null where none has asked."""

    def key(self) -> Key:
        return in_force_key(self.policy)


class Freeze(msgspec.Struct, frozen=True, kw_only=True):
    """Nothing automatic ends in `block`: people look at what would. One that is lifted says so, and
    stays for its offset."""

    schema_version: Literal[1] = 1
    tenant: str
    """Whose content; `*` for every tenant's, whatever else is said of one."""
    frozen: bool
    """False: it is lifted."""
    reason: str
    at: Instant
    by: str
    """Who decided it."""

    def key(self) -> Key:
        return freeze_key(self.tenant)


class Override(msgspec.Struct, frozen=True, kw_only=True):
    """What a person decided of content holds for the tenant's next event with the same one, until
    the review service withdraws this with a null value, at its end or when it is taken back."""

    schema_version: Literal[1] = 1
    tenant: str
    content_hash: str
    """As in verdicts: keyed, of conversation and task, hexadecimal."""
    action: Annotated[str, one_of(*ACTIONS)]
    categories: list[Category]
    ground: Annotated[str, one_of("law", "terms")] | None
    clause: str | None
    decision_id: str
    """The decision that set it."""
    until: Instant
    """Its end, which the review service keeps; a reader looks at no clock."""
    at: Instant
    by: str
    """The reviewer's pseudonym."""

    def key(self) -> Key:
        return override_key(self.tenant, self.content_hash)


Record = Halt | LossAccepted | PolicyBody | InForce | Freeze | Override

R = TypeVar("R", bound=msgspec.Struct)


@dataclass(frozen=True, slots=True)
class Stands(Generic[R]):
    """A record that stands on the topic; None for one that cannot be read. `offset`: its own."""

    record: R | None
    offset: int


@dataclass(frozen=True, slots=True)
class Policies:
    """What the topic says of policies, by key. `in_force` and `freezes` with where each stands."""

    bodies: Mapping[Key, PolicyBody]
    in_force: Mapping[Key, Stands[InForce]]
    freezes: Mapping[Key, Stands[Freeze]]


def body_key(policy: str, version: str) -> Key:
    """The key of a policy's body. A policy's name has no slash."""
    return Key(POLICY, ALL_TENANTS, f"{policy}/{version}")


def in_force_key(policy: str) -> Key:
    """The key of what says which version of a policy acts."""
    return Key(IN_FORCE, ALL_TENANTS, policy)


def freeze_key(tenant: str) -> Key:
    """The key of a tenant's freeze, or of everybody's."""
    return Key(FREEZE, tenant)


def override_key(tenant: str, content_hash: str) -> Key:
    """The key of what holds for a tenant's content."""
    return Key(OVERRIDE, tenant, content_hash)


def loss_key(topic: str, partition: int, group: str) -> Key:
    """The key of a loss. A topic's name has no slash, so no two losses share one."""
    return Key(LOSS_ACCEPTED, subject=f"{topic}/{partition}/{group}")


_WRITERS = {HALT: MODERATOR, OVERRIDE: REVIEW_SERVICE}


class Written(NamedTuple):
    """A record as it is written; a null `value` withdraws."""

    key: bytes
    value: bytes | None
    headers: list[Header]


def written(record: Record) -> Written:
    """The message that puts a record in force."""
    key = record.key()
    about = cloud_event(
        key.kind.replace("_", "-"),
        "/".join((*key, record.by, record.at.isoformat())),
        by=_WRITERS.get(key.kind, CLI),
    )
    return Written(key.encode(), encode(record), about)


def withdrawn(key: Key) -> Written:
    """The message that withdraws what stands under a key. Its headers say nothing: a null value
    has no identity of its own, and compaction removes it in the end."""
    return Written(key.encode(), None, [])
