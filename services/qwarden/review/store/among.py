"""A condition for many events at once."""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import ColumnElement, Table, and_, or_


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
