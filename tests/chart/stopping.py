"""How long a service takes to stop at most, by the code's own figures."""

from __future__ import annotations

from typing import Any

from qwarden import bootstrap, serving
from qwarden.review import service as review_service


def needed_s(service: str, limits: Any) -> float:
    """Seconds from SIGTERM to its end. `limits`: the service's own group of settings."""
    closes_s = (
        review_service._OFF_DUTY_S + limits.publisher_close_s
        if service == "review"
        else bootstrap._CLOSE_S
    )
    needed: float = limits.drain_s + limits.revoke_s + serving._STOP_S + closes_s
    return needed
