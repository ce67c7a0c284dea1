"""The file `policies/NAME.yaml`, as people write it; its JSON Schema is for their editors."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PlainSerializer,
    StrictBool,
    model_validator,
)

from qwarden.contracts.values import Origin
from qwarden.contracts.verdict import Action
from qwarden.guard.answer import Safety
from qwarden.guard.conversation import Task
from qwarden.guard.row import View, views_of
from qwarden.guard.taxonomy import categories_of
from qwarden.policy.conditions import (
    Category,
    Condition,
    Language,
    Number,
    PlainValue,
    When,
    one_or_more,
)
from qwarden.policy.document import Document, as_its_file
from qwarden.policy.reading import Score

NAME = r"^[a-z0-9][a-z0-9-]{0,62}$"
"""Of policies, rules and queues: what fits a file, a metric's label and a header alike."""

Named = Annotated[str, Field(pattern=NAME)]

_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86400}


_TIME = r"([1-9][0-9]{0,7})([smhd])"


def _seconds(given: Any) -> Any:
    match = re.fullmatch(_TIME, given) if isinstance(given, str) else None
    if match is None:
        raise ValueError(f"{given!r} is no time; write a number and s, m, h or d, such as 15m")
    return int(match[1]) * _UNITS_S[match[2]]


_Written = Annotated[str, Field(pattern=f"^{_TIME}$")]
Duration = Annotated[
    int,
    BeforeValidator(_seconds, json_schema_input_type=_Written),
    PlainSerializer(lambda seconds: f"{seconds}s", when_used="json"),
    Field(le=366 * 86400),
]
"""A time in seconds; where it is written with its unit, such as `15m`."""
Count = Annotated[int, Field(strict=True, ge=1)]
Harm = Annotated[int, Field(strict=True, ge=1, le=10)]
"""How bad it is to be late: a queue is worked off by age × harm × reach."""
Meanwhile = Literal["show", "hide"]
OnBreach = Literal["raise", "allow", "block"]


class RunOfTokens(Document):
    """As the report flags answers: so many tokens in a row that are not Safe."""

    rule: Literal["consecutive"]
    run: Count = 2


class PairOfOneSafety(Document):
    """As the published evaluation script flags answers."""

    rule: Literal["evaluation"]


class RunOverThreshold(Document):
    """So many tokens in a row with P(Controversial) + P(Unsafe) of at least `p`."""

    rule: Literal["threshold"]
    p: Annotated[Number, Field(gt=0, le=1)] = 0.5
    run: Count = 8


FlagRule = Annotated[RunOfTokens | PairOfOneSafety | RunOverThreshold, Field(discriminator="rule")]


class Flagging(Document):
    """When the tokens of a running session become a flag; without a rule the built-in one."""

    response: FlagRule | None = None
    thinking: FlagRule | None = None


class Handling(Document):
    """How people are asked: all of it is in the escalation."""

    queue: Named
    harm: Harm
    sla: Duration
    """Within what time a person is to decide, such as `15m` or `2d`."""
    meanwhile: Meanwhile
    """What the platform does with the content until then."""
    on_breach: OnBreach
    """What happens when that time is over: `raise` puts it into the urgent queue; the others act,
    and the item stays open."""


class RuleFile(Document):
    """A rule: where `when` holds, `then` is done. The first rule that matches acts."""

    name: Named
    when: Condition = Condition()
    then: Action
    ground: Literal["law", "terms"] | None = None
    """Whether content is restricted for the law or for the platform's terms."""
    clause: str | None = Field(default=None, min_length=1, max_length=200)
    """Which clause of the law or of the terms."""
    text: dict[Language, str] = Field(default_factory=dict)
    """What the user is told, by language; for `disclaim`, what stands beside the content."""
    queue: Named | None = None
    harm: Harm | None = None
    sla: Duration | None = None
    meanwhile: Meanwhile | None = None
    on_breach: OnBreach | None = None

    @model_validator(mode="after")
    def _is_whole(self) -> RuleFile:
        asks = tuple(Handling.model_fields)
        given = [name for name in asks if getattr(self, name) is not None]
        if self.then is Action.REVIEW and len(given) < len(asks):
            lacking = ", ".join(name for name in asks if name not in given)
            raise ValueError(f"a review needs {lacking} too; such as {_SUCH_AS}")
        if self.then is not Action.REVIEW and given:
            raise ValueError(f"{', '.join(given)} is for `then: review`; remove it")
        if self.then is Action.ALLOW and (self.ground or self.clause or self.text):
            raise ValueError("what is allowed has no ground, clause or text; remove them")
        if self.then is not Action.ALLOW and (self.ground is None or self.clause is None):
            raise ValueError(
                f"`then: {self.then}` restricts; name its ground (law or terms), its clause, and "
                "the text that the user gets, by language"
            )
        if self.then is Action.DISCLAIM and not any(self.text.values()):
            raise ValueError("a disclaimer needs its text, by language: text: {en: …}")
        return self

    @property
    def handling(self) -> Handling | None:
        """How people are asked, where they are."""
        if self.then is not Action.REVIEW:
            return None
        return Handling.model_construct(
            **{name: getattr(self, name) for name in Handling.model_fields}
        )


_SUCH_AS = "queue: general, harm: 5, sla: 4h, meanwhile: hide, on_breach: raise"


def _as_one_rule(given: Any) -> Any:
    return [{"then": given}] if isinstance(given, str) else given


class _Otherwise(Document):
    when: When = When()


class OnOutage(_Otherwise):
    """What happens in some circumstances while the guard is away."""

    then: Literal["hold", "review", "allow"]


class OnUnjudged(_Otherwise):
    """What happens in some circumstances to what the guard cannot judge."""

    then: Literal["review", "block"]


class OnExpired(_Otherwise):
    """What happens in some circumstances to what came too late."""

    then: Literal["allow", "review", "block"]


def _ends_without_condition(rules: tuple[Any, ...]) -> tuple[Any, ...]:
    if not rules or rules[-1].when != When():
        raise ValueError("the last one must have no `when`, so that nothing is left out")
    return rules


def _one_or_rules(words: Any, kind: Any) -> Any:
    return BeforeValidator(_as_one_rule, json_schema_input_type=words | list[kind])


class Budget(Document):
    """How much people take of one queue."""

    an_hour: Count
    """Items that policies may send them in an hour, over the whole fleet."""
    overflow: Literal["allow", "block"]
    """What is done with what is more."""


class Quotas(Document):
    """Brakes on what is done without a person, over the whole fleet."""

    blocks_an_hour: Count | None = None
    """Of each tenant; more blocks than this become reviews, by the fallback."""
    queues: dict[Named, Budget] = Field(default_factory=dict)
    """By queue."""


def _check_scores(score: dict[Any, float], safety: Safety | None) -> None:
    if len(score) < 3:
        raise ValueError("score: give all three, safe, controversial and unsafe")
    if min(score.values()) < 0 or abs(sum(score.values()) - 1) > 0.0015:
        raise ValueError("score: the three are probabilities, and must make 1")
    if safety is not None and score[safety.value.lower()] < max(score.values()):
        raise ValueError(f"score: the guard says {safety} where that is the likeliest; it is not")


class Given(Document):
    """What a case supposes."""

    safety: Safety | None = None
    score: dict[Literal["safe", "controversial", "unsafe"], Number] | None = None
    """Without it the safety has 0.98, and the others share the rest."""
    category: Annotated[tuple[Category, ...], one_or_more(Category)] = ()
    refusal: StrictBool | None = None
    task: Task = Task.PROMPT
    language: Language = "en"
    tenant: str = "any"
    origin: Origin = "automatic"
    reach: Annotated[int, Field(strict=True, ge=0)] | None = None
    metadata: dict[str, PlainValue] = Field(default_factory=dict)
    instead: Literal["judged", "outage", "unjudged", "expired"] = "judged"
    """What becomes of it: it is judged, the guard is away, or cannot say, or it came too late."""

    @model_validator(mode="after")
    def _says_what_was_judged(self) -> Given:
        if (self.instead == "judged") != (self.safety is not None):
            raise ValueError("give the safety of what is judged, and of nothing else")
        if self.score is not None:
            _check_scores(self.score, self.safety)
        if self.safety is Safety.SAFE and self.category and self.score is None:
            raise ValueError("what is Safe has no category; or give the score")
        strange = [name for name in self.category if name not in categories_of(self.task)]
        if strange:
            raise ValueError(f"the guard never says {', '.join(strange)} of a {self.task}")
        if self.refusal is not None and self.task is not Task.RESPONSE:
            raise ValueError("only a response refuses, or does not; leave refusal out")
        return self


class Expected(Document):
    """What must come of a case; what is not named may be anything."""

    action: Action | Literal["hold"]
    rule: str | None = None
    queue: str | None = None
    meanwhile: Meanwhile | None = None


class CaseFile(Document):
    """A test of the policy, which runs before it is used anywhere."""

    name: str = Field(min_length=1, max_length=200)
    given: Given
    expect: Expected


FALLBACK = Handling.model_validate(
    {"queue": "general", "harm": 5, "sla": "1d", "meanwhile": "hide", "on_breach": "raise"}
)
"""For a review that no rule asked for: a day, and hidden until then, since nobody has said that it
may be seen."""


class PolicyFile(Document):
    """The file `policies/NAME.yaml`."""

    name: Annotated[Named, AfterValidator(as_its_file)]
    extends: Named | None = None
    """A policy whose fields and rules this one takes over. Own fields stand instead of them; an own
    rule stands instead of one of the same name, else before all of them."""
    language: Language = "en"
    """Whose text is given where a rule has none in the content's language."""
    rules: tuple[RuleFile, ...] = ()
    """The first that matches acts; the last one has no `when`."""
    fallback: Handling = FALLBACK
    """How people are asked where no review rule says so: a freeze, a quota, an outage, content that
    cannot be judged or came too late, a user's report."""
    on_unjudged: Annotated[
        tuple[OnUnjudged, ...],
        _one_or_rules(Literal["review", "block"], OnUnjudged),
        AfterValidator(_ends_without_condition),
    ] = (OnUnjudged(then="review"),)
    """What happens to content that the guard cannot judge. No answer is never Safe."""
    on_outage: Annotated[
        tuple[OnOutage, ...],
        _one_or_rules(Literal["hold", "review", "allow"], OnOutage),
        AfterValidator(_ends_without_condition),
    ] = (OnOutage(then="hold"),)
    """What happens to content while the guard is away: it waits, or it is answered unjudged."""
    on_expired: Annotated[
        tuple[OnExpired, ...],
        _one_or_rules(Literal["allow", "review", "block"], OnExpired),
        AfterValidator(_ends_without_condition),
    ] = (OnExpired(then="review"),)
    """What happens to content whose deadline passed before it was judged."""
    on_report: Literal["review", "rules"] = "review"
    """What a user's report does: people see what no rule blocks, or the rules alone decide."""
    quotas: Quotas = Quotas()
    flagging: Flagging = Flagging()
    """When running sessions are flagged."""
    final_look: Literal["never", "doubt", "always"] = "doubt"
    """Whether the guard that judges whole texts looks at a session when it is over: where it ends
    on tokens that are not Safe and too few for a flag, or always."""
    views: Annotated[tuple[View, ...], AfterValidator(views_of)] = tuple(View)
    """In which views content is judged; the worst one counts. A view costs a judgement more only
    where it differs from what was sent."""
    cases: tuple[CaseFile, ...] = ()
    """Tests of this policy; they are no part of its version."""

    @property
    def whens(self) -> tuple[When, ...]:
        """Every condition that stands in it."""
        others: list[_Otherwise] = [*self.on_unjudged, *self.on_outage, *self.on_expired]
        return (*(rule.when for rule in self.rules), *(each.when for each in others))

    @property
    def least_flagged(self) -> float:
        """The least P(Controversial) + P(Unsafe) at which a flag rule of its own calls a token not
        Safe that is likelier Safe; 1 where none does."""
        rules = (self.flagging.response, self.flagging.thinking)
        return min([1.0, *(rule.p for rule in rules if isinstance(rule, RunOverThreshold))])

    @property
    def queues(self) -> frozenset[str]:
        """Where it can send anything."""
        own = [rule.queue for rule in self.rules if rule.queue is not None]
        return frozenset([*own, self.fallback.queue])

    @property
    def metadata(self) -> tuple[str, ...]:
        """The names of the metadata that rules read, sorted."""
        return tuple(sorted({name for when in self.whens for name in when.metadata}))

    @property
    def thresholds(self) -> tuple[tuple[Score, float], ...]:
        """Every number that a rule compares a score with."""
        return tuple(
            sorted(
                {
                    (name, number)
                    for rule in self.rules
                    for name, bounds in rule.when.score.items()
                    for number in bounds.given
                }
            )
        )
