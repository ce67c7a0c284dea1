"""How many examples a property is tried on: so many in the suite, and in proportion in the other
profiles, a tenth in `make check` and ten times as many in `make storm` (tests/conftest.py)."""

from __future__ import annotations

from hypothesis import settings

_SUITE = 100
"""Hypothesis's own default, which the suite's profile has: the numbers in tests are for it."""


def examples(suite: int) -> int:
    """How many in this run, of a property that gets `suite` of them in the suite."""
    return max(1, suite * settings().max_examples // _SUITE)
