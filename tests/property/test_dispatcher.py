"""The dispatcher under a guard that fails in every way, in every order: each row gets its own
answer, and only those to blame get none."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from examples import examples
from qwarden.guard.answer import Answer, Assessment, Failure, Unanswered
from qwarden.inference.dispatch import Dispatcher, Limits
from qwarden.inference.port import GuardUnavailable, Trouble
from qwarden.inference.trials import FAILURES_ALONE, KNOWN_GOOD

LIMITS = Limits(
    rows_a_request=5,
    bytes_a_request=60,
    requests_in_flight=3,
    backoff_s=1e-5,
    max_backoff_s=1e-4,
    suspects_in_flight=2,
)

AWAY, BUSY, SICK = "away", "busy", "sick"
_phase = st.tuples(st.sampled_from([AWAY, BUSY, "well"]), st.integers(1, 8))
_sick = st.tuples(st.just(SICK), st.integers(1, 30))


@st.composite
def _phases(draw: st.DrawFn) -> list[tuple[str, int]]:
    """What the guard is for so many requests each. Sick, it fails on everything, at most twice: a
    row that is well then stays one failure short of being given up, wherever a phase ends."""
    phases = draw(st.lists(_phase, max_size=12))
    for sick in draw(st.lists(_sick, max_size=2)):
        phases.insert(draw(st.integers(0, len(phases))), sick)
    return phases


class Guard:
    """Rows say what they do: `f` fails its request, `n` is answered `no_answer`, `g` is good."""

    def __init__(self, phases: list[tuple[str, int]], seed: int) -> None:
        self._phases = [kind for kind, length in phases for _ in range(length)]
        self._chance = random.Random(seed)
        self.running: Counter[str] = Counter()
        self.alone: Counter[bytes] = Counter()
        """How often a row was sent alone and failed."""

    async def revision(self) -> str:
        return "g@1"

    async def judge(self, rows: Sequence[bytes], *, timeout_s: float | None = None) -> list[Answer]:
        phase = self._phases.pop(0) if self._phases else "well"
        kind = "probe" if rows == [KNOWN_GOOD] else "together" if timeout_s is None else "alone"
        assert kind != "alone" or len(rows) == 1
        self.running[kind] += 1
        assert self.running["probe"] <= 1
        assert self.running["together"] <= LIMITS.requests_in_flight
        assert self.running["alone"] <= LIMITS.suspects_in_flight
        for _ in range(self._chance.randrange(6)):
            await asyncio.sleep(0)
        self.running[kind] -= 1
        if phase == AWAY:
            raise GuardUnavailable("away")
        if phase == BUSY:
            raise GuardUnavailable("full", Trouble.BUSY)
        if kind == "alone":
            self.alone[rows[0]] += 1
        if phase == SICK:
            if self._chance.random() < 0.3:
                return [_assessment(row) for row in rows] * 2
            raise GuardUnavailable("sick", Trouble.FAILED)
        if any(row[:1] == b"f" for row in rows):
            raise GuardUnavailable("deadline", Trouble.FAILED)
        return [_answer(row) for row in rows]

    async def close(self) -> None: ...


def _assessment(row: bytes) -> Answer:
    return Assessment((1.0, 0.0, 0.0), (), None, hash(row), 0, "g@1")


def _answer(row: bytes) -> Answer:
    if row[:1] == b"n":
        return Unanswered(Failure.NO_ANSWER, "not a number", "g@1")
    return _assessment(row)


@pytest.mark.long
@settings(max_examples=examples(150))
@given(
    st.lists(st.sampled_from(["g", "g", "g", "f", "n"]), min_size=1, max_size=30),
    _phases(),
    st.integers(0, 2**32),
)
def test_a_row_is_lost_answered_for_another_or_given_up_without_blame(
    kinds: list[str], phases: list[tuple[str, int]], seed: int
) -> None:
    rows = [f"{kind}{n:03d}".encode() * (1 + n % 7) for n, kind in enumerate(kinds)]
    guard = Guard(phases, seed)

    async def run() -> list[Answer]:
        dispatcher = Dispatcher(guard, LIMITS, random.Random(seed).random)
        middle = len(rows) // 2
        futures = dispatcher.submit(rows[:middle])
        for _ in range(seed % 20):
            await asyncio.sleep(0)
        futures += dispatcher.submit(rows[middle:])
        done = await asyncio.wait_for(asyncio.gather(*futures), 60)
        await dispatcher.close()
        return [judged.answer for judged in done]

    for row, answer in zip(rows, asyncio.run(run()), strict=True):
        if row[:1] == b"g":
            assert answer == _assessment(row)
        else:
            assert isinstance(answer, Unanswered)
            assert answer.failure is Failure.NO_ANSWER
            assert guard.alone[row] >= FAILURES_ALONE
