"""How fast transcripts are sent again to one replica. Pure: the clock is given.

A guard that starts anew asks for every live session at once; sent at once, they would keep every
live token waiting behind them.

Invariant, held by `tests/property/test_replay_rate.py`: a replay starts only when the time of all
before it has passed, so that in any stretch of time at most the rate's tokens are sent, and one
replay.
"""

from __future__ import annotations


class ReplayRate:
    """`tokens_a_second`: what a client may send again, of all its sessions there."""

    def __init__(self, tokens_a_second: float) -> None:
        self._tokens_a_second = tokens_a_second
        self._free_at = 0.0

    def wait_s(self, now: float) -> float:
        """Seconds until the next replay may start."""
        return max(0.0, self._free_at - now)

    def start(self, tokens: int, now: float) -> float:
        """A replay of so many tokens starts; what this returns is given back with it, if it is."""
        self._free_at = max(self._free_at, now) + tokens / self._tokens_a_second
        return self._free_at

    def give_back(self, started: float, tokens: int) -> None:
        """That replay was not worked off. Where another has started since, its time is over."""
        if started == self._free_at:
            self._free_at -= tokens / self._tokens_a_second
