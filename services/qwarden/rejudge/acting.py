"""A dry run, and the undo itself: what goes with a verdict is acknowledged first, the verdict last,
so that one that is found means that its event is done. A second run goes on from there.

A run that is killed while its last verdicts are on their way may write them again: the same record
under the same id, as everywhere here.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, aclosing
from dataclasses import dataclass
from datetime import datetime

from aiokafka import AIOKafkaProducer

from qwarden.contracts import headers, topics
from qwarden.contracts.control import Policies
from qwarden.contracts.escalation import (
    Content,
    Kind,
    escalation_of,
    is_evidence,
    must_be_kept,
)
from qwarden.contracts.refusal import Refused
from qwarden.delivery.owed import Owed, size_of
from qwarden.guard.answer import Assessment
from qwarden.kafka import acknowledged, message_limits, producing
from qwarden.outcomes.lookup import Found as Answered
from qwarden.outcomes.lookup import Lookup, Wanted
from qwarden.outcomes.owing import owed_by_verdict
from qwarden.outcomes.source import Source
from qwarden.policy.in_force import Acting, Unusable, freezes_of, read_body
from qwarden.policy.policy import Policy
from qwarden.policy.sources import BUILT_IN
from qwarden.rejudge.contents import Door, contents
from qwarden.rejudge.planning import (
    Change,
    Judge,
    NotPossible,
    Plan,
    Row,
    Same,
    Selection,
    Unclear,
    Word,
    hash_of,
    old_policy,
    planned,
    policies_for,
)
from qwarden.rejudge.reading import Found, found
from qwarden.settings import Kafka

_MOST_AT_ONCE = 100
"""Verdicts whose acknowledgements are awaited together: some 100 MB of the largest contents."""
_WRITTEN = (topics.VERDICTS, topics.REVIEW, topics.EVIDENCE)

Judging = Callable[[], AbstractAsyncContextManager[Lookup]]
"""What asks the guard; it is begun only where somebody must be asked."""


@dataclass(frozen=True, slots=True)
class Flow:
    """Verdicts of one tenant that were `old` and would be `new`, by a rule of the new policy."""

    tenant: str
    old: str
    new: str
    policy: str
    rule: str
    verdicts: int


@dataclass(frozen=True, slots=True)
class Outlook:
    """What would be done. `undecided`: for how many verdicts the guard is asked, by why. `left`:
    how many are left alone, `impossible`: how many cannot be undone, each by why. `doubtful`:
    decisions that cannot be read."""

    flows: tuple[Flow, ...]
    same: int
    undecided: Mapping[str, int]
    left: Mapping[str, int]
    impossible: Mapping[str, int]
    doubtful: int

    @property
    def total(self) -> int:
        """Verdicts that would be superseded, as far as that is known without the guard."""
        return sum(flow.verdicts for flow in self.flows)


@dataclass(frozen=True, slots=True)
class Done:
    """What became of one verdict: the id of what took its place, and its action; or why it is left:
    `left`, where it could not be undone, or `same`, where nothing would change."""

    verdict_id: str
    superseded_by: str | None = None
    action: str | None = None
    left: str | None = None
    same: bool = False


async def plan_for(
    kafka: Kafka,
    selection: Selection,
    now: Acting,
    stands: Policies,
    *,
    chosen: Policy | None,
    at: datetime,
    by: str,
) -> tuple[Plan, Found]:
    """Looks for the verdicts of a selection, and fixes what becomes of them. `now`: what acts;
    `chosen`: instead of it. Raises `NotPossible` and `KafkaError`."""
    seen = await found(kafka, selection, ends=None)
    serials = {key.subject: each.offset for key, each in stands.in_force.items()}
    policies = policies_for(seen.stood, now, serials, chosen)
    old = old_policy(selection, _known(now, stands))
    plan = planned(selection, seen.stood, policies, old, ends=seen.ends, at=at, by=by)
    return plan, seen


async def found_again(kafka: Kafka, plan: Plan) -> Found:
    """What the topics say now of a plan's verdicts. Raises `NotPossible` where they are not those
    of the plan any more, and `KafkaError`."""
    seen = await found(kafka, plan.selection, ends=plan.ends)
    if hash_of(plan, seen.stood) != plan.hash:
        raise NotPossible(
            f"the plan was of {plan.selected:,} verdicts, and {topics.VERDICTS} has others now "
            f"({len(seen.stood):,}), or the plan was edited; make another one"
        )
    return seen


async def outlook(kafka: Kafka, plan: Plan, seen: Found, door: Door) -> Outlook:
    """What the plan would do now. The guard is not asked. Raises `KafkaError`."""
    judge = Judge(plan.policies(), plan.old_policy())
    words = {row.verdict.verdict_id: judge.word(row) for row in seen.rows}
    impossible: Counter[str] = Counter()
    shown = [word.row for word in words.values() if _is_shown(word)]
    async with aclosing(contents(kafka, plan.selection, shown, _letting_in(door, plan))) as each:
        async for row, content in each:
            if isinstance(content, str):
                impossible[content] += 1
                del words[row.verdict.verdict_id]
    flows: Counter[tuple[str, str, str, str, str]] = Counter()
    undecided: Counter[str] = Counter()
    for word in words.values():
        if isinstance(word, Change):
            used = word.verdict.policy
            assert used is not None
            was, new = str(word.row.verdict.action), str(word.verdict.action)
            flows[word.verdict.tenant, was, new, used.name, used.rule] += 1
        elif isinstance(word, Unclear):
            undecided[f"the rule {word.rule} of {word.policy.name}: {word.reason}"] += 1
    return Outlook(
        tuple(Flow(*flow, count) for flow, count in sorted(flows.items())),
        sum(isinstance(word, Same) for word in words.values()),
        dict(undecided),
        dict(seen.left + seen.since),
        dict(impossible),
        seen.doubtful,
    )


async def apply(
    kafka: Kafka,
    plan: Plan,
    seen: Found,
    *,
    door: Door,
    judging: Judging,
    stands: Callable[[], Policies],
    rate: float,
    sample_rate: float,
) -> AsyncGenerator[Done, None]:
    """Supersedes the plan's verdicts that still stand, at most `rate` a second. `stands`: what
    stands on the control topic at any time. `sample_rate`: of evidence.

    Raises `NotPossible` where a freeze has begun that the plan does not know, and `KafkaError`;
    what was told is done.
    """
    limits = await message_limits(kafka, _WRITTEN)
    at_once = max(1, min(_MOST_AT_ONCE, int(rate / 10)))
    async with AsyncExitStack() as stack:
        producer = await stack.enter_async_context(producing(kafka, limits.values()))

        async def begin() -> Lookup:
            return await stack.enter_async_context(judging())

        work = _Work(plan, door, begin, limits=limits, sample_rate=sample_rate)
        next_at = time.monotonic()
        async with aclosing(work.chunks(kafka, seen.rows, at_once)) as chunks:
            async for chunk in chunks:
                ready, told = await work.ready(chunk)
                for done in told:
                    yield done
                await asyncio.sleep(next_at - time.monotonic())
                next_at = max(time.monotonic(), next_at) + len(ready) / rate
                work.check_freezes(stands(), ready)
                await _publish(kafka, producer, [owed for _, owed in ready])
                for change, _ in ready:
                    new = change.verdict
                    yield Done(str(new.supersedes), new.verdict_id, new.action)


_Ready = list[tuple[Change, Owed]]


class _Work:
    """From rows to what each owes."""

    def __init__(
        self,
        plan: Plan,
        door: Door,
        begin: Callable[[], Awaitable[Lookup]],
        *,
        limits: Mapping[str, int],
        sample_rate: float,
    ) -> None:
        """`begin`: begins what asks the guard; called once at most."""
        self._selection = plan.selection
        self._policies = plan.policies()
        self._judge = Judge(self._policies, plan.old_policy())
        self._door = _letting_in(door, plan)
        self._begin = begin
        self._lookup: Lookup | None = None
        self._limits = limits
        self._sample_rate = sample_rate

    async def chunks(
        self, kafka: Kafka, rows: Sequence[Row], at_once: int
    ) -> AsyncGenerator[list[tuple[Word, Content | str | None]], None]:
        """The rows in chunks, each with its content, or why it has none; None where nobody needs
        it."""
        words = [self._judge.word(row) for row in rows]
        shown = {
            word.row.verdict.verdict_id: word
            for word in words
            if _is_shown(word) or self._is_sampled(word)
        }
        others = [word for word in words if word.row.verdict.verdict_id not in shown]
        for first in range(0, len(others), at_once):
            yield [(word, None) for word in others[first : first + at_once]]
        chunk: list[tuple[Word, Content | str | None]] = []
        wanted = [word.row for word in shown.values()]
        async with aclosing(contents(kafka, self._selection, wanted, self._door)) as each:
            async for row, content in each:
                chunk.append((shown[row.verdict.verdict_id], content))
                if len(chunk) == at_once:
                    yield chunk
                    chunk = []
        if chunk:
            yield chunk

    async def ready(
        self, chunk: Sequence[tuple[Word, Content | str | None]]
    ) -> tuple[_Ready, list[Done]]:
        """What is to be published of a chunk, and what became of the rest."""
        told: list[Done] = []
        changes: list[tuple[Change, Content | None]] = []
        unclear: list[tuple[Row, Content]] = []

        def take(word: Word | str, row: Row, content: Content | None) -> None:
            own = row.verdict.verdict_id
            if isinstance(word, str):
                told.append(Done(own, left=word))
            elif isinstance(word, Same):
                told.append(Done(own, same=True))
            elif isinstance(word, Change):
                changes.append((word, content))
            elif content is not None:
                unclear.append((row, content))

        for word, content in chunk:
            if isinstance(content, str) and _is_shown(word):
                take(content, word.row, None)
                continue
            kept = None if isinstance(content, str) else content
            if isinstance(word, Unclear) and kept is not None:
                take(self._judge.word_with(word.row, kept.metadata), word.row, kept)
            else:
                take(word, word.row, kept)
        for row, kept, said in await self._asked(unclear):
            take(said, row, kept)
        ready = []
        for change, content in changes:
            owed = self._owed(change, content)
            large = self._too_large(owed)
            if large is None:
                ready.append((change, owed))
            else:
                told.append(Done(change.row.verdict.verdict_id, left=large))
        return ready, told

    def check_freezes(self, stands: Policies, ready: _Ready) -> None:
        freezes = freezes_of(stands)
        for tenant in sorted({change.row.verdict.tenant for change, _ in ready}):
            policy = self._policies[tenant]
            if freezes.acting(tenant, policy).frozen and not policy.frozen:
                raise NotPossible(
                    f"the tenant {tenant!r} is frozen, and was not when the plan was made; make "
                    "another one: what is undone stays so"
                )

    async def _asked(
        self, unclear: Sequence[tuple[Row, Content]]
    ) -> list[tuple[Row, Content, Word | str]]:
        """The guard's word on these, and what the policy says of it."""
        told: list[tuple[Row, Content, Word | str]] = []
        wanted: list[tuple[Row, Content, Wanted]] = []
        for row, content in unclear:
            ask = self._wanted(row, content)
            if isinstance(ask, str):
                told.append((row, content, ask))
            else:
                wanted.append((row, content, ask))
        if not wanted:
            return told
        if self._lookup is None:
            self._lookup = await self._begin()

        def answered(index: int, found: Answered) -> None:
            row, content, _ = wanted[index]
            answer = found.answer
            if isinstance(answer, Assessment):
                told.append((row, content, self._judge.word_of(row, content.metadata, answer)))
            else:
                told.append((row, content, f"the guard gives no answer: {answer.failure.value}"))

        await self._lookup.find([ask for _, _, ask in wanted], answered)
        return told

    def _wanted(self, row: Row, content: Content) -> Wanted | str:
        verdict = row.verdict
        try:
            case = self._door.case(verdict, content)
        except Refused as refused:
            return f"its content cannot be judged any more: {refused.error_class.value}"
        for question in case.questions:
            if question.task == verdict.task:
                policy = self._policies[verdict.tenant]
                return Wanted(
                    question.row, question.content_hash, policy.views, verdict.tenant, policy
                )
        return "its content has another task now"

    def _owed(self, change: Change, content: Content | None) -> Owed:
        """Without content nothing is kept that only the sample would keep."""
        row = change.row
        assert row.origin is not None, "what has none was left"

        def shown() -> Content:
            assert content is not None, "what is shown has its content"
            return content

        topic, partition, offset = row.origin
        return owed_by_verdict(
            Source(topic, partition, offset, 0, row.key, None, ()),
            change.verdict,
            shown,
            policy=change.policy,
            sample_rate=0.0 if content is None else self._sample_rate,
            volatile=[],
            by=headers.CLI,
        )

    def _too_large(self, owed: Owed) -> str | None:
        for message in owed:
            if size_of(message) > self._limits[message.topic]:
                return f"it is larger than {message.topic} takes; raise its max.message.bytes"
        return None

    def _is_sampled(self, word: Word) -> bool:
        return isinstance(word, Change) and is_evidence(word.verdict, self._sample_rate)


def _is_shown(word: Word) -> bool:
    """Whether somebody must see the content: people, the evidence's readers, the guard."""
    if isinstance(word, Change):
        return escalation_of(word.verdict) is Kind.REVIEW or must_be_kept(word.verdict)
    return isinstance(word, Unclear)


async def _publish(kafka: Kafka, producer: AIOKafkaProducer, owed: Sequence[Owed]) -> None:
    """What goes with the verdicts, acknowledged; then the verdicts."""
    messages = [message for each in owed for message in each]
    beside = [each for each in messages if each.topic != topics.VERDICTS]
    verdicts = [each for each in messages if each.topic == topics.VERDICTS]
    for some in (beside, verdicts):
        sent = [
            await producer.send(each.topic, key=each.key, value=each.value, headers=each.headers)
            for each in some
        ]
        for each in sent:
            await acknowledged(kafka, each)


def _letting_in(door: Door, plan: Plan) -> Door:
    return door.letting_in(plan.policies(), plan.policy)


def _known(now: Acting, stands: Policies) -> list[Policy]:
    """The policies that may have given the verdicts, as far as they are known here."""
    known = [*now.policies.values(), *BUILT_IN.values()]
    for body in stands.bodies.values():
        try:
            known.append(read_body(body))
        except Unusable:
            continue
    return known
