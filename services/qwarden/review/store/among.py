"""Questions about many at once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from sqlalchemy import ColumnElement, Table, and_, or_

_MOST = 1000
"""Names in one statement: both databases take some 32,000 parameters at most."""


def among(table: Table, events: Iterable[tuple[str, str]]) -> ColumnElement[bool]:
    """Rows about one of these events, each by its tenant and id; at least one.

    By tenant, since lists of pairs are slow: SQLite uses no index for them, and PostgreSQL plans
    one for each pair.
    """
    tenants: dict[str, list[str]] = {}
    for tenant, event_id in sorted(set(events)):
        tenants.setdefault(tenant, []).append(event_id)
    return or_(
        *(
            and_(table.c.tenant == tenant, table.c.event_id.in_(event_ids))
            for tenant, event_ids in tenants.items()
        )
    )


def in_parts(names: Sequence[str]) -> Iterator[Sequence[str]]:
    """As many as one statement takes, until all are through."""
    for begin in range(0, len(names), _MOST):
        yield names[begin : begin + _MOST]
