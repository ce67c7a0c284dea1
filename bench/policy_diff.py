"""What it takes to compare two policies over a million recorded verdicts.

A million verdicts are made (seeded: nine languages, fifty tenants, prompts and responses, 92 % of
them Safe, scores to three decimals, metadata that rules read), each as long as the moderator's, and
written into a file, which is then read in one process, as `qwarden policy diff` does: the built-in
policy beside one with eight rules, among them thresholds, categories, languages, reach, metadata.
Then a tenth of the rows is read as evidence, with content, of a sample. Each figure is the least of
the rounds: what else runs on the machine only adds.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from machine import machine
from qwarden.contracts.escalation import Content, Evidence
from qwarden.contracts.event import Message
from qwarden.contracts.verdict import (
    Action,
    Basis,
    CategoryScore,
    Facts,
    Guard,
    Notice,
    PolicyUsed,
    Scores,
    Verdict,
    encode,
)
from qwarden.offline.policy_diff import files
from qwarden.policy.diff import Comparison
from qwarden.policy.diff_report import Report
from qwarden.policy.file import PolicyFile
from qwarden.policy.policy import Policy
from qwarden.policy.sources import BUILT_IN

RESULTS = Path(__file__).resolve().parent / "results" / "policy-diff.json"
BAR_S = 60.0
"""A million in under a minute."""
RATE = 0.01
LANGUAGES = ("en", "de", "fr", "es", "pt-BR", "zh-Hans", "ar", "hi", "und")
CATEGORIES = ("Violent", "PII", "Sexual Content or Sexual Acts", "Unethical Acts", "Jailbreak")

_REVIEW = {"then": "review", "ground": "terms", "clause": "§1", "harm": 5, "meanwhile": "hide",
           "on_breach": "raise"}  # fmt: skip
NEW = Policy(
    PolicyFile.model_validate(
        {
            "name": "newer",
            "rules": [
                {"name": "near", "when": {"safety": "Unsafe", "score": {"unsafe": {"below": 0.6}}},
                 "queue": "near", "sla": "1h", **_REVIEW},
                {"name": "private", "when": {"category": "PII", "language": ["de", "fr"]},
                 "queue": "private", "sla": "4h", **_REVIEW},
                {"name": "wide", "when": {"score": {"flagged": {"at_least": 0.3}},
                 "reach": {"at_least": 10000}}, "queue": "wide", "sla": "1h", **_REVIEW},
                {"name": "paid", "when": {"safety": "Controversial", "metadata": {"paid": True}},
                 "then": "disclaim", "ground": "terms", "clause": "§2", "text": {"en": "Careful."}},
                {"name": "unsafe", "when": {"safety": "Unsafe"}, "then": "block",
                 "ground": "terms", "clause": "§3"},
                {"name": "doubt", "when": {"score": {"controversial": {"at_least": 0.5}}},
                 "queue": "general", "sla": "1d", **_REVIEW},
                {"name": "controversial", "when": {"safety": "Controversial"}, "then": "allow"},
                {"name": "otherwise", "then": "allow"},
            ],
        }
    )
)  # fmt: skip


def verdict(at: random.Random) -> Verdict:
    """One that the built-in policy gave."""
    old = BUILT_IN["default"]
    kind = at.random()
    safety = "Safe" if kind < 0.92 else "Controversial" if kind < 0.97 else "Unsafe"
    top = round(at.uniform(0.5, 0.999), 3)
    other = round(at.uniform(0, 1 - top), 3)
    rest = round(1 - top - other, 3)
    scores = {"Safe": (top, other, rest), "Controversial": (other, top, rest),
              "Unsafe": (rest, other, top)}[safety]  # fmt: skip
    decoded = at.sample(CATEGORIES, at.choice((1, 1, 1, 2))) if scores[0] < 0.9 else []
    action, rule = {
        "Safe": (Action.ALLOW, "otherwise"),
        "Controversial": (Action.REVIEW, "controversial"),
        "Unsafe": (Action.BLOCK, "unsafe"),
    }[safety]
    judged = at.random() > 0.002
    if not judged:
        action, rule = Action.REVIEW, "on_unjudged"
    return Verdict(
        verdict_id=f"{at.getrandbits(128):032x}",
        event_id=f"event-{at.getrandbits(64):016x}",
        edit=0,
        tenant=f"tenant-{at.randrange(50)}",
        subject=f"user-{at.randrange(10**6)}",
        task="prompt" if at.random() < 0.6 else "response",
        safety=safety if judged else None,
        scores=Scores(*scores) if judged else None,
        categories=(decoded if safety != "Safe" else []) if judged else None,
        category_scores=(
            [CategoryScore(name, 0.8) for name in decoded] if decoded and judged else None
        ),
        refusal=None,
        language=at.choice(LANGUAGES),
        content_hash=f"{at.getrandbits(256):064x}",
        facts=Facts(
            reach=int(10 ** at.uniform(0, 6)) if at.random() < 0.5 else None,
            metadata={"paid": True} if at.random() < 0.1 else {},
        ),
        action=action,
        notice=None if action is Action.ALLOW else Notice("terms", "content policy", None),
        basis=Basis.GUARD if judged else Basis.DEGRADED,
        cause=None if judged else "no_answer",
        guard=Guard("Qwen3Guard-Gen-4B", "Qwen3Guard-Gen-4B@0123456789abcdef"),
        policy=PolicyUsed(old.name, old.version, 17, rule),
        dropped=[],
    )


def evidence(said: Verdict) -> bytes:
    text = "What would somebody say who reads this twice? " * 12
    return encode(
        Evidence(verdict=said, content=Content(messages=[Message(role="user", content=text)]))
    )


def written(folder: Path, rows: int) -> dict[str, Path]:
    """The verdicts, and a tenth of them as evidence."""
    at = random.Random(7)
    paths = {"verdicts": folder / "verdicts.jsonl", "evidence": folder / "evidence.jsonl"}
    with paths["verdicts"].open("wb") as all_of_them, paths["evidence"].open("wb") as kept:
        for number in range(rows):
            said = verdict(at)
            all_of_them.write(encode(said) + b"\n")
            if number % 10 == 0:
                kept.write(evidence(said) + b"\n")
    return paths


def compared(path: Path, *, rate: float | None) -> tuple[Report, dict[str, float]]:
    began, processor = time.perf_counter(), time.process_time()
    comparison = Comparison(BUILT_IN["default"], NEW)
    with path.open("rb") as source:
        files.compare(source, comparison, rate=rate, step=lambda _records, _bytes: None)
    report = comparison.report(hours=24.0)
    return report, {
        "seconds": round(time.perf_counter() - began, 2),
        "cpu_seconds": round(time.process_time() - processor, 2),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args()
    result: dict[str, Any] = {
        "what": "two policies compared over recorded verdicts, in one process",
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "load_before": round(os.getloadavg()[0], 2),
        "rounds": given.rounds,
    }
    with tempfile.TemporaryDirectory() as folder:
        paths = written(Path(folder), given.rows)
        for name, path in paths.items():
            runs = []
            for _ in range(given.rounds):
                report, took = compared(path, rate=RATE if name == "evidence" else None)
                runs.append(took)
                print(name, took, flush=True)
            least = min(runs, key=lambda each: each["cpu_seconds"])
            rows = report.records.rows
            result[name] = {
                "rows": rows,
                "bytes_a_row": path.stat().st_size // rows,
                **least,
                "rows_a_cpu_second": round(rows / least["cpu_seconds"]),
                "changed": report.changed.rows,
                "undecided": report.undecided.rows,
            }
    result["peak_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    took_s = result["verdicts"]["cpu_seconds"] * 1_000_000 / result["verdicts"]["rows"]
    result["bars"] = {
        "a million verdicts, processor seconds": {
            "most": BAR_S,
            "measured": round(took_s, 2),
            "met": took_s < BAR_S,
        }
    }
    print(json.dumps(result, indent=2))
    given.out.write_text(json.dumps(result, indent=2) + "\n")
    return 0 if took_s < BAR_S else 1


if __name__ == "__main__":
    sys.exit(main())
