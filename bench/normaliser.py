"""What the normalised view costs: the look at every text, and the texts that are judged twice.

1. Microseconds for `normalised` of a text of 1,000 characters, by kind of text: the best of several
   repeats, since what is asked is the work and not the machine's other load.
2. The share of ordinary texts that are judged in a second view: a false alarm costs a prefill. By
   language over real conversations, and by set over labelled ones; both are measured only where
   the data lies beside the project. Sets of attacks are marked: there a second view is a find.

Bars: ordinary ASCII in under 20 µs; of all real conversations no more than one text in a thousand.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import sys
import timeit
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from machine import machine
from qwarden.guard.normaliser import VERSION, normalised

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "bench" / "results" / "normaliser.json"
DATA = ROOT.parent / "shared" / "data"
LENGTH = 1000
ASCII_BAR_US = 20.0
SHARE_BAR = 0.001
ATTACKS = ("injection", "jailbreak", "attack")
"""Words in the names of sets that collect attacks."""

KINDS = {
    "ordinary ASCII": "The quick brown fox jumps over a dog, and then I say: well, it's fine. ",
    "English with a dash and quotes": "“The fox” — it’s quick — jumps over a dog, and I say so. ",
    "Russian": "Сегодня хорошая погода, и мы идём гулять в парк с детьми. ",
    "Chinese": "今天天气很好，我们去公园散步。",
    "Persian with joiners": "می\u200cخواهم کتاب\u200cها را بخوانم. ",
    "English with emoji": "What a day ❤\ufe0f, see you at the park 👩\u200d👧! ",
    "evading": "I will k i l l you, ki\u200bll hіm, 𝐤𝐢𝐥𝐥 them. ",
}


def microseconds(text: str) -> float:
    """The time of one call, in the best of 20 repeats."""
    calls = 200
    return min(timeit.repeat(lambda: normalised(text), number=calls, repeat=20)) / calls * 1e6


def texts(name: str) -> Iterator[tuple[dict[str, Any], str]]:
    """Each text of a file of the shared data, with its row."""
    with gzip.open(DATA / f"{name}.jsonl.gz", "rt", encoding="utf-8") as file:
        for line in file:
            row = json.loads(line)
            said = [turn["content"] for turn in row.get("messages", ())]
            for text in said or (row["prompt"], row["response"] or ""):
                if text:
                    yield row, text


def shares(name: str, field: str) -> dict[str, dict[str, float]]:
    """By the value of a field: texts, those judged twice, and their share."""
    seen, twice = Counter[str](), Counter[str]()
    for row, text in texts(name):
        seen[row[field]] += 1
        twice[row[field]] += normalised(text) != text
    return {
        key: {"texts": seen[key], "twice": twice[key], "share": round(twice[key] / seen[key], 5)}
        for key in sorted(seen)
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, default=RESULTS, help="where the figures go")
    arguments = parser.parse_args()
    costs = {}
    for kind, piece in KINDS.items():
        text = (piece * (LENGTH // len(piece) + 1))[:LENGTH]
        costs[kind] = round(microseconds(text), 1)
        print(f"{kind:32} {costs[kind]:8.1f} µs for {LENGTH} characters", flush=True)
    result: dict[str, Any] = {
        "what": "cost and false alarms of the normalised view",
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "load": round(os.getloadavg()[0], 1),
        "version": VERSION,
        "microseconds_for_1000_characters": costs,
    }
    missed = [] if costs["ordinary ASCII"] < ASCII_BAR_US else ["the cost of ordinary ASCII"]
    if DATA.is_dir():
        by_language = shares("traffic", "lang")
        by_set = shares("dev", "source")
        for each in by_set:
            by_set[each]["attacks"] = any(word in each for word in ATTACKS)
        total = sum(each["texts"] for each in by_language.values())
        twice = sum(each["twice"] for each in by_language.values())
        result |= {
            "real_conversations": {"texts": total, "twice": twice, "by_language": by_language},
            "labelled": by_set,
        }
        print(f"{twice} of {total} texts of real conversations are judged twice")
        for each, found in by_set.items():
            if found["twice"]:
                print(f"{each:32} {found['twice']:6} of {found['texts']:6} ({found['share']:.2%})")
        if twice > SHARE_BAR * total:
            missed.append("the share of real conversations")
    result["missed"] = missed
    arguments.out.write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n", "utf-8")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
