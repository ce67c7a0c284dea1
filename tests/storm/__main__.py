"""`make storm`: the long fault suite, by its seed. ARGS="--part kills --seed 7" chooses."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from pathlib import Path

from qwarden.stack.home import Home
from qwarden.stack.kafka import Kafka
from qwarden.stack.local import STAND_IN
from qwarden.stack.triton import Triton
from qwarden.verify import report as written
from storm.storm import SESSION_S, Outcome, Storm, kills, make_topics, restarts, without_guard
from storm.weather import plan

sys.path.append(str(Path(__file__).parents[2] / "bench"))

from machine import machine

PARTS = ("kills", "restarts", "triton")


def say(line: str) -> None:
    print(line, flush=True)


def run(part: str, chosen: argparse.Namespace, folder: Path) -> Outcome:
    """One part on a broker of its own."""
    home = Home(folder)
    events = chosen.events
    with Kafka(home) as kafka:
        storm = Storm(kafka, home, chosen.seed, chosen.members, part)
        if part == "triton":
            with Triton(home, {"QWARDEN_ENGINE__CHECKPOINT": str(STAND_IN)}) as triton:
                storm.guard = triton.grpc
                asyncio.run(make_topics(storm, chosen.partitions))

                def again() -> None:
                    triton.kill()
                    triton.start()

                return asyncio.run(
                    without_guard(storm, again, events=events // 10, over_s=120, times=2, say=say)
                )
        asyncio.run(make_topics(storm, chosen.partitions))
        if part == "restarts":
            rounds = chosen.members * 25.0
            return asyncio.run(
                restarts(storm, events=events // 10, over_s=rounds, rounds=1, say=say)
            )
        strikes = plan(
            chosen.seed,
            members=chosen.members,
            hits_a_member=chosen.hits,
            apart_s=chosen.apart,
            session_s=SESSION_S,
        )
        say(f"{len(strikes)} strikes over {strikes[-1].at_s / 60:.0f} minutes")
        over_s = strikes[-1].at_s + chosen.apart
        return asyncio.run(kills(storm, strikes, events=events, over_s=over_s, say=say))


def main() -> int:
    parser = argparse.ArgumentParser(prog="make storm", description=__doc__)
    parser.add_argument("--part", choices=PARTS, action="append", help="one, or several")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--events", type=int, default=100_000, help="a tenth of it without kills")
    parser.add_argument("--partitions", type=int, default=32)
    parser.add_argument("--members", type=int, default=8)
    parser.add_argument("--hits", type=int, default=16, help="how often each member is hit")
    parser.add_argument("--apart", type=float, default=11.0, help="seconds between two strikes")
    parser.add_argument("--json", type=Path, help="where the results go too")
    chosen = parser.parse_args()
    results = {}
    wrong = 0
    for part in chosen.part or PARTS:
        say(f"{part}: seed {chosen.seed}")
        began = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="qwarden-storm-") as folder:
            found = run(part, chosen, Path(folder))
        say(written.table(found.report))
        took_s = time.monotonic() - began
        say(f"{found.published} verdicts, {found.repeats} repeats, in {took_s:.0f} s")
        for fault in found.faults:
            say(f"FAULT: {fault}")
        say("nothing is wrong" if not found.faults else "")
        wrong += bool(found.faults)
        results[part] = {
            "seed": chosen.seed,
            "verdicts": found.published,
            "repeats": found.repeats,
            "faults": found.faults,
            "report": json.loads(found.report.json()),
        }
    if chosen.json is not None:
        written_down = {"machine": machine(), "parts": results}
        chosen.json.write_text(json.dumps(written_down, indent=2) + "\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
