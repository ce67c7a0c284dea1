"""One contract for every control table: in this process, and on Kafka."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import TypeVar

import msgspec
import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaConnectionError

import fleet
from qwarden.contracts.control import (
    ALL_TENANTS,
    HALT,
    Freeze,
    Halt,
    InForce,
    Key,
    LossAccepted,
    Override,
    PolicyBody,
    Stands,
    body_key,
    decode_key,
    freeze_key,
    in_force_key,
    loss_key,
    override_key,
    withdrawn,
    written,
)
from qwarden.contracts.verdict import Action
from qwarden.control.kafka import KafkaControl
from qwarden.control.memory import MemoryControl, MemoryTopic
from qwarden.control.overrides import Overridden
from qwarden.control.port import Control, ControlUnusable
from qwarden.control.table import Table
from qwarden.settings import Kafka as KafkaSettings
from qwarden.stack.home import Home
from qwarden.stack.kafka import Kafka

pytestmark = pytest.mark.parts

R = TypeVar("R", bound=msgspec.Struct)

AT = datetime(2026, 3, 1, 12, tzinfo=UTC)
HALTED = Halt(reason="five contents crashed the guard", at=AT, by="group@host")
HALT_KEY = HALTED.key()


def loss(partition: int = 1, committed: int = 2) -> LossAccepted:
    return LossAccepted(
        topic="content.events", partition=partition, group="g", committed=committed, resume_at=10,
        at=AT, by="ann@host",
    )  # fmt: skip


BODY = PolicyBody(
    policy="forum", version="0123456789ab", body={"name": "forum", "rules": [{"name": "all"}]},
    at=AT, by="ann@host",
)  # fmt: skip


def in_force(version: str | None, previous: str | None = None) -> InForce:
    return InForce(policy="forum", version=version, previous=previous, at=AT, by="ann@host")


def freeze(tenant: str, frozen: bool = True) -> Freeze:
    return Freeze(tenant=tenant, frozen=frozen, reason="too many blocks", at=AT, by="ann@host")


HASH = "7186874a622f091c099e8e9307dc846d"
OVERRIDE_KEY = override_key("demo", HASH)


def override(action: str = "allow", tenant: str = "demo", content_hash: str = HASH) -> Override:
    restricts = action != "allow"
    return Override(
        tenant=tenant, content_hash=content_hash, action=action, categories=[],
        ground="terms" if restricts else None, clause="tone" if restricts else None,
        decision_id=f"{action}-{tenant}".encode().hex(), until=AT, at=AT, by="r-7",
    )  # fmt: skip


def overridden(action: Action, tenant: str = "demo") -> Overridden:
    said = override(action, tenant)
    return Overridden(action, said.ground, said.clause, said.decision_id)


@dataclass
class Topic:
    """A control topic of a test's own: tables over it, and what others write to it."""

    open: Callable[[], Control]
    append: Callable[[bytes | None, bytes | None], Awaitable[None]]
    opened: list[Control] = field(default_factory=list)

    async def table(self) -> Control:
        control = self.open()
        self.opened.append(control)
        await control.start()
        return control


async def make_topic(bootstrap: str, partitions: int = 1) -> str:
    name = f"control-{uuid.uuid4().hex[:8]}"
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    compacted = {"cleanup.policy": "compact"}
    try:
        await admin.create_topics([NewTopic(name, partitions, 1, topic_configs=compacted)])
    finally:
        await admin.close()
    return name


def settings_of(kafka: Kafka) -> KafkaSettings:
    return KafkaSettings(bootstrap_servers=kafka.bootstrap, request_timeout_ms=5000)


@pytest.fixture(params=["memory", "kafka"])
async def topic(request: pytest.FixtureRequest) -> AsyncIterator[Topic]:
    if request.param == "memory":
        shared = MemoryTopic()

        async def put(key: bytes | None, value: bytes | None) -> None:
            shared.append(key, value)

        made = Topic(lambda: MemoryControl(shared), put)
    else:
        kafka = request.getfixturevalue("kafka")
        name = await make_topic(kafka.bootstrap)

        async def send(key: bytes | None, value: bytes | None) -> None:
            await fleet.publish(kafka.bootstrap, name, [(key, value)])

        made = Topic(lambda: KafkaControl(settings_of(kafka), topic=name), send)
    yield made
    for control in made.opened:
        await control.close()


async def comes(what: str, *checks: Callable[[], bool]) -> None:
    async def all_hold() -> bool:
        return all(check() for check in checks)

    await fleet.until(all_hold, what, within_s=20)


async def test_a_halt_does_not_reach_a_moderator_that_runs(topic: Topic) -> None:
    one, other = await topic.table(), await topic.table()
    assert not one.halts()
    await one.write(HALTED)
    await comes(
        "the halt", *(lambda c=c: c.halts() == {HALT_KEY: HALTED} for c in (one, other))
    )  # fmt: skip


async def test_a_moderator_that_starts_later_judges_on_in_a_halt(topic: Topic) -> None:
    await (await topic.table()).write(HALTED)
    later = await topic.table()
    assert later.halts() == {HALT_KEY: HALTED}


async def test_a_withdrawn_halt_stays_in_force(topic: Topic) -> None:
    one, other = await topic.table(), await topic.table()
    await one.write(HALTED)
    await comes("the halt", lambda: bool(other.halts()))
    await other.withdraw(HALT_KEY)
    await comes("its withdrawal", lambda: not one.halts(), lambda: not other.halts())
    assert not (await topic.table()).halts()


async def test_an_old_record_stands_beside_the_one_that_replaced_it(topic: Topic) -> None:
    again = msgspec.structs.replace(HALTED, reason="again")
    one = await topic.table()
    for record in (HALTED, loss(committed=2), again, loss(committed=7)):
        await one.write(record)
    later = await topic.table()
    assert later.halts() == {HALT_KEY: again}
    assert later.accepted_losses() == {loss().key(): loss(committed=7)}


async def test_losses_of_two_partitions_replace_each_other(topic: Topic) -> None:
    one = await topic.table()
    await one.write(loss(1))
    await one.write(loss(2))
    await comes("both losses", lambda: len(one.accepted_losses()) == 2)
    assert one.accepted_losses()[loss_key("content.events", 2, "g")] == loss(2)
    assert loss_key("content.events", 2, "g/3") != loss_key("content.events", 2, "g")


async def test_nobody_is_told_of_a_change(topic: Topic) -> None:
    one = await topic.table()
    told: list[bool] = []
    one.on_change(lambda: told.append(bool(one.halts())))
    await one.write(HALTED)
    await comes("the halt is told", lambda: told == [True])
    await one.write(HALTED)
    await one.withdraw(HALT_KEY)
    await comes("the withdrawal is told, and no change that is none", lambda: told == [True, False])


async def test_what_stood_there_at_the_start_is_told_to_nobody(topic: Topic) -> None:
    await (await topic.table()).write(HALTED)
    later = topic.open()
    topic.opened.append(later)
    told: list[int] = []
    later.on_change(lambda: told.append(len(later.halts())))
    await later.start()
    assert told == [1]


async def test_who_has_written_reads_on_without_it(topic: Topic) -> None:
    one = await topic.table()
    await one.write(HALTED)
    assert one.halts() == {HALT_KEY: HALTED}
    await one.withdraw(HALT_KEY)
    assert not one.halts()


async def test_a_halt_that_is_void_is_written_all_the_same(topic: Topic) -> None:
    one = await topic.table()
    await one.write(HALTED, unless=lambda: True)
    await one.write(loss())
    assert one.accepted_losses()
    assert not one.halts()


async def test_a_resume_is_passed_over_whose_halt_was_never_seen(topic: Topic) -> None:
    """The two can come in one poll, and the halt may be compacted away before."""
    one = await topic.table()
    assert one.resumed_at() is None
    told: list[int | None] = []
    one.on_change(lambda: told.append(one.resumed_at()))
    for _ in range(2):
        await topic.append(HALT_KEY.encode(), None)
    await comes("both resumes", lambda: one.resumed_at() == 1)
    assert told[-1] == 1
    assert (await topic.table()).resumed_at() == 1


UNREADABLE = [b"", b"{", b"[]", b"\xff\xfe", b'{"schema_version": 2, "reason": 1}', b"{}"]


@pytest.mark.parametrize("value", UNREADABLE)
async def test_a_halt_whose_body_cannot_be_read_halts_nobody(
    topic: Topic, value: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    await topic.append(HALT_KEY.encode(), value)
    one = await topic.table()
    assert "cannot be read" in one.halts()[HALT_KEY].reason
    said = [r for r in caplog.records if "cannot be read" in r.getMessage()]
    assert len(said) == 1
    await one.withdraw(HALT_KEY)
    await comes("its withdrawal", lambda: not one.halts())


async def test_an_activated_policy_does_not_reach_a_service_that_runs(topic: Topic) -> None:
    one, other = await topic.table(), await topic.table()
    await one.write(BODY)
    await one.write(in_force(BODY.version))
    key = in_force_key("forum")
    await comes("the pointer", lambda: key in other.policies().in_force)
    for control in (one, other, await topic.table()):
        assert control.policies().bodies == {body_key("forum", BODY.version): BODY}
        assert control.policies().in_force == {key: Stands(in_force(BODY.version), 1)}


async def test_a_rollback_to_the_file_takes_its_serial_with_it(topic: Topic) -> None:
    """Null means the file again, and is a record: a service that starts knows its offset."""
    one = await topic.table()
    for record in (BODY, in_force(BODY.version), in_force(None)):
        await one.write(record)
    assert one.policies().in_force == {in_force_key("forum"): Stands(in_force(None), 2)}
    assert (await topic.table()).policies().in_force == one.policies().in_force


async def test_a_lifted_freeze_takes_its_serial_with_it(topic: Topic) -> None:
    one = await topic.table()
    for record in (freeze("demo"), freeze(ALL_TENANTS), freeze("demo", False)):
        await one.write(record)
    stand = {
        freeze_key("demo"): Stands(freeze("demo", False), 2),
        freeze_key(ALL_TENANTS): Stands(freeze(ALL_TENANTS), 1),
    }
    assert one.policies().freezes == stand
    assert (await topic.table()).policies().freezes == stand


async def test_a_freeze_is_told_to_nobody(topic: Topic) -> None:
    one = await topic.table()
    told: list[int] = []
    one.on_change(lambda: told.append(len(one.policies().freezes)))
    await one.write(freeze("demo"))
    await comes("the freeze is told", lambda: told == [1])
    await one.write(freeze("demo"))
    await comes("its offset is told: it is a part of each verdict", lambda: told == [1, 1])


async def test_a_freeze_whose_body_cannot_be_read_lets_blocks_through(
    topic: Topic, caplog: pytest.LogCaptureFixture
) -> None:
    """As also one that says of itself that it is another tenant's."""
    key = freeze_key("demo")
    one = await topic.table()
    for offset, value in enumerate([*UNREADABLE, msgspec.json.encode(freeze("other", False))]):
        await topic.append(key.encode(), value)
        await comes("it", partial(_stands_at, one.policies().freezes, key, offset))
        stands = one.policies().freezes[key].record
        assert stands is not None
        assert stands.frozen
        assert stands.tenant == "demo"
    said = [r for r in caplog.records if "it is in force" in r.getMessage()]
    assert len(said) == len(UNREADABLE) + 1
    await one.write(freeze("demo", False))
    stands = one.policies().freezes[key].record
    assert stands is not None
    assert not stands.frozen


async def test_a_pointer_that_cannot_be_read_is_taken_for_none(topic: Topic) -> None:
    """It is one all the same: what acted before acts on, and it has an offset."""
    one, key = await topic.table(), in_force_key("forum")
    await one.write(in_force(None))
    for offset, value in enumerate([*UNREADABLE, msgspec.json.encode(BODY)], start=1):
        await topic.append(key.encode(), value)
        await comes("it", partial(_stands_at, one.policies().in_force, key, offset))
        assert one.policies().in_force[key].record is None


async def test_a_body_that_cannot_be_read_stands_for_the_one_before(topic: Topic) -> None:
    one, key = await topic.table(), body_key("forum", BODY.version)
    await one.write(BODY)
    await topic.append(key.encode(), b'{"schema_version": 1}')
    await comes("it", lambda: key not in one.policies().bodies)


def _stands_at(stands: Mapping[Key, Stands[R]], key: Key, offset: int) -> bool:
    return key in stands and stands[key].offset == offset


async def test_an_override_does_not_reach_a_service_that_runs(topic: Topic) -> None:
    one, other = await topic.table(), await topic.table()
    await one.write(override("block"))
    blocked = overridden(Action.BLOCK)
    await comes("the override", lambda: other.override_of("demo", HASH) == blocked)
    assert (await topic.table()).override_of("demo", HASH) == blocked
    await one.write(override("disclaim"))
    disclaimed = overridden(Action.DISCLAIM)
    await comes("the next one", lambda: other.override_of("demo", HASH) == disclaimed)
    assert (await topic.table()).override_of("demo", HASH) == disclaimed


async def test_a_withdrawn_override_stays_in_force(topic: Topic) -> None:
    one, other = await topic.table(), await topic.table()
    await one.write(override())
    await comes("the override", lambda: other.override_of("demo", HASH) is not None)
    await one.withdraw(OVERRIDE_KEY)
    await comes("its end", lambda: other.override_of("demo", HASH) is None)
    assert one.override_of("demo", HASH) is None
    assert (await topic.table()).override_of("demo", HASH) is None


async def test_an_override_acts_for_another_tenant_or_content(topic: Topic) -> None:
    one = await topic.table()
    await one.write(override("block"))
    await one.write(override("allow", "forum"))
    assert one.override_of("demo", HASH) == overridden(Action.BLOCK)
    assert one.override_of("forum", HASH) == overridden(Action.ALLOW, "forum")
    other = HASH[::-1]
    for tenant, content_hash in (
        ("dem", HASH), ("demo7", HASH), ("", HASH), ("demo", other), ("demo", HASH.upper()),
        ("demo", HASH[:-2]), ("demo", ""), ("demo", "no hash"),
    ):  # fmt: skip
        assert one.override_of(tenant, content_hash) is None


async def test_an_override_has_every_policy_read_again(topic: Topic) -> None:
    """A million of them would, one after the other."""
    one = await topic.table()
    told: list[int] = []
    one.on_change(lambda: told.append(len(one.halts())))
    await one.write(override("block"))
    await one.write(override("allow"))
    await one.withdraw(OVERRIDE_KEY)
    await one.write(HALTED)
    await comes("the halt alone is told", lambda: told == [1])
    await topic.append(override_key("demo", HASH).encode(), b"unreadable")
    await one.withdraw(HALT_KEY)
    await comes("its withdrawal alone", lambda: told == [1, 0])


async def test_content_is_allowed_by_an_override_that_cannot_be_read(
    topic: Topic, caplog: pytest.LogCaptureFixture
) -> None:
    """Nor by the one before it. It is named by its key, once, and what it says is not."""
    one = await topic.table()
    shadow = msgspec.json.encode(override("shadow"))
    values = [*UNREADABLE, shadow, msgspec.json.encode(override("allow", "forum"))]
    for value in values:
        await one.write(override("allow"))
        assert one.override_of("demo", HASH) is not None
        await topic.append(OVERRIDE_KEY.encode(), value)
        await comes("it", lambda: one.override_of("demo", HASH) is None)
    said = [r.getMessage() for r in caplog.records if "the guard judges" in r.getMessage()]
    assert len(said) == len(values)
    assert all("the override under" in each and HASH in each for each in said)
    assert (await topic.table()).override_of("demo", HASH) is None


async def test_a_record_that_cannot_be_read_ends_the_table(
    topic: Topic, caplog: pytest.LogCaptureFixture
) -> None:
    one = await topic.table()
    for key in (b"halt", b'["halt", "", ""]', b'["halt","",""', b'["halt",""]', b'["halt","",1]'):
        await topic.append(key, b"{}")
    for value in (b"{}", b"\xff", msgspec.json.encode(loss(2))):
        await topic.append(loss(1).key().encode(), value)
    await one.write(HALTED)
    await comes("what was written behind them", lambda: bool(one.halts()))
    assert not one.accepted_losses()
    assert len([r for r in caplog.records if "its key" in r.getMessage()]) == 5
    assert len([r for r in caplog.records if "accepted loss" in r.getMessage()]) == 3
    assert (await topic.table()).halts() == {HALT_KEY: HALTED}


async def test_an_unknown_kind_ends_an_older_service(
    topic: Topic, caplog: pytest.LogCaptureFixture
) -> None:
    one = await topic.table()
    unknown = Key("quarantine", "forum", "strict").encode()
    await topic.append(unknown, b"\xff not of this version")
    await one.write(HALTED)
    await comes("the halt", lambda: one.halts() == {HALT_KEY: HALTED})
    assert not one.accepted_losses()
    assert not caplog.records


def test_an_unknown_kind_is_not_kept_by_its_key() -> None:
    table, key = Table(), Key("quarantine", "forum", "strict")
    for offset, value in enumerate((b"1", b"\xff 2")):
        assert not table.apply(key.encode(), value, offset)
        assert table.others == {key: value}
    assert not table.apply(key.encode(), None, 2)
    assert not table.others


def test_two_writings_of_one_key_stand_beside_each_other() -> None:
    key = Key("freeze", "ténant", 'a "quoted", [subject]')
    assert decode_key(key.encode()) == key
    assert Key(HALT).encode() == b'["halt","",""]'
    for other in (b'[ "halt","",""]', b'["h\\u0061lt","",""]', b'["halt","","",""]', None, b""):
        assert decode_key(other) is None


def test_a_reader_of_the_topic_is_not_told_the_kind_in_the_headers() -> None:
    about = dict(written(loss()).headers)
    assert about["ce_type"] == b"qwarden.loss-accepted.v1"
    assert dict(written(HALTED).headers)["ce_type"] == b"qwarden.halt.v1"
    types = [dict(written(each).headers)["ce_type"] for each in (BODY, in_force(None), freeze("a"))]
    assert types == [b"qwarden.policy.v1", b"qwarden.in-force.v1", b"qwarden.freeze.v1"]
    about = dict(written(override()).headers)
    assert about["ce_type"] == b"qwarden.override.v1"
    assert about["ce_source"] == b"/qwarden/review-service"
    assert withdrawn(HALT_KEY) == (HALT_KEY.encode(), None, [])


# What only the topic on Kafka can suffer.


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kafka]:
    with Kafka(Home(tmp_path_factory.mktemp("control"))) as part:
        yield part


async def test_an_open_transaction_of_somebody_else_holds_up_a_halt(kafka: Kafka) -> None:
    name = await make_topic(kafka.bootstrap)
    somebody = AIOKafkaProducer(
        bootstrap_servers=kafka.bootstrap, transactional_id=f"t-{uuid.uuid4().hex}"
    )
    one = KafkaControl(settings_of(kafka), topic=name)
    await somebody.start()
    try:
        await one.start()
        async with somebody.transaction():
            await somebody.send_and_wait(name, key=Key("freeze").encode(), value=b"1", partition=0)
            await one.write(HALTED)
            await comes("the halt, behind an open transaction", lambda: bool(one.halts()))
        await one.withdraw(HALT_KEY)
        await comes("its withdrawal, behind a marker", lambda: not one.halts())
    finally:
        await one.close()
        await somebody.stop()


async def test_a_topic_that_ends_in_a_marker_is_never_read_to_its_end(kafka: Kafka) -> None:
    name = await make_topic(kafka.bootstrap)
    somebody = AIOKafkaProducer(
        bootstrap_servers=kafka.bootstrap, transactional_id=f"t-{uuid.uuid4().hex}"
    )
    await somebody.start()
    async with somebody.transaction():
        message = written(HALTED)
        await somebody.send_and_wait(name, key=message.key, value=message.value, partition=0)
    await somebody.stop()
    one = KafkaControl(settings_of(kafka), topic=name)
    async with asyncio.timeout(20):
        await one.start()
    assert one.halts() == {HALT_KEY: HALTED}
    await one.close()


async def test_an_override_of_an_aborted_transaction_holds_up_the_one_that_is_sent_again(
    kafka: Kafka,
) -> None:
    name = await make_topic(kafka.bootstrap)
    somebody = AIOKafkaProducer(
        bootstrap_servers=kafka.bootstrap, transactional_id=f"t-{uuid.uuid4().hex}"
    )
    one = KafkaControl(settings_of(kafka), topic=name)
    await somebody.start()
    try:
        await one.start()
        message = written(override("allow"))
        await somebody.begin_transaction()
        await somebody.send_and_wait(name, key=message.key, value=message.value, partition=0)
        await comes("it, uncommitted", lambda: one.override_of("demo", HASH) is not None)
        await somebody.abort_transaction()
        again = written(override("block"))
        async with somebody.transaction():
            await somebody.send_and_wait(name, key=again.key, value=again.value, partition=0)
        block = overridden(Action.BLOCK)
        await comes("the one sent again", lambda: one.override_of("demo", HASH) == block)
        late = KafkaControl(settings_of(kafka), topic=name)
        await late.start()
        assert late.override_of("demo", HASH) == block
        await late.close()
    finally:
        await one.close()
        await somebody.stop()


async def test_who_judges_nothing_by_overrides_keeps_them_or_misses_a_halt(
    kafka: Kafka, caplog: pytest.LogCaptureFixture
) -> None:
    name = await make_topic(kafka.bootstrap)
    writer = KafkaControl(settings_of(kafka), topic=name)
    one = KafkaControl(settings_of(kafka), topic=name, keeps_overrides=False)
    await writer.start()
    try:
        await writer.write(override("block"))
        await one.start()
        await fleet.publish(kafka.bootstrap, name, [(OVERRIDE_KEY.encode(), b"unreadable")])
        await writer.write(HALTED)
        await comes("the halt behind them", lambda: one.halts() == {HALT_KEY: HALTED})
        assert one.override_of("demo", HASH) is None
        assert not one._table.others
        # The writer alone has read what cannot be read.
        assert len([r for r in caplog.records if "the override under" in r.getMessage()]) == 1
    finally:
        await one.close()
        await writer.close()


async def test_a_topic_with_several_partitions_is_read_by_half(kafka: Kafka) -> None:
    name = await make_topic(kafka.bootstrap, partitions=2)
    one = KafkaControl(settings_of(kafka), topic=name)
    with pytest.raises(ControlUnusable, match="has 2 partitions and must have one"):
        await one.start()
    await one.close()


async def test_a_restarted_broker_takes_the_table_with_it(own: Kafka) -> None:
    """Killed in the middle of a write too: it is written once the broker is back."""
    name = await make_topic(own.bootstrap)
    one, other = (KafkaControl(settings_of(own), topic=name) for _ in range(2))
    try:
        await one.start()
        await other.start()
        await one.write(HALTED)
        await comes("the halt", lambda: bool(other.halts()))
        own.kill()
        withdrawing = asyncio.create_task(one.withdraw(HALT_KEY))
        starting = asyncio.create_task((late := KafkaControl(settings_of(own), topic=name)).start())
        await asyncio.sleep(1.5)
        assert not withdrawing.done()
        assert not starting.done()
        assert other.halts(), "what is known is kept while the broker is away"
        await asyncio.to_thread(own.start)
        async with asyncio.timeout(60):
            await withdrawing
            await starting
        await comes("its withdrawal", lambda: not other.halts(), lambda: not late.halts())
        await late.close()
    finally:
        await one.close()
        await other.close()


async def test_a_topic_that_was_made_again_leaves_the_old_halt_in_force(own: Kafka) -> None:
    name = await make_topic(own.bootstrap)
    one = KafkaControl(settings_of(own), topic=name)
    await one.start()
    for _ in range(3):
        await one.write(HALTED)
    await comes("the halt", lambda: bool(one.halts()))
    admin = AIOKafkaAdminClient(bootstrap_servers=own.bootstrap)
    await admin.start()
    try:
        await admin.delete_topics([name])

        async def made_again() -> bool:
            response = await admin.create_topics(
                [NewTopic(name, 1, 1, topic_configs={"cleanup.policy": "compact"})]
            )
            return bool(response.topic_errors[0][1] == 0)

        await fleet.until(made_again, "the topic is there again")
        await comes("the new topic's table", lambda: not one.halts())
    finally:
        await admin.close()
        await one.close()


async def test_a_person_waits_for_a_broker_that_is_away() -> None:
    one = KafkaControl(KafkaSettings(bootstrap_servers="127.0.0.1:1"), wait=False)
    with pytest.raises(KafkaConnectionError):
        await one.start()
    await one.close()
