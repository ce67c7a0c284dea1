"""A group of `Delivery` members on the twin, led through an interleaving that one seed decides, and
what design.md says of delivery, checked at the broker: that is where loss would show.

- A commit covers an offset only when every record below it has its outcome in the log by then,
  and never goes back.
- Nothing is missing when everything has been drained, and everything is drained in time.
- First publications of one key stand in the order of arrival.
- One producer publishes no delivered record twice.
- Where nobody dies and nothing fails, nothing is published twice at all.
"""

from __future__ import annotations

import asyncio
import logging
import random
import zlib
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Self

from aiokafka import ConsumerRecord, TopicPartition
from aiokafka.errors import (
    GroupCoordinatorNotAvailableError,
    MessageSizeTooLargeError,
    NotEnoughReplicasError,
    UnknownError,
)

from qwarden.delivery.owed import Message, Owed
from qwarden.delivery.window import Partition
from twin.broker import COMMIT, FETCH, PRODUCE, Append, Broker, Commit
from twin.clock import run
from twin.keeping import Spans, handling
from twin.members import SOUND, Judging, Member, Parts
from twin.network import Network

IN, OUT, DEAD, GROUP = "in", "out", "dead", "g"
PARTITIONS = 3
KEYS = 7
MOST_MEMBERS = 3
MOST_BACKLOG = 150
"""Records without an outcome; above it a step that would produce does something else."""
SETTLE_S = 300.0
"""Seconds, on the virtual clock, in which a healed world must have drained everything."""
GUARD_S = 1.5
"""How long a record takes in an orderly run: less than a revoke waits for."""


class Violation(AssertionError):
    """Something that design.md says does not hold."""


@dataclass(frozen=True, slots=True)
class Result:
    """What a run did."""

    steps: int
    records: int
    published: int
    history: int
    """A checksum of everything that was published and committed, in order."""
    taken: Counter[str]
    rereads: int
    """Records that keepers were given once more."""

    @property
    def repeats(self) -> int:
        return self.published - self.records


@dataclass
class _Account:
    """What the broker's logs say."""

    arrived: dict[bytes, list[str]] = field(default_factory=dict)
    """Key to its records, in the order of arrival."""
    published: Counter[str] = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)
    history: int = 0
    _turn: dict[bytes, int] = field(default_factory=dict)
    _place: dict[str, int] = field(default_factory=dict)
    _sent: set[tuple[int, str, str]] = field(default_factory=set)
    _covered: Counter[TopicPartition] = field(default_factory=Counter)

    def arrives(self, key: bytes | None, origin: str) -> None:
        if key is not None:
            of_key = self.arrived.setdefault(key, [])
            self._place[origin] = len(of_key)
            of_key.append(origin)

    def appended(self, append: Append) -> None:
        for record in append.records:
            headers = dict(record.headers)
            origin = (headers["qw-origin"] or b"").decode()
            delivered = (headers["delivered"] or b"").decode()
            sent = (append.producer, delivered, append.partition.topic)
            if sent in self._sent:
                self.violations.append(f"{origin} was sent twice by one producer")
            self._sent.add(sent)
            self.published[origin] += 1
            self._note(f"{append.producer} {record.offset} {origin}")
            if self.published[origin] == 1 and record.key is not None:
                turn = self._turn.get(record.key, 0)
                if self._place[origin] != turn:
                    late = self.arrived[record.key][turn]
                    self.violations.append(f"{origin} was published before {late}, of its key")
                self._turn[record.key] = max(turn, self._place[origin] + 1)

    def committed(self, commit: Commit, broker: Broker) -> None:
        for partition, offset in sorted(commit.offsets):
            log = broker.log(partition)
            if offset > log.end:
                self.violations.append(f"{offset} of {partition} was committed, beyond its end")
            for record in log.records(self._covered[partition]):
                if record.offset >= offset:
                    break
                origin = f"{partition.topic}/{partition.partition}/{record.offset}"
                if not self.published[origin]:
                    self.violations.append(
                        f"{offset} of {partition} was committed, and {origin} has no outcome"
                    )
                    break
            if offset < self._covered[partition]:
                self.violations.append(
                    f"{offset} of {partition} was committed after {self._covered[partition]}"
                )
            self._note(f"{commit.member} {partition} {offset}")
            self._covered[partition] = max(self._covered[partition], offset)

    def _note(self, event: str) -> None:
        self.history = zlib.crc32(event.encode(), self.history)


class World:
    """Members, a broker, and the steps that a seed may take. With `orderly` nobody dies, nothing
    fails, and every record is judged within `GUARD_S`. `keeps`: with a keeper in each member."""

    def __init__(
        self, seed: int, parts: Parts, *, orderly: bool = False, keeps: bool = False
    ) -> None:
        self.rng = random.Random(seed)
        self.parts = replace(parts, handler=handling) if keeps else parts
        self.keepers: list[Spans] = []
        self._keeps = keeps
        self.orderly = orderly
        self.account = _Account()
        self.broker = Broker(
            on_append=self.account.appended,
            on_commit=lambda commit: self.account.committed(commit, self.broker),
        )
        self.network = Network(self.broker, self.rng)
        for topic in (IN, OUT, DEAD):
            self.broker.make_topic(topic, PARTITIONS)
        self.members: list[Member] = []
        self.records = 0
        self.taken: Counter[str] = Counter()
        self._members_made = 0
        self._delivered = 0
        self._free = False

    def __enter__(self) -> Self:
        self.network.__enter__()
        return self

    def __exit__(self, *failure: object) -> None:
        for member in self.members:
            member.kill()
        self.network.__exit__(*failure)

    async def live(self, steps: int) -> Result:
        asyncio.get_running_loop().set_exception_handler(self._on_error)
        actions = self._orderly_actions() if self.orderly else self._actions()
        names, weights = list(actions), [weight for weight, _ in actions.values()]
        self.join()
        for name in self.rng.choices(names, weights, k=steps):
            self.taken[name] += 1
            actions[name][1]()
            self._bury()
            await asyncio.sleep(self._pause())
            self.check()
        await self.settle()
        self.check()
        return Result(
            steps,
            self.records,
            self.account.published.total(),
            self.account.history,
            self.taken,
            sum(keeper.rereads for keeper in self.keepers),
        )

    # Steps.

    def _orderly_actions(self) -> dict[str, tuple[float, Callable[[], None]]]:
        return {
            "produce": (30, self.produce),
            "poll": (50, self.poll),
            "hole": (2, self.hole),
            "wait": (4, lambda: None),
            "join": (0.5, self.join),
            "leave": (0.5, self.leave),
        }

    def _actions(self) -> dict[str, tuple[float, Callable[[], None]]]:
        return {
            "produce": (25, self.produce),
            "poll": (25, self.poll),
            "judge": (42, self.judge),
            "hole": (1, self.hole),
            "join": (1.0, self.join),
            "leave": (0.5, self.leave),
            "kill": (0.5, self.kill),
            "fail in the handler": (0.3, self.fail_handler),
            "cut off": (0.2, self.cut_off),
            "broker away": (0.15, self.broker_away),
            "refuse to append": (0.5, self.refuse),
            "refuse a commit": (0.5, self.refuse_commit),
            "hold what is produced": (0.2, self.hold),
            "hold what is judged": (0.3, self.hold_judging),
            "lose a reply": (0.5, self.lose_reply),
        }

    def produce(self) -> None:
        if self.records - len(self.account.published) > MOST_BACKLOG:
            self.judge()
            return
        for _ in range(self.rng.randint(1, 3)):
            key = self.rng.choice((None, *(f"k{n}".encode() for n in range(KEYS))))
            self.arrive(key, b"x" * self.rng.choice((1, 1, 20, 300)))

    def arrive(self, key: bytes | None, value: bytes = b"x") -> None:
        """One record; those of a key in one partition."""
        number = self.rng.randrange(PARTITIONS) if key is None else key[-1] % PARTITIONS
        offset = self.broker.append(TopicPartition(IN, number), [(key, value, [])])
        self.account.arrives(key, f"{IN}/{number}/{offset}")
        self.records += 1

    def hole(self) -> None:
        self.broker.leave_hole(TopicPartition(IN, self.rng.randrange(PARTITIONS)))

    def poll(self) -> None:
        if self.members:
            self.rng.choice(self.members).permits.release()

    def judge(self) -> None:
        """Ends some of the records that one handler has in hand, in any order."""
        busy = [member for member in self.members if member.pending]
        if not busy:
            self.poll()
            return
        pending = self.rng.choice(busy).pending
        count = min(len(pending), self.rng.choice((1, 1, 2, 5, 20)))
        for batch, index in self.rng.sample(pending, count):
            batch.end(index, self.owed(batch.records[index]))

    def join(self) -> None:
        if len(self._staying) < MOST_MEMBERS:
            self._members_made += 1
            self.members.append(
                Member(
                    self._members_made,
                    IN,
                    (OUT, DEAD),
                    GROUP,
                    random.Random(self.rng.random()),
                    self.parts,
                    self._refuse,
                    self._on_batch,
                    keeper=self._keeper(),
                )
            )
            if self._free or self.orderly:
                self.members[-1].poll_freely()

    def _keeper(self) -> Spans | None:
        if not self._keeps:
            return None

        def read(where: Partition, end: int) -> list[ConsumerRecord]:
            records = self.broker.log(TopicPartition(*where)).records(0)
            return [record for record in records if record.offset < end]

        self.keepers.append(Spans(read, self.account.violations.append))
        return self.keepers[-1]

    def leave(self) -> None:
        if len(self._staying) > 1:
            self.rng.choice(self._staying).leave()

    def kill(self) -> None:
        if self.members:
            self.rng.choice(self.members).kill()

    def fail_handler(self) -> None:
        busy = [member for member in self.members if member.pending]
        if busy:
            member = self.rng.choice(busy)
            member.planted = True
            batch, _ = self.rng.choice(member.pending)
            batch.fail(RuntimeError("a handler that fails"))

    def cut_off(self) -> None:
        whole = [member for member in self.members if not member.process.cut]
        if whole:
            process = self.rng.choice(whole).process
            process.cut_off()
            self._later(process.mend)

    def broker_away(self) -> None:
        if not self.network.is_away:
            self.rng.choice((self.network.stop_broker, self.network.hang_broker))()
            self._later(self.network.start_broker)

    def hold(self) -> None:
        self._later(self.broker.hold(OUT))

    def hold_judging(self) -> None:
        """As while the guard is away."""
        if self.members:
            delivery = self.rng.choice(self.members).delivery
            delivery.hold("the guard is away")
            self._later(delivery.release)

    def refuse(self) -> None:
        error = self.rng.choice((NotEnoughReplicasError, UnknownError, MessageSizeTooLargeError))
        self.broker.refuse(OUT, error, self.rng.randint(1, 2))

    def refuse_commit(self) -> None:
        error = self.rng.choice((UnknownError, GroupCoordinatorNotAvailableError))
        self.broker.refuse_commits(GROUP, error, self.rng.randint(1, 3))

    def lose_reply(self) -> None:
        self.network.lose_replies(self.rng.choice((PRODUCE, COMMIT, FETCH)))

    # The rest of it.

    def _later(self, ends: Callable[[], None]) -> None:
        """Ends a fault: soon, or after everybody's sessions and requests have timed out."""
        within = self.rng.choice((0.2, 2.0, 15.0)) * self.rng.random()
        asyncio.get_running_loop().call_later(within, ends)

    @property
    def _staying(self) -> list[Member]:
        return [member for member in self.members if member.leaving is None]

    def _pause(self) -> float:
        chance = self.rng.random()
        if chance < 0.5:
            return 0.0
        if chance < 0.85:
            return self.rng.random() * 0.01
        return self.rng.random() * (0.2 if chance < 0.985 else 4.0)

    def _on_batch(self, batch: Judging) -> None:
        if not (self.orderly or self._free):
            return
        loop = asyncio.get_running_loop()
        for index in sorted(batch.left):
            within = GUARD_S * self.rng.random()
            loop.call_later(within, self._end_by_itself, batch, index)

    def _end_by_itself(self, batch: Judging, index: int) -> None:
        if not batch.member.process.dead and not batch.over.done():
            batch.end(index, self.owed(batch.records[index]))

    def owed(self, record: ConsumerRecord, topic: str = OUT) -> Owed:
        self._delivered += 1
        origin = f"{record.topic}/{record.partition}/{record.offset}"
        headers = [
            ("qw-origin", origin.encode()),
            ("delivered", str(self._delivered).encode()),
        ]
        return (Message(topic, record.key, b"y" * self.rng.choice((5, 100)), headers),)

    def _refuse(self, record: ConsumerRecord, reason: str) -> Owed:
        return self.owed(record, DEAD)

    def _bury(self) -> None:
        """A delivery that failed ends its process, as its service does."""
        for member in self.members:
            if member.fault is not None and not member.process.dead:
                self.account.violations.append(f"a member's loop ended: {member.fault!r}")
            if member.failed and not member.process.dead:
                if not member.planted:
                    failure = member.delivery.failure
                    self.account.violations.append(f"a delivery failed by itself: {failure!r}")
                member.kill()
        self.members = [member for member in self.members if not member.is_over]

    def check(self) -> None:
        if self.account.violations:
            raise Violation("; ".join(self.account.violations[:3]))

    async def settle(self) -> None:
        """Everything is healed, and what is left is judged; then all leave."""
        self._free = True
        self.network.start_broker()
        self.broker.heal()
        for member in self.members:
            member.process.mend()
            member.delivery.release()
            member.poll_freely()
            for batch in member.judging:
                self._on_batch(batch)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + SETTLE_S
        while self._uncommitted():
            self._bury()
            if not self._staying:
                self.join()
            await asyncio.sleep(0.5)
            self.check()
            if loop.time() > deadline:
                raise Violation(f"not drained after {SETTLE_S} s: {self._uncommitted()}")
        for member in self._staying:
            member.leave()
        await asyncio.wait([m.leaving for m in self.members if m.leaving is not None])
        missing = self.records - len(self.account.published)
        if missing:
            raise Violation(f"{missing} records have no outcome")
        if self.orderly and self.account.published.total() > self.records:
            twice = [origin for origin, times in self.account.published.items() if times > 1]
            raise Violation(f"nobody died, and {len(twice)} records were published again: {twice}")

    def _uncommitted(self) -> dict[TopicPartition, tuple[int, int]]:
        """Partitions with records above what is committed: committed, and the last record."""
        committed = self.broker.group(GROUP).committed
        found = {}
        for partition in self.broker.partitions(IN):
            at = committed.get(partition, 0)
            behind = self.broker.log(partition).records(at)
            if behind:
                found[partition] = (at, behind[-1].offset)
        return found

    def _on_error(self, loop: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
        """An error that nobody awaits: in the twin itself, or in the driver."""
        error = context.get("exception")
        if isinstance(error, AssertionError | TypeError | KeyError | AttributeError | IndexError):
            self.account.violations.append(f"{context.get('message')}: {error!r}")


@contextmanager
def _silence() -> Iterator[None]:
    """aiokafka logs every fault, and a run plants thousands."""
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


def lead(led: Callable[[World], Coroutine[Any, Any, None]], parts: Parts = SOUND) -> World:
    """A world that is led by hand, then settled."""

    async def main() -> World:
        with World(0, parts) as world:
            await led(world)
            await world.settle()
            world.check()
        return world

    with _silence():
        return run(main)


def play(seed: int, steps: int, parts: Parts = SOUND, **kind: bool) -> Result:
    """One run of a `World` of this kind. Raises Violation, with the seed in it."""

    async def main() -> Result:
        with World(seed, parts, **kind) as world:
            return await world.live(steps)

    with _silence():
        try:
            return run(main, seed=seed)
        except AssertionError as violation:
            raise Violation(f"seed {seed}: {violation}") from violation
