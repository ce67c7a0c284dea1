"""The conditions of rules: as people write them, and as tests of a reading."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from math import isfinite
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field, StrictBool, model_validator

from qwarden.contracts.values import Origin, Plain
from qwarden.guard.answer import Safety
from qwarden.guard.conversation import Task
from qwarden.guard.language import UNDETERMINED, canonical, is_known, is_of
from qwarden.guard.taxonomy import CATEGORIES
from qwarden.policy.document import Document
from qwarden.policy.reading import Circumstances, Holds, Reading, Score, score_of

T = TypeVar("T")


def _listed(given: Any) -> Any:
    return given if isinstance(given, list | tuple) else [given]


def _once(given: tuple[T, ...]) -> tuple[T, ...]:
    return tuple(dict.fromkeys(given))


def _category(name: str) -> str:
    if name not in CATEGORIES:
        raise ValueError(f"unknown category {name!r}; known are {', '.join(CATEGORIES)}")
    return name


def _language(tag: str) -> str:
    """A tag as content has it, so that a rule of it can match."""
    if tag == UNDETERMINED:
        return tag
    written = canonical(tag)
    if written is None or not is_known(written):
        raise ValueError(
            f"unknown language {tag!r}; give a tag such as de, pt-BR or zh-Hans, in which the "
            "language is a code of ISO 639"
        )
    if written != tag:
        raise ValueError(f"the language {tag!r} is written {written!r}; write it so")
    return tag


def _number(given: Any) -> Any:
    if isinstance(given, bool) or not isinstance(given, int | float) or not isfinite(given):
        raise ValueError(f"{given!r} is no number; write one, without quotes")
    return given


def _plain(given: Any) -> Any:
    if isinstance(given, float) and not isfinite(given):
        raise ValueError(f"{given!r} is no number that content can have; remove it")
    if not isinstance(given, str | int | float | bool):
        raise ValueError(f"{given!r} is neither text, number, true nor false; put it in quotes")
    return given


Language = Annotated[
    str,
    AfterValidator(_language),
    Field(json_schema_extra={"pattern": "^[a-z]{2,3}(-[A-Za-z0-9]{1,8})*$"}),
]
Category = Annotated[
    str, AfterValidator(_category), Field(json_schema_extra={"enum": list(CATEGORIES)})
]
Number = Annotated[float, BeforeValidator(_number, json_schema_input_type=float)]
Text = Annotated[str, Field(min_length=1)]
PlainValue = Annotated[Plain, BeforeValidator(_plain, json_schema_input_type=Plain)]


def one_or_more(kind: Any) -> BeforeValidator:
    """Takes one value for a list of it."""
    return BeforeValidator(_listed, json_schema_input_type=kind | list[kind])


_each_once = AfterValidator(_once)
_some = Field(min_length=1)


class Bounds(Document):
    """Numbers from `at_least` to those `below`."""

    at_least: Number | None = None
    below: Number | None = None

    @model_validator(mode="after")
    def _holds_something(self) -> Bounds:
        if self.at_least is None and self.below is None:
            raise ValueError("give at_least, below, or both")
        if self.low >= self.high:
            raise ValueError(f"no number is at least {self.at_least} and below {self.below}")
        return self

    @property
    def given(self) -> tuple[float, ...]:
        """The numbers themselves, one or two."""
        return tuple(number for number in (self.at_least, self.below) if number is not None)

    @property
    def low(self) -> float:
        return -float("inf") if self.at_least is None else self.at_least

    @property
    def high(self) -> float:
        return float("inf") if self.below is None else self.below


def _within_one(bounds: Bounds) -> Bounds:
    for number in bounds.given:
        if not 0 <= number <= 1:
            raise ValueError(f"a score is from 0 to 1, and {number:g} is not")
    return bounds


class When(Document):
    """What is known before anybody judges; every condition that is given must hold."""

    tenant: Annotated[tuple[Text, ...], one_or_more(Text), _each_once, _some] | None = None
    task: Annotated[tuple[Task, ...], one_or_more(Task), _each_once, _some] | None = None
    language: Annotated[tuple[Language, ...], one_or_more(Language), _each_once, _some] | None = (
        None
    )
    """The event's, or the one that was detected; `pt` holds for `pt-BR` too."""
    origin: Annotated[tuple[Origin, ...], one_or_more(Origin), _each_once, _some] | None = None
    reach: Bounds | None = None
    """How many people see the content; an event without one meets no bound."""
    metadata: dict[str, Annotated[tuple[PlainValue, ...], one_or_more(PlainValue), _some]] = Field(
        default_factory=dict
    )
    """Values of the event's metadata, by name. What a policy names is kept in its verdicts."""


class Condition(When):
    """What a rule asks for; every condition that is given must hold. A rule that asks for a
    category, and for no safety and no score, asks for what is not Safe."""

    safety: Annotated[tuple[Safety, ...], one_or_more(Safety), _each_once, _some] | None = None
    category: Annotated[tuple[Category, ...], one_or_more(Category), _each_once, _some] | None = (
        None
    )
    """Holds where the guard named any of these."""
    refusal: StrictBool | None = None
    """Whether an answer refuses; it never holds for prompts and thoughts."""
    score: dict[Score, Annotated[Bounds, AfterValidator(_within_one)]] = Field(default_factory=dict)
    """Probabilities from 0 to 1: where Controversial begins is a number of the policy's."""

    @property
    def safeties(self) -> tuple[Safety, ...] | None:
        """The safeties that this asks for, or None for any."""
        if self.safety is None and self.category is not None and not self.score:
            return Safety.CONTROVERSIAL, Safety.UNSAFE
        return self.safety


def compiled(when: When) -> tuple[Holds, ...]:
    """A test for each condition, the cheapest first. All that hold make the rule match."""
    return (*_tests_of_judgement(when), *_tests_of_circumstances(when))


def holds(tests: Iterable[Holds], reading: Reading) -> bool | None:
    """Whether all tests hold; None where none fails and one cannot be told."""
    told: bool | None = True
    for test in tests:
        one = test(reading)
        if one is False:
            return False
        if one is None:
            told = None
    return told


def _tests_of_judgement(when: When) -> Iterable[Holds]:
    if not isinstance(when, Condition):
        return
    safeties, refusal = when.safeties, when.refusal
    if safeties is not None:
        known = frozenset(safeties)
        yield lambda reading: reading.safety in known
    if refusal is not None:
        yield lambda reading: reading.refusal is refusal
    for name, bounds in when.score.items():
        yield _score(name, bounds)
    if when.category is not None:
        yield _named(frozenset(when.category))


def _score(name: Score, bounds: Bounds) -> Holds:
    low, high = bounds.low, bounds.high
    return lambda reading: low <= score_of(name, reading.scores) < high


def _named(categories: frozenset[str]) -> Holds:
    def test(reading: Reading) -> bool | None:
        if reading.categories is None:
            return None
        return not categories.isdisjoint(reading.categories)

    return test


def _tests_of_circumstances(when: When) -> Iterable[Holds]:
    if when.tenant is not None:
        yield _among(lambda about: about.tenant, when.tenant)
    if when.task is not None:
        yield _among(lambda about: about.task, map(str, when.task))
    if when.origin is not None:
        yield _among(lambda about: about.origin, when.origin)
    if when.language is not None:
        yield _spoken(when.language)
    if when.reach is not None:
        yield _reached(when.reach)
    for name, values in when.metadata.items():
        yield _carried(name, values)


def _among(read: Callable[[Circumstances], str], words: Iterable[str]) -> Holds:
    known = frozenset(words)
    return lambda reading: read(reading.about) in known


def _spoken(languages: tuple[str, ...]) -> Holds:
    return lambda reading: any(is_of(asked, reading.about.language) for asked in languages)


def _reached(bounds: Bounds) -> Holds:
    low, high = bounds.low, bounds.high

    def test(reading: Reading) -> bool:
        reach = reading.about.reach
        return reach is not None and low <= reach < high

    return test


def _carried(name: str, values: tuple[Plain, ...]) -> Holds:
    # By type too: in Python 1 is True.
    wanted = {(type(value), value) for value in values}

    def test(reading: Reading) -> bool | None:
        if name in reading.about.unknown:
            return None
        carried = reading.about.metadata.get(name)
        return carried is not None and (type(carried), carried) in wanted

    return test


def unjudged(about: Circumstances) -> Reading:
    """A reading for rules that ask for circumstances alone."""
    return Reading(about, Safety.SAFE, (0.0, 0.0, 0.0))
