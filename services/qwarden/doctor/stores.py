"""Whether the review service's database is as that service needs it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from qwarden.doctor.durations import span
from qwarden.doctor.finding import Findings
from qwarden.review.store.migrating import Fit, Schema

LATE_S = 60.0
"""What is sealed each second and published each half second, and was not for so long, is not."""


@dataclass(frozen=True, slots=True)
class StoreFacts:
    """`is_standby`: it takes no writes; `encrypted`: whether our connection is, None for a file;
    `tail_broken_at`: the first position of the log's newest rows that is not as it was sealed, of
    `tail_rows`; `unsealed_since`, `due_since`: when the oldest row without a place was written, and
    the oldest message could have been published, in seconds since 1970; `duties`: until when the
    holder of each says that it lives."""

    schema: Schema
    is_standby: bool = False
    encrypted: bool | None = None
    tail_rows: int = 0
    tail_broken_at: int | None = None
    unsealed_since: float | None = None
    due_since: float | None = None
    duties: Mapping[str, float] | None = None


def judge(found: Findings, facts: StoreFacts, *, now: float) -> None:
    """`now`: in seconds since 1970."""
    _schema(found, facts.schema)
    if facts.is_standby:
        found.wrong(
            "server",
            "it is a standby, and takes no writes: name the primary in "
            "QWARDEN_REVIEW__DATABASE_URL, or target_session_attrs=read-write behind its names",
        )
    elif facts.encrypted is None:
        found.note(
            "server",
            "it is a SQLite file: for one process of the service alone, and no fleet's; "
            "PostgreSQL is for those",
        )
    else:
        found.good("server", "it takes writes, " + ("with TLS" if facts.encrypted else "in plain"))
    if facts.schema.fit in (Fit.EMPTY, Fit.TOO_NEW):
        return
    _log(found, facts, now)
    _work(found, facts, now)


def _schema(found: Findings, schema: Schema) -> None:
    match schema.fit:
        case Fit.EMPTY:
            found.note(
                "schema",
                "it has no tables yet; the review service makes them when it starts",
            )
        case Fit.BEHIND:
            found.note(
                "schema",
                f"it has the schema {schema.revision} and this version makes {schema.own}: the "
                "review service of this version has not started yet; it migrates when it does",
            )
        case Fit.LATER:
            found.note(
                "schema",
                f"it has the later schema {schema.revision}, on which this version (schema "
                f"{schema.own}) works: a roll-back, or a roll-out that has not ended",
            )
        case Fit.TOO_NEW:
            found.wrong("schema", schema.refusal())
        case Fit.OWN:  # pragma: no branch - it is the last there is, which mypy holds
            found.good("schema", f"it has the schema {schema.revision}, this version's own")


def _log(found: Findings, facts: StoreFacts, now: float) -> None:
    if facts.tail_broken_at is not None:
        found.wrong(
            "audit log",
            f"the row at position {facts.tail_broken_at} is not as it was sealed: somebody changed "
            "it, or a restore was cut short; see: qwarden review audit verify",
        )
    elif facts.unsealed_since is not None and now - facts.unsealed_since > LATE_S:
        found.wrong(
            "audit log",
            f"rows have no place in its chain for {span(now - facts.unsealed_since)}, and could be "
            "changed unseen: no review service seals; start one, or see its log",
        )
    else:
        found.good("audit log", f"its last {facts.tail_rows:,} sealed rows are as they were sealed")


def _work(found: Findings, facts: StoreFacts, now: float) -> None:
    if facts.due_since is not None and now - facts.due_since > LATE_S:
        found.wrong(
            "outbox",
            f"decisions are due for {span(now - facts.due_since)} and not published "
            "(docs/runbooks/decisions-not-published.md)",
        )
    else:
        found.good("outbox", "no decision is late")
    late = sorted(name for name, until in (facts.duties or {}).items() if until < now - LATE_S)
    if late:
        found.note(
            "duties",
            f"nobody does {', '.join(late)} now: the process that did is gone, and none has taken "
            "it up; is a review service running?",
        )
