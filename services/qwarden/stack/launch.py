"""Becomes a child of the stack: asks the kernel for a signal when the parent ends, then execs.

Run as a script, `launch.py PARENT_PID SIGNAL COMMAND...`, because code between fork and exec
(`preexec_fn`) can deadlock where the parent has threads, and the stack starts its parts in threads.
"""

from __future__ import annotations

import os
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    """Exec the command, or leave with 1 if the parent has already ended."""
    parent, signal, command = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal)
    # A parent that ended before the call above will never send the signal.
    if os.getppid() != parent:
        raise SystemExit(1)
    os.execvp(command[0], command)


if __name__ == "__main__":
    main()
