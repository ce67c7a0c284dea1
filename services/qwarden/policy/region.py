"""What a condition can meet, as a set: to tell which rule is never reached, and what nobody
handles.

Every dimension that a policy speaks of is cut into *cells*: the words it names and one for all
others, or the stretches between the numbers it names. A condition is then a box of cells. A box
that earlier boxes cover is never reached: found exactly, by taking them away from it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from qwarden.guard.answer import SAFETIES, Safety
from qwarden.guard.conversation import Task
from qwarden.guard.language import is_of
from qwarden.guard.taxonomy import categories_of
from qwarden.policy.conditions import Bounds, Condition, When

Cell = object
Box = Mapping[str, frozenset[Cell]]
"""Dimension to the cells that are left of it; a dimension that is not there has all of them."""

OTHER = "(other)"
"""The cell of all words that a policy does not name; of numbers, of none at all."""
NONE = "(none)"
"""The category of content for which the guard named none."""

MAX_BOXES = 200
"""Where taking away leaves more pieces than this, nobody can tell: no policy that people wrote has
come near it, and one that a program wrote must not stop a service from starting."""

LIKELIEST = 0.5
"""P(Controversial) + P(Unsafe) of what is not Safe, at least: of whole texts the word is the
likeliest of three, and of running sessions the flag rules ask for as much by default."""


@dataclass(frozen=True, slots=True)
class Stretch:
    """Numbers from `low` to those below `high`."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Space:
    """All cells of each dimension that some conditions speak of. `flagged`: the least that
    P(Controversial) + P(Unsafe) is where the safety is not Safe."""

    cells: Mapping[str, frozenset[Cell]]
    flagged: float = LIKELIEST

    @classmethod
    def of(cls, whens: Sequence[When], *, flagged: float = LIKELIEST) -> Space:
        cells: dict[str, frozenset[Cell]] = {
            "safety": frozenset(SAFETIES),
            "task": frozenset(Task),
            "category": frozenset((*categories_of(Task.PROMPT), NONE)),
        }
        words: dict[str, set[Cell]] = {}
        numbers: dict[str, set[float]] = {}
        for when in whens:
            for dimension, named in _words(when).items():
                words.setdefault(dimension, {OTHER}).update(named)
            for dimension, bounds in _numbers(when).items():
                ends = {0.0, float("inf")}
                numbers.setdefault(dimension, ends).update((max(0.0, bounds.low), bounds.high))
        for dimension, found in words.items():
            cells[dimension] = frozenset(found)
        for dimension, ends in numbers.items():
            stretches: set[Cell] = {Stretch(*pair) for pair in pairwise(sorted(ends))}
            cells[dimension] = frozenset(stretches | {OTHER} if dimension == "reach" else stretches)
        return cls(cells, min(flagged, LIKELIEST))

    def box(self, when: When) -> Box | None:
        """What a condition can meet; None where nothing can."""
        box: dict[str, frozenset[Cell]] = {}
        for dimension, named in _words(when).items():
            box[dimension] = named
            if dimension == "language":
                box[dimension] = frozenset(
                    cell
                    for cell in self.cells[dimension]
                    if any(is_of(str(asked), str(cell)) for asked in named)
                )
        for dimension, bounds in _numbers(when).items():
            box[dimension] = frozenset(
                cell
                for cell in self.cells[dimension]
                if isinstance(cell, Stretch) and bounds.low <= cell.low < cell.high <= bounds.high
            )
        if isinstance(when, Condition):
            if when.safeties is not None:
                box["safety"] = frozenset(when.safeties)
            if when.category is not None:
                box["category"] = frozenset(when.category)
        if when.task is not None:
            box["task"] = frozenset(when.task)
        return self.possible(box)

    def possible(self, box: Box) -> Box | None:
        """What of a box an assessment can be in; None where nothing of it.

        What is Safe was the likeliest of three, so it has a third or more; where the word is not
        Safe, the two others have `flagged` or more, and the word half of that or a third. What is
        not a prompt is no Jailbreak, and only a response refuses.
        """
        here = dict(box)
        safeties = here.get("safety", self.cells["safety"])
        fits = frozenset(word for word in safeties if self._word_fits(word, here))
        tasks = here.get("task", self.cells["task"])
        categories = here.get("category", self.cells["category"])
        asked = frozenset(
            task for task in tasks if not categories.isdisjoint((*_asked_of(task), NONE))
        )
        if "refusal" in here:
            asked &= {Task.RESPONSE}
        for dimension, left in (("safety", fits), ("task", asked)):
            if left != self.cells[dimension]:
                here[dimension] = left
        if (
            _least(here, "safe")
            + max(_least(here, "flagged"), _least(here, "controversial") + _least(here, "unsafe"))
            > 1
        ):
            return None
        return here if all(here.values()) else None

    def _word_fits(self, word: Cell, box: Box) -> bool:
        if word is Safety.SAFE:
            return _overlaps(box, "safe", 1 / 3, 1) and _overlaps(box, "flagged", 0, 2 / 3)
        own = "controversial" if word is Safety.CONTROVERSIAL else "unsafe"
        return (
            _overlaps(box, own, min(1 / 3, self.flagged / 2), 1)
            and _overlaps(box, "safe", 0, 1 - self.flagged)
            and _overlaps(box, "flagged", self.flagged, 1)
        )

    def left_of(self, box: Box, covers: Iterable[Box]) -> list[Box] | None:
        """What is left of a box when others are taken away, in pieces without overlap; None where
        that are too many to tell."""
        pieces = [box]
        # The wide ones first: most pieces are within one of them.
        for cover in sorted(covers, key=len):
            pieces = [piece for each in pieces for piece in self._minus(each, cover)]
            if len(pieces) > MAX_BOXES:
                return None
        return pieces

    def _minus(self, box: Box, cover: Box) -> Iterable[Box]:
        inside = dict(box)
        for dimension, covered in cover.items():
            here = inside.get(dimension, self.cells[dimension])
            if here.isdisjoint(covered):
                yield inside
                return
            outside = here - covered
            if outside:
                piece = self.possible({**inside, dimension: outside})
                if piece is not None:
                    yield piece
            inside[dimension] = here & covered


def _asked_of(task: Cell) -> tuple[str, ...]:
    return categories_of(Task(str(task)))


def reached_rules(whens: Sequence[When], *, flagged: float = LIKELIEST) -> list[bool]:
    """Whether each of some rules is ever the first that matches, as far as one can tell."""
    space = Space.of(whens, flagged=flagged)
    boxes = [space.box(when) for when in whens]
    return [
        box is not None
        and space.left_of(box, [each for each in boxes[:at] if each is not None]) != []
        for at, box in enumerate(boxes)
    ]


def _words(when: When) -> dict[str, frozenset[Cell]]:
    """The conditions on words whose cells depend on what a policy names."""
    found: dict[str, frozenset[Cell]] = {}
    for dimension in ("tenant", "origin", "language"):
        named = getattr(when, dimension)
        if named is not None:
            found[dimension] = frozenset(named)
    for name, values in when.metadata.items():
        found[f"metadata.{name}"] = frozenset((type(value).__name__, value) for value in values)
    if isinstance(when, Condition) and when.refusal is not None:
        found["refusal"] = frozenset({when.refusal})
    return found


def _numbers(when: When) -> dict[str, Bounds]:
    found: dict[str, Bounds] = {}
    if when.reach is not None:
        found["reach"] = when.reach
    if isinstance(when, Condition):
        found |= {f"score.{name}": bounds for name, bounds in when.score.items()}
    return found


def _stretches(box: Box, score: str) -> list[Stretch]:
    return [cell for cell in box.get(f"score.{score}", ()) if isinstance(cell, Stretch)]


def _overlaps(box: Box, score: str, low: float, high: float) -> bool:
    """Whether a score may be from `low` to `high`, both included."""
    if f"score.{score}" not in box:
        return True
    return any(cell.low <= high and cell.high > low for cell in _stretches(box, score))


def _least(box: Box, score: str) -> float:
    stretches = _stretches(box, score)
    return max(0.0, min(cell.low for cell in stretches)) if stretches else 0.0
