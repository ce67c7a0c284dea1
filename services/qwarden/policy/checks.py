"""What is wrong with a policy before any content has met it, each with its place and its fix."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import combinations

from qwarden.contracts.verdict import Action
from qwarden.guard.answer import Safety
from qwarden.guard.conversation import Task
from qwarden.guard.taxonomy import categories_of
from qwarden.policy.conditions import Bounds, Condition, When
from qwarden.policy.document import Path
from qwarden.policy.file import PolicyFile, RuleFile
from qwarden.policy.places import Places
from qwarden.policy.profile import ENOUGH, FLOOR, share_right
from qwarden.policy.region import NONE, Box, Space, reached_rules

_NOT_SAFE = (Safety.CONTROVERSIAL, Safety.UNSAFE)
_SEEN = (Action.ALLOW, Action.DISCLAIM)


@dataclass(frozen=True, slots=True)
class Finding:
    """`sentence`: place, field, what is wrong and the fix. A policy with an error is never loaded;
    a warning is for its author to think of."""

    sentence: str
    is_error: bool = True


def findings(file: PolicyFile, places: Places) -> list[Finding]:
    """All that is wrong with the rules of a resolved policy."""
    default = _default(file, places)
    if default is not None:
        return [default]
    space = Space.of([rule.when for rule in file.rules], flagged=file.least_flagged)
    boxes = [space.box(rule.when) for rule in file.rules]
    return [
        *_unreachable(file, places, space, boxes),
        *_overlapping(file, places),
        *_let_pass(file, places, space, boxes),
        *_unhandled(file, places, space, boxes),
        *_undecoded(file, places),
        *_weak(file, places, space, boxes),
        *_without_text(file, places),
        *_otherwise(file, places),
        *_without_rule(file, places),
    ]


def _default(file: PolicyFile, places: Places) -> Finding | None:
    fix = "add a last rule without `when`, such as {name: otherwise, then: allow}"
    if not file.rules:
        return Finding(places.sentence(("rules",), f"there is no rule; {fix}"))
    if file.rules[-1].when != Condition():
        return Finding(
            places.of_rule(
                len(file.rules) - 1, (), f"no rule is left for what matches none of them; {fix}"
            )
        )
    return None


def _unreachable(
    file: PolicyFile, places: Places, space: Space, boxes: list[Box | None]
) -> Iterator[Finding]:
    last = len(file.rules) - 1
    for index, rule in enumerate(file.rules[:last]):
        if rule.when == Condition():
            yield Finding(
                places.of_rule(
                    index,
                    ("name",),
                    f"rule {rule.name!r} has no `when`, and nothing behind it is ever asked; name "
                    f"it {file.rules[last].name!r} to put it in the last one's place, or say when",
                )
            )
            return
    for index, box in enumerate(boxes):
        rule = file.rules[index]
        if box is None:
            yield Finding(
                places.of_rule(
                    index,
                    ("when",),
                    f"the conditions of {rule.name!r} can never hold together; remove one of them, "
                    "or the rule",
                )
            )
            continue
        before = [(at, each) for at, each in enumerate(boxes[:index]) if each is not None]
        if space.left_of(box, [each for _, each in before]) == []:
            covering = next(
                (file.rules[at].name for at, each in before if space.left_of(box, [each]) == []),
                None,
            )
            by = (
                f"rule {covering!r} comes first and matches"
                if covering
                else "the rules before it come first and match"
            )
            yield Finding(
                places.of_rule(
                    index,
                    ("name",),
                    f"rule {rule.name!r} is never reached: {by} all that it does; "
                    "move it up, or remove it",
                )
            )


def _overlapping(file: PolicyFile, places: Places) -> Iterator[Finding]:
    """Two stretches of one number that overlap in part: which rule acts in between depends on their
    order, which nobody reads off numbers."""
    for (first, one), (second, other) in combinations(enumerate(file.rules), 2):
        for path, ours, theirs in _bounds_alike(one, other):
            contains = theirs.low <= ours.low and ours.high <= theirs.high
            contained = ours.low <= theirs.low and theirs.high <= ours.high
            apart = ours.high <= theirs.low or theirs.high <= ours.low
            if not (contains or contained or apart) and one.then is not other.then:
                low, high = max(ours.low, theirs.low), min(ours.high, theirs.high)
                yield Finding(
                    places.of_rule(
                        second,
                        path,
                        f"overlaps with rule {file.rules[first].name!r} from {low:g} to {high:g}, "
                        f"where the two say {one.then} and {other.then}; let one end where the "
                        "other begins",
                    )
                )


def _bounds_alike(one: RuleFile, other: RuleFile) -> Iterator[tuple[Path, Bounds, Bounds]]:
    """The bounds of two rules on one number, where all else that they ask for is the same."""
    names = one.when.score.keys() & other.when.score.keys()
    for name in sorted(names):
        same = {"score": {**one.when.score, name: other.when.score[name]}}
        if one.when.model_copy(update=same) == other.when:
            yield ("when", "score", name), one.when.score[name], other.when.score[name]
    ours, theirs = one.when.reach, other.when.reach
    if ours is None or theirs is None:
        return
    if one.when.model_copy(update={"reach": theirs}) == other.when:
        yield ("when", "reach"), ours, theirs


def _let_pass(
    file: PolicyFile, places: Places, space: Space, boxes: list[Box | None]
) -> Iterator[Finding]:
    """Rules that let content be seen and do not ask what the guard said of it."""
    for index, (rule, box) in enumerate(zip(file.rules[:-1], boxes[:-1], strict=True)):
        if box is None or rule.then not in _SEEN or rule.when.safeties is not None:
            continue
        if space.possible({**box, "safety": frozenset(_NOT_SAFE)}) is None:
            continue
        yield Finding(
            places.of_rule(
                index,
                ("when",),
                f"rule {rule.name!r} says {rule.then} whatever the guard says, Unsafe content too; "
                "add the safety that is meant: safety: Safe, or all that it is to let pass",
            )
        )


def _unhandled(
    file: PolicyFile, places: Places, space: Space, boxes: list[Box | None]
) -> Iterator[Finding]:
    """What is not Safe and is left to a last rule that lets it pass."""
    last = len(file.rules) - 1
    if file.rules[last].then not in _SEEN:
        return
    handled = [box for box in boxes[:last] if box is not None]
    for safety in _NOT_SAFE:
        left, is_told = [], True
        for category in sorted(map(str, space.cells["category"])):
            box = space.possible({"safety": frozenset({safety}), "category": frozenset({category})})
            rest = [] if box is None else space.left_of(box, handled)
            is_told &= rest is not None
            if rest:
                left.append(category)
        if not is_told:
            yield Finding(
                places.of_rule(
                    last,
                    ("name",),
                    f"whether {safety} content is left to the last rule cannot be told, so many "
                    "rules ask for so much; add a rule before it that asks for the safety alone",
                ),
                is_error=False,
            )
        if left:
            named = ", ".join(each if each != NONE else "no category at all" for each in left)
            yield Finding(
                places.of_rule(
                    last,
                    ("name",),
                    f"{safety} content with {named} is left to the last rule in some or all "
                    f"cases, and it says {file.rules[last].then}; add a rule for it before, if "
                    f"only {{when: {{safety: {safety}}}, then: {file.rules[last].then}}}",
                )
            )


def _undecoded(file: PolicyFile, places: Places) -> Iterator[Finding]:
    """Rules that ask for a category where P(Safe) may be over the floor: nobody knows it there."""
    for index, rule in enumerate(file.rules):
        when = rule.when
        if when.category is None or not _may_be_over_the_floor(when):
            continue
        yield Finding(
            places.of_rule(
                index,
                ("when", "category"),
                f"the guard names categories only where P(Safe) is under {FLOOR:g}, and this rule "
                f"asks for them above it too; add safety: [Controversial, Unsafe], or "
                f"score: {{safe: {{below: {FLOOR:g}}}}}",
            )
        )


def _may_be_over_the_floor(when: Condition) -> bool:
    if when.safeties is not None and Safety.SAFE not in when.safeties:
        return False
    least = {name: max(0.0, bounds.low) for name, bounds in when.score.items()}
    safe = when.score.get("safe")
    others = max(
        least.get("flagged", 0.0), least.get("controversial", 0.0) + least.get("unsafe", 0.0)
    )
    return (safe is None or safe.high > FLOOR) and others < round(1 - FLOOR, 6)


def _weak(
    file: PolicyFile, places: Places, space: Space, boxes: list[Box | None]
) -> Iterator[Finding]:
    """Rules that go by a category alone which the guard names too often in error."""
    for index, (rule, box) in enumerate(zip(file.rules, boxes, strict=True)):
        if rule.when.category is None or box is None or _asks_for_more(box, space):
            continue
        weak = [name for name in rule.when.category if (share_right(name) or 0.0) < ENOUGH]
        if not weak or (rule.then is Action.ALLOW and _is_last_word(file, index)):
            continue
        measured = ", ".join(f"{name} ({_percent(name)})" for name in weak)
        milder = _is_milder_for_unsafe(file, index)
        if milder:
            fix = (
                "add a score, a language or another condition, or do no less than for other "
                "Unsafe content"
            )
        elif rule.then is Action.REVIEW:
            fix = f"much of another kind comes to {rule.queue}; add a score to send it less"
        else:
            fix = "let a person see it, or add a score or another condition"
        what = "makes Unsafe content milder by" if milder else "acts by"
        yield Finding(
            places.of_rule(
                index,
                ("when", "category"),
                f"rule {rule.name!r} {what} nothing but a category that the guard names in error "
                f"more than three times in ten: {measured}; {fix}",
            ),
            is_error=milder,
        )


def _asks_for_more(box: Box, space: Space) -> bool:
    """Whether anything but safety and category leaves something out."""
    return any(
        cells != space.cells[dimension]
        for dimension, cells in box.items()
        if dimension not in ("safety", "category", "task")
    ) or not _asked_alike(box)


def _asked_alike(box: Box) -> bool:
    """Whether every task is meant for which the guard answers these categories."""
    tasks, categories = box.get("task"), box.get("category", frozenset())
    return tasks is None or all(
        task in tasks for task in Task if not categories.isdisjoint(categories_of(task))
    )


def _is_last_word(file: PolicyFile, index: int) -> bool:
    """Whether what comes after would do the same: then the category changes nothing."""
    return all(rule.then is file.rules[index].then for rule in file.rules[index:])


def _percent(category: str) -> str:
    share = share_right(category)
    return "not measured" if share is None else f"right {share:.0%}"


def _is_milder_for_unsafe(file: PolicyFile, index: int) -> bool:
    """Whether Unsafe content gets less by this rule than some other Unsafe content gets by the
    rules behind it that ask for no category: whether it can be seen is what counts."""
    rule = file.rules[index]
    if Safety.UNSAFE not in (rule.when.safeties or tuple(Safety)):
        return False
    others = [
        _rank(other)
        for other in file.rules[index + 1 :]
        if other.when.category is None and Safety.UNSAFE in (other.when.safeties or tuple(Safety))
    ]
    return _rank(rule) < max(others, default=0)


def _rank(rule: RuleFile) -> int:
    """How much is seen of content meanwhile: all of it, all of it with a text, nothing."""
    if rule.then is Action.BLOCK or rule.meanwhile == "hide":
        return 2
    return 1 if rule.then in (Action.DISCLAIM, Action.REVIEW) else 0


def _without_text(file: PolicyFile, places: Places) -> Iterator[Finding]:
    """Restrictions of which some or all users are told nothing."""
    for index, rule in enumerate(file.rules):
        if rule.then is Action.ALLOW or rule.text.get(file.language, "").strip():
            continue
        what = "a disclaimer is" if rule.then is Action.DISCLAIM else "the reason is"
        yield Finding(
            places.of_rule(
                index,
                ("text",),
                f"{what} missing in the policy's own language, which stands for those that have no "
                f"text; add text: {{{file.language}: …}}",
            ),
            is_error=rule.then is Action.DISCLAIM,
        )


def _without_rule(file: PolicyFile, places: Places) -> Iterator[Finding]:
    """Budgets of queues to which nothing goes."""
    for queue in sorted(file.quotas.queues.keys() - file.queues):
        yield Finding(
            places.sentence(
                ("quotas", "queues", queue),
                f"no rule sends anything to the queue {queue!r}; those of this policy are "
                f"{', '.join(sorted(file.queues))}",
            )
        )


def _otherwise(file: PolicyFile, places: Places) -> Iterator[Finding]:
    """Of `on_outage` and its like: what is never reached."""
    lists: Iterable[tuple[str, tuple[When, ...]]] = (
        ("on_unjudged", tuple(each.when for each in file.on_unjudged)),
        ("on_outage", tuple(each.when for each in file.on_outage)),
        ("on_expired", tuple(each.when for each in file.on_expired)),
    )
    for name, whens in lists:
        for index, is_reached in enumerate(reached_rules(whens)):
            if not is_reached:
                yield Finding(
                    places.sentence(
                        (name, str(index)),
                        "is never reached: what comes before it matches all that it does; move it "
                        "up, or remove it",
                    )
                )
