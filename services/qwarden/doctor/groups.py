"""Whether each consumer group reads on, and what waits for it. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from qwarden.contracts import topics
from qwarden.delivery.positions import Lost, start_of
from qwarden.doctor.durations import span
from qwarden.doctor.finding import Findings

LATE_S = 600.0
"""So long may what is fresh wait before somebody should know."""


@dataclass(frozen=True, slots=True)
class Standing:
    """One partition. `committed`: None where the group has committed nothing; `begin`, `end`: the
    offsets of the topic; `waits_since`: the Kafka timestamp, in seconds since 1970, of the oldest
    record that is not done, None where there is none or it could not be read in time."""

    partition: int
    committed: int | None
    begin: int
    end: int
    waits_since: float | None = None

    @property
    def waiting(self) -> int:
        """Offsets between what is done and the end: the records, and the holes between them."""
        start = self.begin if self.committed is None else self.committed
        return max(0, self.end - max(start, self.begin))


@dataclass(frozen=True, slots=True)
class GroupFacts:
    """A group on one topic. `service`: whose it is; `members`: of the whole group."""

    service: str
    group: str
    topic: str
    state: str
    members: int
    standing: tuple[Standing, ...]


def judge(found: Findings, facts: GroupFacts, *, now: float, retention_s: float) -> None:
    """`now`: in seconds since 1970; `retention_s`: of the topic."""
    about = f"{facts.topic} ({facts.group})"
    lost = [
        sentence
        for each in facts.standing
        if isinstance(at := start_of(each.committed, each.begin, each.end), Lost)
        for sentence in [at.sentence(facts.topic, each.partition)]
    ]
    for sentence in lost:
        found.wrong(about, sentence)
    waiting = sum(each.waiting for each in facts.standing)
    since = min((each.waits_since for each in facts.standing if each.waits_since), default=None)
    age_s = None if since is None else max(0.0, now - since)
    aged = "" if age_s is None else f", the oldest for {span(age_s)}"
    began = any(each.committed is not None for each in facts.standing)
    if facts.members == 0:
        _nobody(found, facts, about, waiting, aged, began)
    elif age_s is not None and age_s > retention_s / 2:
        left = span(max(0.0, retention_s - age_s))
        found.wrong(
            about,
            f"{waiting:,} records wait{aged}, over half of the {span(retention_s)} that the topic "
            f"keeps them: in {left} the first are lost; lengthen retention.ms now, then see why "
            f"the {facts.service} is behind (docs/runbooks/lag-age.md)",
        )
    elif age_s is not None and age_s > LATE_S and facts.topic not in _MAY_WAIT:
        found.wrong(
            about,
            f"{waiting:,} records wait{aged}: nothing fresh should; see why the {facts.service} is "
            "behind (docs/runbooks/lag-age.md)",
        )
    elif not lost:
        found.good(
            about,
            f"{facts.members} in the group, {facts.state.lower()}; {waiting:,} records wait{aged}",
        )


_MAY_WAIT = frozenset({topics.BACKLOG})
"""What is old goes there on purpose."""


def _nobody(
    found: Findings, facts: GroupFacts, about: str, waiting: int, aged: str, began: bool
) -> None:
    if not waiting:
        said = "nothing waits, and nobody is there to read what comes"
        if began:
            found.note(about, f"{said}: no {facts.service} is in the group; start one")
        else:
            found.left_out(about, f"{said}: no {facts.service} was ever here")
    elif not began and facts.topic in (topics.REVIEW, topics.EVIDENCE):
        found.note(
            about,
            f"{waiting:,} records wait{aged} and no {facts.service} was ever here: nobody decides "
            "what is escalated; start one where people are to",
        )
    else:
        found.wrong(
            about,
            f"{waiting:,} records wait{aged} and nobody reads them: the group has no member; start "
            f"a {facts.service}, or see in its log why it does not join",
        )


def forbidden(found: Findings, group: str, what: str) -> None:
    """The broker does not let this user see or use a group."""
    found.wrong(group, f"this user may not {what} it; allow Describe and Read on the group {group}")
