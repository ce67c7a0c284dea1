"""Train the stand-in stream guard, a toy like Qwen3Guard-Stream. ``--help`` says how."""

from __future__ import annotations

import argparse
import json
import random
import sys
from pathlib import Path
from typing import Final

import torch
from tokenizers import Tokenizer
from transformers import Qwen3ForCausalLM

from standin.command import begin_training, copy_template, on_device, parser_of, say
from standin.encoding import Encoder, read_template
from standin.row import Row
from standin.rows import held_out, read_rows
from standin.run import Plan
from standin.stream_encoding import Layout
from standin.stream_network import (
    CONTEXT,
    StreamNetwork,
    read_backbone,
    read_config,
    read_stream,
    stream_config,
)
from standin.stream_prefixes import find_all, gen_judge
from standin.stream_rows import StreamSampler, shortened
from standin.stream_training import StreamTrainer
from standin.synthetic import make_rows
from standin.tokenizer import save_tokenizer

FOLDER: Final = Path(__file__).parent
BEGINNINGS: Final = "beginnings.json"
EPILOG: Final = """\
example, about an hour on one core:

  OMP_WAIT_POLICY=PASSIVE nice python stream_train.py --data train.jsonl.gz --out /tmp/stream \\
      --minutes 60 --threads 1

The backbone is that of --gen, a Gen stand-in; the eight head tensors begin at random. Rows: as in
train.py --help. For harmful answers among them the Gen stand-in first judges beginnings, to find
where each begins to deserve its label (--answers: of how many; kept in OUT/beginnings.json). Made
exchanges, whose first flagged position is known, are drawn without end. OUT gets config.json,
model.safetensors, the tokenizer, the chat template, and resume.pt (optimizer; --resume needs it).
"""


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = parser_of(
        "Train the stand-in stream guard, a toy that must not moderate anything real.", EPILOG
    )
    add = parser.add_argument
    add("--data", type=Path, nargs="*", default=[], metavar="FILE", help="training rows")
    add("--out", type=Path, required=True, metavar="DIR", help="where the checkpoint goes")
    add("--gen", type=Path, default=FOLDER / "checkpoint", metavar="DIR", help="Gen stand-in")
    add("--start", type=Path, metavar="DIR", help="begin with the weights of a stream checkpoint")
    template = FOLDER / "stream" / "chat_template.jinja"
    add("--template", type=Path, default=template, metavar="FILE", help="chat template")
    add("--minutes", type=float, default=60.0, help="wall time of training (default 60)")
    add("--seed", type=int, default=1, help="of heads, order and made rows (default 1)")
    add("--made", type=int, default=40_000, metavar="N", help="made prompts (default 40000)")
    add("--answers", type=int, default=6_000, metavar="N", help="harmful answers (default 6000)")
    add("--rate", type=float, default=1e-3, help="highest learning rate (default 0.001)")
    add("--resume", action="store_true", help="go on from OUT; --minutes is the new total")
    add("--kept-out", type=int, default=0, metavar="N", help="keep one row of N from training")
    return parser.parse_args()


def main() -> int:
    """Judge beginnings, train, save."""
    options = arguments()
    begin_training(options)
    read = [row for path in options.data for row in read_rows(path)]
    rows = [row for row in read if not (options.kept_out and held_out(row, options.kept_out))]
    say(f"{len(rows)} rows read")
    tokenizer = Tokenizer.from_file(str(options.gen / "tokenizer.json"))
    since = _beginnings(options, tokenizer, rows)
    layout = Layout(tokenizer, read_template(options.template))
    plan = Plan(out=options.out, minutes=options.minutes, seed=options.seed, rate=options.rate)
    trainer = StreamTrainer(_network(options), layout, plan, say)
    if options.resume:
        trainer.resume()
    else:
        save_tokenizer(tokenizer, options.out, CONTEXT)
        copy_template(options.template, options.out)
    made = make_rows(options.made, options.seed)
    # A run that goes on draws others than before.
    trainer.run(StreamSampler(rows, made, since, options.seed + trainer.step))
    return 0


def _beginnings(
    options: argparse.Namespace, tokenizer: Tokenizer, rows: list[Row]
) -> dict[str, int]:
    """Where harmful answers begin to deserve their label, by key."""
    harmful = [shortened(row) for row in rows if row.task == "response" and row.safety != "Safe"]
    random.Random(options.seed).shuffle(harmful)
    model = Qwen3ForCausalLM.from_pretrained(options.gen, dtype=torch.float32)
    encoder = Encoder(tokenizer, read_template(options.gen / "chat_template.jinja"))
    judge = gen_judge(model.train(False), encoder)
    return find_all(harmful[: options.answers], judge, options.out / BEGINNINGS, say)


def _network(options: argparse.Namespace) -> StreamNetwork:
    """The network, its configuration written."""
    config = stream_config(read_config(options.gen))
    if not options.resume:
        (options.out / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    if options.start:
        network = read_stream(options.start)
    else:
        network = StreamNetwork(config)
        read_backbone(network, options.gen / "model.safetensors")
    return on_device(network)


if __name__ == "__main__":
    sys.exit(main())
