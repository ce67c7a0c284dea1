"""A policy: what to do about an assessment, by safety and category."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from qwarden.contracts.verdict import SEVERITY, Action
from qwarden.guard.answer import Assessment, Safety
from qwarden.guard.conversation import Task
from qwarden.guard.debounce import RULES, Consecutive, Evaluation, Rule, Threshold
from qwarden.guard.row import View, tail_of, views_of
from qwarden.guard.taxonomy import CATEGORIES
from qwarden.policy.document import Document, as_its_file, parse


def _known(name: str) -> str:
    if name not in CATEGORIES:
        raise ValueError(f"unknown category {name!r}; known are {', '.join(CATEGORIES)}")
    return name


class Actions(Document):
    """Actions for one safety: by category, and `default` for the categories not named."""

    default: Action
    categories: dict[Annotated[str, AfterValidator(_known)], Action] = Field(default_factory=dict)


class RunOfTokens(Document):
    """As the report flags answers: so many tokens in a row that are not Safe."""

    rule: Literal["consecutive"] = "consecutive"
    run: int = Field(default=2, ge=1)


class PairOfOneSafety(Document):
    """As the published evaluation script flags answers."""

    rule: Literal["evaluation"]


class RunOverThreshold(Document):
    """So many tokens in a row with P(Controversial) + P(Unsafe) of at least `p`."""

    rule: Literal["threshold"]
    p: float = Field(default=0.5, gt=0, le=1)
    run: int = Field(default=8, ge=1)


FlagRule = Annotated[RunOfTokens | PairOfOneSafety | RunOverThreshold, Field(discriminator="rule")]


class Flagging(Document):
    """When the tokens of a running session become a flag; without a rule the built-in one."""

    response: FlagRule | None = None
    thinking: FlagRule | None = None


class PolicyFile(Document):
    """The file `policies/NAME.yaml`. What is Safe is allowed."""

    name: Annotated[str, AfterValidator(as_its_file)] = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")
    controversial: Actions
    unsafe: Actions
    on_unjudged: Literal["review", "block"] = "review"
    """What happens to content that the guard cannot judge. No answer is never Safe."""
    on_outage: Literal["hold", "review", "allow"] = "hold"
    """What happens to content while the guard is away: it waits, or it is answered unjudged."""
    on_expired: Literal["allow", "disclaim", "review", "block"] = "review"
    """What happens to content whose deadline passed before it was judged."""
    flagging: Flagging = Flagging()
    """When running sessions are flagged."""
    final_look: Literal["never", "doubt", "always"] = "doubt"
    """Whether the guard that judges whole texts looks at a session when it is over: where it ends
    on tokens that are not Safe and too few for a flag, or always."""
    views: Annotated[tuple[View, ...], AfterValidator(views_of)] = tuple(View)
    """In which views content is judged; the worst one counts. A view costs a judgement more only
    where it differs from what was sent."""


@dataclass(frozen=True, slots=True)
class Decided:
    """An action and the rule that gave it."""

    action: Action
    rule: str


class Policy:
    """A policy in force. `version` is 12 hexadecimal digits of a hash of all it says."""

    __slots__ = (
        "_expired", "_file", "_outage", "_unjudged", "final_look", "name", "row_tail", "rules",
        "version", "views",
    )  # fmt: skip

    def __init__(self, file: PolicyFile) -> None:
        # Without defaults: a key that a later release adds makes no policy another one.
        said = file.model_dump(mode="json", exclude_defaults=True)
        body = json.dumps(said, sort_keys=True).encode()
        self.name = file.name
        self.version = hashlib.sha256(body).hexdigest()[:12]
        self.views = file.views
        self.row_tail = tail_of(file.views)
        self.final_look = file.final_look
        self.rules: dict[Task, Rule] = {
            **RULES,
            **{
                task: _rule_of(said)
                for task, said in (
                    (Task.RESPONSE, file.flagging.response),
                    (Task.THINKING, file.flagging.thinking),
                )
                if said is not None
            },
        }
        """When the tokens of each task are a flag."""
        self._file = file
        self._expired = Decided(Action(file.on_expired), "on_expired")
        self._unjudged = Decided(Action(file.on_unjudged), "on_unjudged")
        self._outage = (
            None if file.on_outage == "hold" else Decided(Action(file.on_outage), "on_outage")
        )

    def decide(self, safety: Safety, assessment: Assessment) -> Decided:
        """The severest action of the assessment's categories under its safety."""
        return self.decide_named(safety, [name for name, _ in assessment.categories])

    def decide_named(self, safety: Safety, categories: Sequence[str]) -> Decided:
        """The severest action of these categories under a safety."""
        if safety is Safety.SAFE:
            return _SAFE
        actions = self._file.unsafe if safety is Safety.UNSAFE else self._file.controversial
        decided = Decided(actions.default, f"{safety.value.lower()}.default")
        named = [
            Decided(actions.categories[name], f"{safety.value.lower()}.{name}")
            for name in categories
            if name in actions.categories
        ]
        if len(named) < len(categories) or not categories:
            named.append(decided)
        return max(named, key=lambda each: SEVERITY[each.action])

    def with_views(self, views: Sequence[View]) -> Policy:
        """This policy, judging these views: one of another version where they differ."""
        return Policy(self._file.model_copy(update={"views": tuple(views)}))

    def expired(self) -> Decided:
        """For content whose deadline passed."""
        return self._expired

    def in_outage(self) -> Decided | None:
        """For content while the guard is away; None where it waits."""
        return self._outage

    def unjudged(self) -> Decided:
        """For content that the guard could not judge."""
        return self._unjudged


def _rule_of(said: RunOfTokens | PairOfOneSafety | RunOverThreshold) -> Rule:
    if isinstance(said, RunOverThreshold):
        return Threshold(said.p, said.run)
    return Consecutive(said.run) if isinstance(said, RunOfTokens) else Evaluation()


_SAFE = Decided(Action.ALLOW, "safe")


def read_policy(text: str, *, file: str, expected_name: str) -> Policy:
    """Reads `policies/NAME.yaml`. Raises `DocumentError` with file, line and field."""
    return Policy(parse(text, file=file, kind=PolicyFile, context={"name": expected_name}))


def _built_in(name: str, controversial: Action, unsafe: Action) -> Policy:
    return Policy(
        PolicyFile(
            name=name,
            controversial=Actions(default=controversial),
            unsafe=Actions(default=unsafe),
        )
    )


BUILT_IN: dict[str, Policy] = {
    policy.name: policy
    for policy in (
        _built_in("default", Action.REVIEW, Action.BLOCK),
        # Qwen3Guard's two binary readings (technical report, section 3): strict takes
        # Controversial for Unsafe, loose takes it for Safe.
        _built_in("strict", Action.BLOCK, Action.BLOCK),
        _built_in("loose", Action.ALLOW, Action.BLOCK),
    )
}
