"""Measure the stand-in guard beside an n-gram regression, per source. ``--help`` says how."""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import torch
import yaml
from tokenizers import Tokenizer
from transformers import Qwen3ForCausalLM

from standin.baseline import Baseline
from standin.command import parser_of, say, set_threads
from standin.encoding import Encoder, read_template
from standin.measure import (
    Judged,
    as_thinking,
    grammar_errors,
    judge,
    measure,
    profile,
    table,
    winners,
)
from standin.row import Row
from standin.rows import Sampler, held_out, read_rows
from standin.synthetic import make_rows

FOLDER: Final = Path(__file__).parent / "standin"
CHECKS: Final = (FOLDER / "check.yaml", FOLDER / "ordinary_check.yaml")
GRAMMAR_ROWS: Final = 200  # decoded in full
EPILOG: Final = """\
The baseline learns from draws of the same sampler as the network, made rows included; it is kept in
--baseline FILE and read from there the next time. No row of --dev is ever learnt. A row format:
train.py --help. Results go to standard output (Markdown) and to --json; --profile writes the
checkpoint's profile.yaml.
"""


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = parser_of("Measure a checkpoint beside a hashed n-gram logistic regression.", EPILOG)
    add = parser.add_argument
    add("--checkpoint", type=Path, required=True, metavar="DIR")
    add("--data", type=Path, nargs="+", required=True, metavar="FILE", help="training rows")
    add("--dev", type=Path, metavar="FILE", help="rows to measure on; else the rows kept out")
    add("--kept-out", type=int, default=0, metavar="N", help="as in training: one row of N")
    add("--baseline", type=Path, metavar="FILE", help="where the baseline is kept")
    add("--draws", type=int, default=200_000, help="rows that the baseline learns from")
    add("--made", type=int, default=60_000, metavar="N", help="made rows (default 60000)")
    add("--seed", type=int, default=1)
    add("--json", type=Path, metavar="FILE", help="write all measures there")
    add("--profile", action="store_true", help="write profile.yaml into the checkpoint")
    return parser.parse_args()


def main() -> int:
    """Judge the rows with both, print, write."""
    options = arguments()
    set_threads(options)
    read = [row for path in options.data for row in read_rows(path)]
    learnt, kept = read, list[Row]()
    if options.kept_out:
        learnt = [row for row in read if not held_out(row, options.kept_out)]
        kept = [row for row in read if held_out(row, options.kept_out)]
    rows = list(read_rows(options.dev)) if options.dev else kept
    rows += as_thinking(rows)
    baseline = _baseline(options, learnt)
    folder: Path = options.checkpoint
    model = Qwen3ForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    encoder = Encoder(tokenizer, read_template(folder / "chat_template.jinja"))
    network = measure(rows, judge(model, encoder, rows))
    say(f"{len(rows)} rows judged")
    other = measure(rows, baseline.judge(rows))
    won = winners(network, other)
    print(table(network, other), "\n")
    print("better:", ", ".join(f"{who} {count}" for who, count in Counter(won.values()).items()))
    print("n-grams are better on:", ", ".join(n for n, who in won.items() if who == "n-grams"))
    check = {name: _check_rows(name, texts) for name, texts in _check_texts().items()}
    apart = {
        name: {
            "stand-in": _flags(some, judge(model, encoder, some)),
            "n-grams": _flags(some, baseline.judge(some)),
        }
        for name, some in check.items()
    }
    for name, both in apart.items():
        for who, flags in both.items():
            print(f"\n{name}, {who}: {flags['flagged']} of {flags['rows']} flagged")
            for text in flags["wrong"]:
                print(f"  wrong: {text}")
    some = random.Random(0).sample(rows, min(GRAMMAR_ROWS, len(rows)))
    broken = grammar_errors(model, encoder, some, tokenizer.decode)
    print(f"\n{len(broken)} of {len(some)} greedy answers break the grammar {broken[:3]}")
    measures: dict[str, Any] = {
        "network": network,
        "baseline": other,
        "better": won,
        "apart": apart,
        "grammar": {"answers": len(some), "broken": len(broken)},
    }
    if options.json:
        options.json.write_text(json.dumps(measures, indent=1, ensure_ascii=False) + "\n")
    if options.profile:
        (folder / "profile.yaml").write_text(profile(network))
    return 0


def _baseline(options: argparse.Namespace, learnt: list[Row]) -> Baseline:
    baseline = Baseline()
    if options.baseline and options.baseline.exists():
        baseline.restore(torch.load(options.baseline, weights_only=True))
        return baseline
    sampler = Sampler([*learnt, *make_rows(options.made, options.seed)], options.seed)
    baseline.train(sampler.draw(options.draws), options.seed, say)
    if options.baseline:
        torch.save(baseline.state(), options.baseline)
    return baseline


def _check_texts() -> dict[str, list[str]]:
    texts: dict[str, list[str]] = {}
    for path in CHECKS:
        texts.update(yaml.safe_load(path.read_text()))
    return texts


def _check_rows(name: str, texts: Sequence[str]) -> list[Row]:
    harmful = name == "intrusion"
    return [
        Row(
            source=name,
            language="en",
            task="prompt",
            messages=(("user", text),),
            safety="Unsafe" if harmful else "Safe",
            categories=("Non-violent Illegal Acts",) if harmful else (),
        )
        for text in texts
    ]


def _flags(rows: Sequence[Row], judged: Sequence[Judged]) -> dict[str, Any]:
    """How many are flagged, and the texts that were judged wrong."""
    flagged = [answer.safety != "Safe" for answer in judged]
    wrong = [
        row.messages[0][1]
        for row, flag in zip(rows, flagged, strict=True)
        if flag != (row.safety != "Safe")
    ]
    return {"rows": len(rows), "flagged": sum(flagged), "wrong": wrong}


if __name__ == "__main__":
    sys.exit(main())
