"""Whether the same text gets the same answer in every batch.

Where a sum's order depends on how many rows are in the batch, as in cuBLAS, a batch moves logits by
rounding, and the engine judges a row with a near tie once more, alone, in one fixed shape. On a CPU
the engine's own arithmetic has no such sum. Here, for each network and arithmetic:

1. A pool of seeded texts is judged, and the nearest are kept: of safety, of categories (which,
   whether another, and whether there are any) and of refusal a third each.
2. Each of them is judged alone, twice; the second time must give the same logits to the last bit,
   or a second look could not help.
3. Random batches, each a forward of its own, of 1 to 60 rows: some of the nearest, and others of
   the pool beside them. With the second look *off* the batch's answer counts. With it *on* a draft
   whose margin is under the engine's bound is replaced by the one alone, as the scheduler does. An
   answer is the safety, the categories in their order, and the refusal. It flips where it is not
   the one alone.
4. The engine itself, second look on, judges requests of such batches: the wiring of all that.

`split-bfloat16` has products that sum in two halves where there are few rows, as cuBLAS's split-K
does to keep a GPU busy: an arithmetic that moves.

Bars: with the second look on nothing flips, in no arithmetic; in the engine's own nothing moves at
all; in the one that moves some answer flips without it, or the second look would be for nothing.

The largest movement of a margin between batch and alone is reported beside the bound. An answer can
flip behind the second look only where a margin moves by more than the bound, so their quotient is
the room that is left.
"""

from __future__ import annotations

import argparse
import math
import random
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any
from unittest import mock

import subjects
from qwarden.guard.answer import Assessment, safety_of, scores_of
from qwarden_engine import layers, model
from qwarden_engine.gen import Gen
from qwarden_engine.grammar import Draft, Grammar
from qwarden_engine.jobs import Job, Request
from qwarden_engine.judge import Judge
from qwarden_engine.settings import EngineSettings
from subjects import say
from unit.engine.split import Split

KINDS = ("safety", "category", "refusal")
NETWORKS = ("stand-in", "tiny", "0.6B")
ARITHMETICS = ("float32", "bfloat16", "int8", "split-bfloat16")
LARGEST = 60
"""Rows of a batch."""


EPILOG = """\
examples:
  .venv/bin/python bench/near_ties.py                       stand-in, tiny and a little of 0.6B
  .venv/bin/python bench/near_ties.py --only tiny --arithmetics bfloat16 --pool 300 \\
      --nearest 30 --batches 20                             a quick look

The 0.6B network costs a thousand times a tiny one: it has a fiftieth of the pool and of the
batches, which are smaller. The exit status is 1 where a bar is missed.
"""

Said = tuple[str, tuple[str, ...], bool | None]


@dataclass(slots=True)
class Margins:
    """The margins of one draft, in the order in which it chose."""

    by_kind: list[tuple[str, float]] = field(default_factory=list)

    def smallest(self, kind: str) -> float:
        return min((margin for each, margin in self.by_kind if each == kind), default=math.inf)


@dataclass(frozen=True, slots=True)
class Judged:
    """One draft, and what is told of it."""

    said: Said
    logits: tuple[float, float, float]
    margin: float
    margins: Margins


class Watched:
    """A judge whose drafts tell each choice's margin, and not only the smallest."""

    def __init__(self, judge: Judge) -> None:
        self._judge = judge

    def together(self, jobs: Sequence[Job]) -> list[Judged]:
        """One forward."""
        with _told() as margins:
            drafts = self._judge.together(jobs)
        return [_judged(draft, margins.get(id(draft), Margins())) for draft in drafts]


@contextmanager
def _told() -> Iterator[dict[int, Margins]]:
    """Each draft's margins, by the grammar's method that has chosen."""
    found: dict[int, Margins] = {}
    kinds = {
        "_chose_floor": "category",
        "_category": "category",
        "_goes_on": "category",
        "_refuse": "refusal",
    }
    kept = {name: getattr(Grammar, name) for name in kinds}

    def watched(name: str, kind: str) -> Any:
        def method(grammar: Grammar, draft: Draft, *given: Any) -> Any:
            before, draft.margin = draft.margin, math.inf
            try:
                return kept[name](grammar, draft, *given)
            finally:
                margins = found.setdefault(id(draft), Margins())
                margins.by_kind.append((kind, draft.margin))
                draft.margin = min(before, draft.margin)

        return method

    for name, kind in kinds.items():
        setattr(Grammar, name, watched(name, kind))
    try:
        yield found
    finally:
        for name, method in kept.items():
            setattr(Grammar, name, method)


def _judged(draft: Draft, margins: Margins) -> Judged:
    if draft.failed:
        raise RuntimeError("a logit was not a finite number")
    names = tuple(name for name, _ in draft.categories)
    low, first = sorted(draft.logits)[1:]
    told = Margins([("safety", first - low), *margins.by_kind])
    return Judged(
        (safety_of(draft.logits).value, names, draft.refusal), draft.logits, draft.margin, told
    )


def jobs_of(gen: Gen, texts: Sequence[bytes]) -> list[Job]:
    """A job for each text, in their order; each has one view and one piece."""
    request = Request([None] * len(texts), lambda _: None, lambda: False)
    rows = sorted(gen._intake.rows(texts, request), key=lambda row: row.at)
    return [row.jobs[0] for row in rows]


def nearest(pool: Sequence[Judged], count: int) -> dict[str, list[int]]:
    """The places of the nearest of each kind, a third of `count` each, no place twice."""
    taken: set[int] = set()
    found: dict[str, list[int]] = {}
    for at, kind in enumerate(KINDS):
        order = sorted(range(len(pool)), key=lambda each: pool[each].margins.smallest(kind))
        having = [each for each in order if math.isfinite(pool[each].margins.smallest(kind))]
        share = count * (at + 1) // len(KINDS) - count * at // len(KINDS)
        found[kind] = [each for each in having if each not in taken][:share]
        taken.update(found[kind])
    return found


def moved(one: Judged, other: Judged) -> dict[str, float]:
    """The most that a difference of two logits has moved, by kind, as far as the choices tell it:
    over all choices of equal answers, and of the three words in any case. Where the answers differ,
    the one margin had to go down to zero and the other up from it."""
    most = dict.fromkeys(KINDS, 0.0)
    if one.said == other.said:
        for (kind, a), (_, b) in zip(one.margins.by_kind, other.margins.by_kind, strict=True):
            if math.isfinite(a) and math.isfinite(b):
                most[kind] = max(most[kind], abs(a - b))
    else:
        first = next(each for each in range(3) if one.said[each] != other.said[each])
        most[KINDS[first]] = one.margin + other.margin
    for a, b in combinations(range(3), 2):
        mine, theirs = (each.logits[a] - each.logits[b] for each in (one, other))
        most["safety"] = max(most["safety"], abs(mine - theirs))
    return most


@dataclass(slots=True)
class Found:
    """What the random batches showed."""

    judgements: int = 0
    near: int = 0
    flips_off: int = 0
    flips_on: int = 0
    moved: dict[str, float] = field(default_factory=lambda: dict.fromkeys(KINDS, 0.0))
    texts_flipped: set[int] = field(default_factory=set)
    examples: list[str] = field(default_factory=list)

    def add(self, at: int, batch: Judged, alone: Judged, bound: float) -> None:
        self.judgements += 1
        for kind, most in moved(batch, alone).items():
            self.moved[kind] = max(self.moved[kind], most)
        near, flips = batch.margin < bound, batch.said != alone.said
        self.near += near
        if flips:
            self.flips_off += 1
            self.flips_on += not near
            new = at not in self.texts_flipped
            self.texts_flipped.add(at)
            if not near or (new and len(self.examples) < 10):
                self.examples.append(
                    f"text {at}: {batch.said} in a batch with margin {batch.margin:.2e}, alone "
                    f"{alone.said} with {alone.margin:.2e}{'' if near else ' NOT LOOKED AT TWICE'}"
                )


def measure(asked: argparse.Namespace, name: str, arithmetic: str) -> dict[str, Any]:
    """One network in one arithmetic."""
    large = name == "0.6B"
    least = 24 if large else 1
    pool_size, count, batches, largest = (
        (max(least, asked.pool // 50), max(12, asked.nearest // 10), asked.batches // 50, 8)
        if large
        else (asked.pool, asked.nearest, asked.batches, LARGEST)
    )
    rng = random.Random(f"near-ties-{asked.seed}-{name}")
    gen = _engine(name, arithmetic)
    judge: Any = gen._scheduler._judge
    bound = gen._scheduler._bound
    texts = [
        each.to_json()
        for each in subjects.conversations(f"near-ties-{asked.seed}", pool_size, most=2)
    ]
    jobs = jobs_of(gen, texts)
    watched = Watched(judge)
    title = f"{name}, {arithmetic}"
    pool: list[Judged] = []
    for some in subjects.chunks(jobs, largest // 2):
        pool += watched.together(some)
    say(f"{title}: a pool of {len(pool):,} is judged")
    chosen = nearest(pool, count)
    places = [at for kind in KINDS for at in chosen[kind]]
    alone, exact = _alone(watched, jobs, places)
    found = Found()
    for number in range(batches):
        batch = _batch(rng, places, len(jobs), largest)
        for at, one in zip(batch, watched.together([jobs[at] for at in batch]), strict=True):
            if at in alone:
                found.add(at, one, alone[at], bound)
        if (number + 1) % max(1, batches // 5) == 0:
            say(f"{title}: {number + 1} of {batches} batches, {found.flips_off} flips so far")
    through = _through(
        gen, rng, texts, alone, requests=min(asked.requests, batches), largest=largest
    )
    most = max(found.moved.values())
    near_ties, judged = gen.counts.near_ties, gen.counts.jobs
    gen.close()
    return {
        "pool": len(pool),
        "nearest": {kind: len(chosen[kind]) for kind in KINDS},
        "largest_margin_of_the_nearest": {
            kind: max((pool[at].margins.smallest(kind) for at in chosen[kind]), default=None)
            for kind in KINDS
        },
        "bound": bound,
        "share_under_the_bound": round(sum(each.margin < bound for each in pool) / len(pool), 4),
        "spread_of_safe": _spread(pool),
        "alone_is_exact": exact,
        "batches": batches,
        "largest_batch": largest,
        "judgements": found.judgements,
        "near": found.near,
        "flips_off": found.flips_off,
        "flips_on": found.flips_on,
        "texts_flipped": len(found.texts_flipped),
        "moved": found.moved,
        "room": round(bound / most, 2) if most else None,
        "through_the_engine": {**through, "jobs": judged, "near_ties": near_ties},
        "examples": found.examples,
    }


def _engine(name: str, arithmetic: str) -> Gen:
    settings = EngineSettings.model_validate(
        {
            "checkpoint": str(subjects.network(name, "plain")),
            "device": "cpu",
            "dtype": arithmetic.removeprefix("split-"),
        }
    )
    with ExitStack() as stack:
        if arithmetic.startswith("split-"):
            for module in (layers, model):
                stack.enter_context(mock.patch.object(module, "linear", Split))
        return Gen.load(settings)


def _alone(
    watched: Watched, jobs: Sequence[Job], places: Sequence[int]
) -> tuple[dict[int, Judged], bool]:
    """Each alone, and whether a second time gave the same to the last bit."""
    first = {at: watched.together([jobs[at]])[0] for at in places}
    second = {at: watched.together([jobs[at]])[0] for at in reversed(places)}
    same = all(
        (first[at].logits, first[at].said, first[at].margins)
        == (second[at].logits, second[at].said, second[at].margins)
        for at in places
    )
    return first, same


def _batch(rng: random.Random, places: Sequence[int], pool: int, largest: int) -> list[int]:
    """Places of one batch: small ones as often as large ones; most rows are of the nearest."""
    size = round(math.exp(rng.uniform(0, math.log(largest))))
    near = max(1, round(size * rng.uniform(0.5, 1.0)))
    batch = rng.sample(list(places), min(near, len(places)))
    batch += [rng.randrange(pool) for _ in range(size - len(batch))]
    rng.shuffle(batch)
    return batch


def _through(
    gen: Gen,
    rng: random.Random,
    texts: Sequence[bytes],
    alone: dict[int, Judged],
    *,
    requests: int,
    largest: int,
) -> dict[str, int]:
    """Requests to the engine itself, with the second look on."""
    rows = flips = 0
    for _ in range(requests):
        batch = _batch(rng, list(alone), len(texts), largest)
        for at, answer in zip(batch, gen.judge([texts[at] for at in batch]), strict=True):
            if at not in alone:
                continue
            assert isinstance(answer, Assessment), answer
            names = tuple(name for name, _ in answer.categories)
            rows += 1
            flips += (answer.safety, names, answer.refusal) != alone[at].said
    return {"requests": requests, "rows": rows, "flips": flips}


def _spread(pool: Sequence[Judged]) -> dict[str, float]:
    safe = sorted(scores_of(each.logits)[0] for each in pool)
    return {
        name: round(safe[int(share * (len(safe) - 1))], 4)
        for name, share in (("p10", 0.1), ("p50", 0.5), ("p90", 0.9))
    }


def bars(parts: dict[str, dict[str, Any]]) -> dict[str, bool]:
    """Each bar, and whether it is met."""
    found: dict[str, bool] = {}
    for name, part in parts.items():
        through = part["through_the_engine"]["flips"]
        met = not part["flips_on"] and not through and bool(part["alone_is_exact"])
        found[f"{name}: nothing flips with the second look"] = met
        if "split" not in name:
            still = not part["flips_off"] and not any(part["moved"].values())
            found[f"{name}: nothing moves"] = still
        if not name.startswith("0.6B"):
            enough = sum(part["nearest"].values()) >= 200 and part["batches"] >= 1_000
            found[f"{name}: 200 texts in 1,000 batches"] = enough
    moving = [part for name, part in parts.items() if "split" in name]
    if moving:
        flips = any(part["flips_off"] for part in moving)
        found["split: some answer flips without the second look"] = flips
    return found


def show(name: str, part: dict[str, Any]) -> None:
    """Prints one network in one arithmetic."""
    print(
        f"{name}: {part['judgements']:,} judgements of {sum(part['nearest'].values())} texts in "
        f"{part['batches']:,} batches of 1 to {part['largest_batch']} rows"
    )
    print(
        f"  flips: {part['flips_off']:,} with the second look off ({part['texts_flipped']} texts), "
        f"{part['flips_on']} with it on, {part['through_the_engine']['flips']} of "
        f"{part['through_the_engine']['rows']:,} through the engine; alone is exact: "
        f"{part['alone_is_exact']}"
    )
    print(
        f"  bound {part['bound']:.3e}; under it "
        f"{part['share_under_the_bound']:.2%} of the pool of {part['pool']:,}, and "
        f"{part['near'] / max(1, part['judgements']):.2%} of the judgements"
    )
    print(
        "  a margin moved by at most "
        + ", ".join(f"{most:.2e} ({kind})" for kind, most in part["moved"].items())
        + f": room {part['room']} times"
    )
    nearest_margins = part["largest_margin_of_the_nearest"]
    print(f"  the nearest have margins up to {nearest_margins}; P(Safe) {part['spread_of_safe']}")
    for each in part["examples"]:
        print(f"    {each}")


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description="Judge near ties in many batches.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--only", default=",".join(NETWORKS), metavar="NETWORKS", help="(default all)")
    add("--arithmetics", default=",".join(ARITHMETICS), metavar="NAMES", help="(default all)")
    add("--pool", type=int, default=4_000, help="texts among which are the nearest (4000)")
    add("--nearest", type=int, default=200, help="texts that are kept (default 200)")
    add("--batches", type=int, default=1_000, help="random batches (default 1000)")
    add("--requests", type=int, default=50, help="of such batches to the engine itself (50)")
    add("--seed", type=int, default=1, help="of texts and batches (default 1)")
    add("--out", type=Path, default=subjects.RESULTS / "near_ties.json", help="the results")
    asked = parser.parse_args()
    for given, known in ((asked.only, NETWORKS), (asked.arithmetics, ARITHMETICS)):
        unknown = set(given.split(",")) - set(known)
        if unknown:
            parser.error(f"{', '.join(sorted(unknown))}: there are {', '.join(known)}")
    return asked


def main() -> None:
    asked = arguments()
    parts: dict[str, dict[str, Any]] = {}
    for name in asked.only.split(","):
        for arithmetic in asked.arithmetics.split(","):
            title = f"{name}, {arithmetic}"
            parts[title] = measure(asked, name, arithmetic)
            subjects.record(asked.out, "answers alone and in random batches", title, parts[title])
            show(title, parts[title])
    met = bars(parts)
    for bar, holds in met.items():
        print(f"{'met' if holds else 'NOT MET'}: {bar}")
    sys.exit(0 if all(met.values()) else 1)


if __name__ == "__main__":
    main()
