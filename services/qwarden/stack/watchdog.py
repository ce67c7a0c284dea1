"""Ends the process groups of a stack when the stack's own process is gone, however it went.

Run as a script by the stack, which holds the other end of its standard input and writes
`+GROUP SIGNAL` for a group to end and `-GROUP` for one that has ended. The kernel's parent death
signal (launch.py) reaches children only, this reaches their children too, on every platform.
"""

from __future__ import annotations

import os
import signal
import sys
import time

GRACE_S = 15.0
"""Seconds from a group's own signal to SIGKILL: Triton takes several to free its shared memory."""


def main() -> None:
    """Follow standard input to its end, then end every group that still stands."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    groups: dict[int, int] = {}
    for line in sys.stdin.buffer:
        words = line.split()
        if words[0].startswith(b"+"):
            groups[int(words[0][1:])] = int(words[1])
        else:
            groups.pop(int(words[0][1:]), None)
    for group, own in groups.items():
        _signal(group, own)
    until = time.monotonic() + GRACE_S
    while groups and time.monotonic() < until:
        time.sleep(0.05)
        groups = {group: own for group, own in groups.items() if _signal(group, 0)}
    for group in groups:
        _signal(group, signal.SIGKILL)


def _signal(group: int, number: int) -> bool:
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):
        return False
    return True


if __name__ == "__main__":
    main()
