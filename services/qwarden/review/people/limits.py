"""How often something may be done, counted for each name apart. Pure.

A name may do as much as a minute allows at once, and then as much as time gives back. Each process
counts what it sees: a brake, not a bill.

Invariants, each held by `tests/property/test_limits.py`:
- In no `w` seconds is more allowed than `a_minute * (1 + w / 60)`.
- What is refused is allowed after the time that was told, and refused before it.
- One name's haste costs no other anything, as long as no more than `names` are in haste.
- What is kept does not grow with time, nor with names that anybody makes up.
"""

from __future__ import annotations

_NAMES = 10_000
"""More people than sign in within a minute; some MB."""
_OTHERS = "\0"
"""No name is this: those on top of `names` are counted as one."""
_MINUTE_S = 60.0


class Limits:
    """`names`: that are counted apart at a time."""

    def __init__(self, names: int = _NAMES) -> None:
        # What a name owes, in seconds, and when it did: each time adds its share of a minute, time
        # pays, and more than a minute is refused. One that owes nothing is as good as unknown. (The
        # time at which all is paid would do alone, but sums of fractions to a large clock err.)
        self._owing: dict[str, tuple[float, float]] = {}
        self._names = names

    def __len__(self) -> int:
        return len(self._owing)

    def wait_s(self, name: str, a_minute: int, now_s: float) -> float:
        """0 where one more is allowed, which then counts; else the seconds until it is.

        `now_s`: of a clock that does not jump.
        """
        if name not in self._owing and len(self._owing) >= self._names:
            self._owing = {each: owed for each, owed in self._owing.items() if _left(owed, now_s)}
            if len(self._owing) >= self._names:
                name = _OTHERS
        owed_s = _left(self._owing.get(name, (0.0, now_s)), now_s) + _MINUTE_S / a_minute
        if owed_s > _MINUTE_S * (1 + 1e-9):  # sums of sixtieths are not exact
            return owed_s - _MINUTE_S
        self._owing[name] = (owed_s, now_s)
        return 0.0


def _left(owed: tuple[float, float], now_s: float) -> float:
    owed_s, at_s = owed
    return max(0.0, owed_s - max(0.0, now_s - at_s))
