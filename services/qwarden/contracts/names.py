"""How a tenant and what is its own are one name: in keys of records and ids of signals."""

from __future__ import annotations


def name_of(tenant: str, own: str) -> str:
    """`demo/c81f`. `own`: an event's or a session's id.

    No two pairs have one name: a slash of the tenant is written as in a URL, so that the first one
    of the name stands between the two.
    """
    return f"{tenant.replace('%', '%25').replace('/', '%2F')}/{own}"
