"""A policy in force: what is done about what the guard says of content."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from qwarden.contracts.verdict import SEVERITY, Action
from qwarden.guard.answer import Triple
from qwarden.guard.conversation import Task
from qwarden.guard.debounce import RULES, Consecutive, Evaluation, Rule, Threshold
from qwarden.guard.language import is_of
from qwarden.guard.row import View, tail_of
from qwarden.policy.conditions import compiled, holds, unjudged
from qwarden.policy.file import (
    FlagRule,
    Handling,
    OnExpired,
    OnOutage,
    OnUnjudged,
    PolicyFile,
    RuleFile,
    RunOfTokens,
    RunOverThreshold,
)
from qwarden.policy.reading import Circumstances, Holds, Reading, score_of

ON_REPORT = "on_report"
BY_OVERRIDE = "by_override"
"""Instead of a rule's name, which has no underscore: a person's decision acted."""
_FREEZE = "freeze"


@dataclass(frozen=True, slots=True)
class Reason:
    """What a user is told of a restriction: its ground, its clause, and texts by language."""

    ground: str
    clause: str
    texts: Mapping[str, str]
    default_language: str

    def text(self, language: str | None) -> str | None:
        """The text in this language or a wider one, else in the policy's own; None where that is
        empty."""
        for tag in (language or "", self.default_language):
            of_it = [known for known in self.texts if is_of(known, tag)]
            if of_it:
                # The closest: of `zh` and `zh-Hant` the second for `zh-Hant-TW`, and `id` before
                # `ms`, which `id` is within.
                begins = f"{tag}-".lower()
                closest = max(
                    of_it, key=lambda known: (begins.startswith(f"{known}-".lower()), len(known))
                )
                return self.texts[closest].strip() or None
        return None


@dataclass(frozen=True, slots=True)
class Decided:
    """An action and the rule that gave it; for reviews how people are asked; for restrictions of a
    rule the reason."""

    action: Action
    rule: str
    handling: Handling | None = None
    reason: Reason | None = None


@dataclass(frozen=True, slots=True)
class Undecided:
    """Nothing can be said: this rule may match or not, for want of what it reads."""

    rule: str


@dataclass(frozen=True, slots=True)
class _Rule:
    tests: tuple[Holds, ...]
    decided: Decided | None
    """None: it waits for the guard."""


class Policy:
    """A policy in force. `version` is 12 hexadecimal digits of a hash of all it says, and of a
    freeze that acts on it; `serial` the offset of what last bore on it on the control topic, 0
    where nothing did."""

    __slots__ = (
        "_expired", "_outage", "_rules", "_unjudged", "fallback", "file", "final_look", "flags",
        "frozen", "metadata", "name", "on_report", "row_tail", "serial", "thresholds", "version",
        "views",
    )  # fmt: skip

    def __init__(self, file: PolicyFile, *, serial: int = 0, frozen: bool = False) -> None:
        self.file = file
        self.frozen = frozen
        self.serial = serial
        self.name = file.name
        self.version = version_of(file, frozen=frozen)
        self.views = file.views
        self.row_tail = tail_of(file.views)
        self.final_look = file.final_look
        self.metadata = file.metadata
        """The metadata that rules read: what a verdict's facts hold."""
        self.thresholds = file.thresholds
        self.flags = _flags_of(file)
        """When the tokens of each task are a flag."""
        self.on_report = file.on_report == "review"
        self.fallback = _kept_open(file.fallback) if frozen else file.fallback
        """How people are asked where no review rule says so."""
        self._rules = tuple(
            _Rule(compiled(rule.when), self._held(_decided(rule, file))) for rule in file.rules
        )
        self._unjudged = self._otherwise("on_unjudged", file.on_unjudged)
        self._expired = self._otherwise("on_expired", file.on_expired)
        self._outage = self._otherwise("on_outage", file.on_outage)

    def decide(self, reading: Reading) -> Decided:
        """What the first rule that matches says. A rule of which this cannot be told does not
        match; those that are checked leave no such reading to a guard of the measured floor."""
        for rule in self._rules:
            if holds(rule.tests, reading) and rule.decided is not None:
                return self._reported(reading.about, rule.decided)
        raise AssertionError("the last rule of a policy has no condition")

    def decide_or_tell(self, reading: Reading) -> Decided | Undecided:
        """As `decide`, for what is read from a record: where a rule before the first that matches
        may match as well, that is told, never guessed."""
        for rule in self._rules:
            matches = holds(rule.tests, reading)
            if rule.decided is not None and matches is None:
                return Undecided(rule.decided.rule)
            if rule.decided is not None and matches:
                return self._reported(reading.about, rule.decided)
        raise AssertionError("the last rule of a policy has no condition")

    def expired(self, about: Circumstances) -> Decided:
        """For content whose deadline passed."""
        decided = _first(self._expired, about)
        assert decided is not None
        return decided

    def in_outage(self, about: Circumstances) -> Decided | None:
        """For content while the guard is away; None where it waits."""
        return _first(self._outage, about)

    @property
    def answers_in_outage(self) -> bool:
        """Whether there are circumstances in which nothing waits for the guard."""
        return any(rule.decided is not None for rule in self._outage)

    def unjudged(self, about: Circumstances) -> Decided:
        """For content that the guard could not judge."""
        decided = _first(self._unjudged, about)
        assert decided is not None
        return decided

    def by_person(self, action: Action, ground: str | None, clause: str | None) -> Decided:
        """What a person decided of equal content, whatever the rules say, and a freeze: that stops
        what is automatic, and somebody has looked at this. The user is told what a rule says that
        has this ground and clause, rather one with this action; without one there is no text."""
        if action is Action.ALLOW or ground is None or clause is None:
            return Decided(action, BY_OVERRIDE)
        alike = [rule for rule in self.file.rules if (rule.ground, rule.clause) == (ground, clause)]
        rule = min(alike, key=lambda each: each.then is not action, default=None)
        texts = {} if rule is None else rule.text
        return Decided(
            action, BY_OVERRIDE, reason=Reason(ground, clause, texts, self.file.language)
        )

    def by_fallback(self, rule: str) -> Decided:
        """A review that no review rule asked for."""
        return Decided(Action.REVIEW, rule, self.fallback)

    def handling_of(self, rule: str) -> Handling:
        """How people are asked for a review that this rule gave, or the fallback for one that no
        review rule did."""
        for each in self._rules:
            decided = each.decided
            if decided is not None and decided.rule == rule and decided.handling is not None:
                return decided.handling
        return self.fallback

    def is_near(self, scores: Triple, bound: float) -> bool:
        """Whether a score is so close to a number that a rule compares it with, that the guard's
        own noise may have put it on its side."""
        return any(
            abs(score_of(name, scores) - number) <= bound for name, number in self.thresholds
        )

    def with_views(self, views: Sequence[View]) -> Policy:
        """This policy, judging these views: one of another version where they differ."""
        file = self.file.model_copy(update={"views": tuple(views)})
        return Policy(file, serial=self.serial, frozen=self.frozen)

    def standing(self, *, serial: int, frozen: bool) -> Policy:
        """This policy as it acts after the record at `serial`: under a freeze nothing automatic
        ends in `block`."""
        if (serial, frozen) == (self.serial, self.frozen):
            return self
        return Policy(self.file, serial=serial, frozen=frozen)

    def _held(self, decided: Decided) -> Decided:
        """Under a freeze what would be blocked goes to people, and stays there on a breach."""
        if not self.frozen:
            return decided
        if decided.action is Action.BLOCK:
            # Whose time is over without a word is not shown either: nobody has said that it may be.
            handling = self.fallback.model_copy(update={"on_breach": "raise"})
            return Decided(Action.REVIEW, decided.rule, handling, decided.reason)
        if decided.handling is None:
            return decided
        return replace(decided, handling=_kept_open(decided.handling))

    def _otherwise(
        self, name: str, others: Iterable[OnOutage | OnUnjudged | OnExpired]
    ) -> tuple[_Rule, ...]:
        made = []
        for each in others:
            decided = None
            if each.then != "hold":
                action = Action(each.then)
                handling = self.fallback if action is Action.REVIEW else None
                decided = self._held(Decided(action, name, handling))
            made.append(_Rule(compiled(each.when), decided))
        return tuple(made)

    def _reported(self, about: Circumstances, decided: Decided) -> Decided:
        """What a user reported is seen by people, unless a rule asks for more."""
        reported = self.on_report and about.origin == "user_report"
        if not reported or SEVERITY[decided.action] >= SEVERITY[Action.REVIEW]:
            return decided
        return self.by_fallback(ON_REPORT)


def version_of(file: PolicyFile, *, frozen: bool = False) -> str:
    """The version of a resolved policy: a hash of all that it says, without its cases."""
    hashed = hashlib.sha256(body_of(file))
    if frozen:
        hashed.update(_FREEZE.encode())
    return hashed.hexdigest()[:12]


def version_under(version: str, action: Action, decision_id: str) -> str:
    """What verdicts call the version where a person's decision acts instead of a policy of this
    one."""
    said = "\0".join((version, BY_OVERRIDE, action, decision_id))
    return hashlib.sha256(said.encode()).hexdigest()[:12]


def body_of(file: PolicyFile) -> bytes:
    """The canonical form of a resolved policy, JSON: what is hashed, and what comes into force."""
    # Without defaults: a key that a later release adds makes no policy another one.
    said = file.model_dump(mode="json", exclude_defaults=True, exclude={"cases", "extends"})
    return json.dumps(said, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode()


def _kept_open(handling: Handling) -> Handling:
    """A breach blocks nothing: the item stays with people."""
    if handling.on_breach != "block":
        return handling
    return handling.model_copy(update={"on_breach": "raise"})


def _first(rules: Iterable[_Rule], about: Circumstances) -> Decided | None:
    reading = unjudged(about)
    return next(rule.decided for rule in rules if holds(rule.tests, reading))


def _decided(rule: RuleFile, file: PolicyFile) -> Decided:
    reason = None
    if rule.ground is not None and rule.clause is not None:
        reason = Reason(rule.ground, rule.clause, rule.text, file.language)
    return Decided(rule.then, rule.name, rule.handling, reason)


def _flags_of(file: PolicyFile) -> dict[Task, Rule]:
    said = {Task.RESPONSE: file.flagging.response, Task.THINKING: file.flagging.thinking}
    own = {task: _flag(rule) for task, rule in said.items() if rule is not None}
    return {**RULES, **own}


def _flag(said: FlagRule) -> Rule:
    if isinstance(said, RunOverThreshold):
        return Threshold(said.p, said.run)
    return Consecutive(said.run) if isinstance(said, RunOfTokens) else Evaluation()
