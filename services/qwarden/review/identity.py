"""Names for rows: 32 hexadecimal digits."""

from __future__ import annotations

import secrets


def new_id(now: float) -> str:
    """A new one; the first 12 digits are the time in milliseconds, so that rows which come together
    lie together in an index, and the rest is random. `now`: seconds since 1970."""
    return f"{int(now * 1000):012x}{secrets.token_hex(10)}"
