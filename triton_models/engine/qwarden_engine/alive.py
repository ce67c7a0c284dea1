"""Whether the Triton of this container answers: one tiny inference of each of its models.

`python -m qwarden_engine.alive SECONDS` exits with 0 where all have answered in time, else with 1
and a sentence. For a probe from outside the supervisor, which asks for itself only where an engine
has nothing to do; Triton's own health page stays 200 when its Python process is dead.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence

from qwarden_engine.supervisor import Probe, models_of


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="qwarden_engine.alive", description=__doc__)
    parser.add_argument("seconds", type=float, help="that all of them may take together")
    parser.add_argument("--http-port", type=int, default=8000, help="Triton's")
    options = parser.parse_args(arguments)
    probe = Probe(f"http://127.0.0.1:{options.http_port}")
    deadline = time.monotonic() + options.seconds
    for model in models_of(os.environ):
        left = deadline - time.monotonic()
        if left <= 0 or not probe.infer(model, left):
            print(f"{model.name} has not answered within {options.seconds:g} s", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
