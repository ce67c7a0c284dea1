"""A contestant in a process of its own, which answers on a pipe in JSON, an object a line.

`python -m contest.worker KIND` with `bench` on PYTHONPATH, in whichever environment the contestant
needs. A contestant has `load`, any number of times; `prepare`, which makes of the texts what it
takes; `run`, which judges and is the only part that is timed; and `read`, which takes the answers
out of what `run` returned. What libraries print goes to standard error.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from dataclasses import dataclass, field
from typing import Any

KINDS = {"engine": "ours", "transformers": "hf", "vllm": "vllm_peer"}


@dataclass(frozen=True, slots=True)
class Ran:
    """What a run gave. `answers`: one a row, in order; `more`: what the kind alone knows."""

    answers: list[dict[str, Any]]
    more: dict[str, Any] = field(default_factory=dict)


def main(kind: str) -> None:
    pipe = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    module = importlib.import_module(f"contest.contestants.{KINDS[kind]}")
    contestant: Any = module.contestant()
    for line in sys.stdin:
        request = json.loads(line)
        do = request.pop("do")
        if do == "run":
            rows = request.pop("rows")
            prepared = contestant.prepare(rows, **request)
            began = time.perf_counter()
            outcome = contestant.run(prepared, **request)
            seconds = time.perf_counter() - began
            ran = contestant.read(outcome)
            reply = {"seconds": seconds, "answers": ran.answers, "more": ran.more}
        elif do == "each":
            reply = _one_by_one(contestant, request)
        else:
            reply = getattr(contestant, do)(**request)
        pipe.write(json.dumps(reply) + "\n")
        pipe.flush()


def _one_by_one(contestant: Any, request: dict[str, Any]) -> dict[str, Any]:
    """A bare loop: each row judged alone, with the seconds of each."""
    rows = [contestant.prepare([row], **request) for row in request.pop("rows")]
    seconds = []
    for row in rows:
        began = time.perf_counter()
        contestant.run(row, **request)
        seconds.append(time.perf_counter() - began)
    return {"seconds": seconds}


if __name__ == "__main__":
    main(sys.argv[1])
