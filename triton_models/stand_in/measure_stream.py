"""Measure the stream stand-in beside the Gen stand-in. ``--help`` says how."""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import torch
import yaml
from tokenizers import Tokenizer
from transformers import Qwen3ForCausalLM

from standin.command import parser_of, set_threads
from standin.encoding import Encoder, read_template
from standin.measure import as_thinking
from standin.row import Row
from standin.rows import held_out, read_rows
from standin.stream_encoding import Layout
from standin.stream_exchange import Exchange
from standin.stream_made import EnglishExchanges, OtherExchanges
from standin.stream_measure import (
    Placed,
    check_exchanges,
    compare,
    echoes,
    gen_verdicts,
    judge_rows,
    placed,
    profile,
    row_of,
    summary,
    table,
)
from standin.stream_network import StreamNetwork, read_stream

FOLDER: Final = Path(__file__).parent
CHECK: Final = FOLDER / "standin" / "stream_check.yaml"
ECHOES: Final = (1, 10)
SEED: Final = 1_000_003  # of the made exchanges, none of the trainings
EPILOG: Final = """\
Rows of --dev, or those that --data with --kept-out kept from training: at the end of each prompt,
answer and thought, both verdicts per source; latched is the share of answers that Stream flagged at
any token (two in a row not Safe). Then the prompts of sources that have only Safe ones, as answers,
one or ten together, of which none should be flagged. Then made exchanges whose first flagged token
is known: missed, ahead of it, at once (1 or 2 tokens behind it: a flag takes two), within 16, and
Safe ones flagged. Then hand-written ones (standin/stream_check.yaml). --profile: profile.yaml too.
"""


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = parser_of("Measure a stream checkpoint beside a Gen checkpoint.", EPILOG)
    add = parser.add_argument
    add("--checkpoint", type=Path, default=FOLDER / "stream", metavar="DIR")
    add("--gen", type=Path, default=FOLDER / "checkpoint", metavar="DIR")
    add("--data", type=Path, nargs="*", default=[], metavar="FILE", help="training rows")
    add("--kept-out", type=int, default=40, metavar="N", help="as in training (default 40)")
    add("--dev", type=Path, metavar="FILE", help="rows to measure on instead")
    add("--most", type=int, default=400, metavar="N", help="rows of a source (default 400)")
    add("--made", type=int, default=1_000, metavar="N", help="made exchanges of each kind")
    add("--json", type=Path, metavar="FILE", help="write all measures there")
    add("--profile", action="store_true", help="write profile.yaml into the checkpoint")
    return parser.parse_args()


def main() -> int:
    """Judge, print, write."""
    options = arguments()
    set_threads(options)
    folder: Path = options.checkpoint
    network = read_stream(folder)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    layout = Layout(tokenizer, read_template(folder / "chat_template.jinja"))
    measures: dict[str, Any] = {}
    rows = _rows(options)
    gen = Qwen3ForCausalLM.from_pretrained(options.gen, dtype=torch.float32).train(False)
    encoder = Encoder(tokenizer, read_template(options.gen / "chat_template.jinja"))
    if rows:
        stream = judge_rows(network, layout, rows)
        compared = compare(rows, stream, gen_verdicts(gen, encoder, rows))
        print(table(compared), "\n")
        measures["rows"] = compared
        measures["echoes"] = {
            str(count): _told(
                f"ordinary requests as answers, {count} together",
                list(placed(network, layout, echoes(rows, count))),
            )
            for count in ECHOES
        }
    measures["made"] = _made(network, layout, options.made)
    measures["check"] = _check(network, layout, gen, encoder)
    if options.json:
        options.json.write_text(json.dumps(measures, indent=1, ensure_ascii=False) + "\n")
    if options.profile and rows:
        accuracy = measures["rows"]["stream"]["categories"]
        (folder / "profile.yaml").write_text(profile(accuracy))
    return 0


def _rows(options: argparse.Namespace) -> list[Row]:
    """At most ``--most`` rows of each source and task, answers as thoughts too."""
    if options.dev:
        read = list(read_rows(options.dev))
    else:
        every = (row for path in options.data for row in read_rows(path))
        read = [row for row in every if held_out(row, options.kept_out)]
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in read:
        groups[f"{row.source} {row.task}"].append(row)
    chooser = random.Random(0)
    rows = [
        row
        for group in groups.values()
        for row in (group if len(group) <= options.most else chooser.sample(group, options.most))
        if row.messages[-1][1].strip()
    ]
    return rows + as_thinking(rows)


def _made(network: StreamNetwork, layout: Layout, count: int) -> dict[str, Any]:
    english = EnglishExchanges(random.Random(SEED))
    others = OtherExchanges(random.Random(SEED))
    drawn = {
        "made english": [english.exchange() for _ in range(count)],
        "made languages": [others.exchange() for _ in range(count)],
    }
    return {name: _told(name, list(placed(network, layout, some))) for name, some in drawn.items()}


def _check(
    network: StreamNetwork, layout: Layout, gen: Qwen3ForCausalLM, encoder: Encoder
) -> dict[str, Any]:
    out: dict[str, Any] = {}
    lists: dict[str, list[Exchange]] = check_exchanges(yaml.safe_load(CHECK.read_text()))
    for name, some in lists.items():
        found = list(placed(network, layout, some))
        whole = gen_verdicts(gen, encoder, [row_of(exchange) for exchange in some])
        flagged = sum(verdict.safety != "Safe" for verdict in whole)
        out[name] = {**_told(name, found), "gen": {"texts": len(some), "flagged": flagged}}
        print(f"  the Gen stand-in flags {flagged} of {len(some)}")
        for one in found:
            judged = one.exchange.thinking or one.exchange.answer
            start = judged.text[:70] if judged else ""
            if (one.first is None) != (one.distance is None):
                print(f"  wrong: {start!r}")
            elif one.first is not None:
                print(f"  {one.distance:+d} of {one.tokens} tokens: {start!r}")
    return out


def _told(name: str, found: Sequence[Placed]) -> dict[str, Any]:
    figures = summary(found)
    for segment, values in figures.items():
        print(f"{name} ({segment}):", ", ".join(f"{key} {value}" for key, value in values.items()))
    return figures


if __name__ == "__main__":
    sys.exit(main())
