"""What the values of fields may be that several records have."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

import msgspec

Instant = Annotated[datetime, msgspec.Meta(tz=True)]
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
Count = Annotated[int, msgspec.Meta(ge=0, le=2**53 - 1)]
"""Up to the largest number that every reader of JSON holds exactly."""
Origin = Literal["automatic", "user_report", "authority", "appeal"]
"""What asked for a judgement."""
Plain = str | int | float | bool
"""What a value of metadata may be, where rules read it."""


def one_of(*words: str) -> msgspec.Meta:
    """Tells readers which words to expect; what is read is not checked against them."""
    return msgspec.Meta(extra_json_schema={"enum": list(words)})
