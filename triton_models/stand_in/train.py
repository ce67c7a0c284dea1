"""Train the stand-in guard: a toy in the format of Qwen3Guard-Gen. ``--help`` says how."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Final

from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer
from transformers import Qwen3ForCausalLM

from standin.command import begin_training, copy_template, on_device, parser_of, say
from standin.encoding import Encoder, read_template
from standin.english import sample
from standin.network import CONTEXT, Shape, build, read_weights, write_configs
from standin.row import Row
from standin.rows import held_out, read_rows, texts_for_tokenizer
from standin.run import Plan
from standin.synthetic import make_rows
from standin.teacher import Teachers, with_fold
from standin.tokenizer import (
    END_OF_TEXT,
    TURN_END,
    check_tokens,
    save_tokenizer,
    token_id,
    train_tokenizer,
)
from standin.training import Trainer

TEMPLATE: Final = Path(__file__).parent / "checkpoint" / "chat_template.jinja"
ENGLISH: Final = 30_000  # English rows that a new tokenizer sees
EPILOG: Final = """\
example, an hour and a half on two cores:

  OMP_WAIT_POLICY=PASSIVE nice python train.py --data train.jsonl.gz --out /tmp/guard --minutes 90

OMP_WAIT_POLICY=PASSIVE matters where other work shares the cores: four times as fast.

A row (JSON Lines, plain or .gz):

  {"id": "a1", "source": "mine", "lang": "en", "task": "prompt", "prompt": "...",
   "response": null, "label": "Unsafe", "categories": ["PII"]}

task is prompt or response; label is Safe, Controversial or Unsafe; categories is empty for Safe.
Every class and category is also learnt from made-up rows in twelve languages (--made), and English
ones are made without end.
OUT gets config.json, tokenizer.json, chat_template.jinja and model.safetensors (a checkpoint that
transformers, vLLM and llama.cpp's converter read), resume.pt (optimizer; --resume needs it) and
teachers.pt (the regressions whose scores are a part of the targets). measure.py measures it.
"""


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = parser_of(
        "Train the stand-in guard, a toy that must not moderate anything real.", EPILOG
    )
    add = parser.add_argument
    add("--data", type=Path, nargs="*", default=[], metavar="FILE", help="training rows")
    add("--out", type=Path, required=True, metavar="DIR", help="where the checkpoint goes")
    add("--minutes", type=float, default=45.0, help="wall time of training (default 45)")
    add("--seed", type=int, default=1, help="of weights, order and made rows (default 1)")
    add("--made", type=int, default=60_000, metavar="N", help="made rows (default 60000)")
    add("--resume", action="store_true", help="go on from OUT; --minutes is the new total")
    add("--start", type=Path, metavar="DIR", help="begin with the weights of that checkpoint")
    add("--template", type=Path, default=TEMPLATE, metavar="FILE", help="chat template")
    add("--vocabulary", type=int, default=12_000, metavar="N", help="token ids (default 12000)")
    add("--layers", type=int, default=3, help="layers of the network (default 3)")
    add("--hidden", type=int, default=384, help="width of the network, a multiple of 64")
    add("--rate", type=float, default=1e-3, help="highest learning rate (default 0.001)")
    add("--tokenizer", type=Path, metavar="FILE", help="a tokenizer.json to use, not to train")
    add("--kept-out", type=int, default=0, metavar="N", help="keep one row of N from training")
    return parser.parse_args()


def main() -> int:
    """Train and save."""
    options = arguments()
    begin_training(options)
    read = [with_fold(row) for path in options.data for row in read_rows(path)]
    say(f"{len(read)} rows read, {options.made} made")
    rows = [row for row in read if not (options.kept_out and held_out(row, options.kept_out))]
    rows.extend(make_rows(options.made, options.seed))
    template = read_template(options.template)
    tokenizer = _tokenizer(options, rows, template)
    model = _network(options, tokenizer)
    encoder = Encoder(tokenizer, template)
    teachers = _teachers(options, rows) if options.data else None
    plan = Plan(out=options.out, minutes=options.minutes, seed=options.seed, rate=options.rate)
    trainer = Trainer(model, encoder, plan, say, teachers)
    if options.resume:
        trainer.resume()
    trainer.run(rows)
    return 0


def _tokenizer(options: argparse.Namespace, rows: list[Row], template: str) -> Tokenizer:
    """The tokenizer of OUT, of another checkpoint, or a new one; written with the template."""
    out: Path = options.out
    folder = out if options.resume else options.start
    found = folder / "tokenizer.json" if folder else options.tokenizer
    if found:
        tokenizer = Tokenizer.from_file(str(found))
        check_tokens(tokenizer)
    else:
        made = sample(ENGLISH, options.seed)
        texts = [*texts_for_tokenizer([*rows, *made], options.seed), *_words(template)]
        tokenizer = train_tokenizer(texts, options.vocabulary)
    if not options.resume:
        save_tokenizer(tokenizer, out, CONTEXT)
        copy_template(options.template, out)
    say(f"tokenizer of {tokenizer.get_vocab_size()} ids")
    return tokenizer


def _network(options: argparse.Namespace, tokenizer: Tokenizer) -> Qwen3ForCausalLM:
    """The network, its configuration written; its weights are random or another checkpoint's."""
    end_of_turn, end_of_text = token_id(tokenizer, TURN_END), token_id(tokenizer, END_OF_TEXT)
    folder: Path | None = options.out if options.resume else options.start
    if folder:
        shape = Shape.read(json.loads((folder / "config.json").read_text()))
    else:
        shape = Shape.of(tokenizer.get_vocab_size(), options.hidden, options.layers)
    if not options.resume:
        write_configs(options.out, shape.config(end_of_turn, end_of_text), end_of_text)
    model = build(shape, end_of_turn, end_of_text)
    if options.start:
        read_weights(model, options.start / "model.safetensors")
    return on_device(model)


def _teachers(options: argparse.Namespace, rows: list[Row]) -> Teachers:
    """The teachers of an earlier part of this run, or new ones."""
    teachers, tables = Teachers(), options.out / "teachers.pt"
    if options.resume and tables.exists():
        teachers.load(tables)
    else:
        teachers.train(rows, options.seed, say)
        teachers.save(tables)
    return teachers


def _words(template: str) -> list[str]:
    """The template's own words many times over, so that they become short."""
    page = ImmutableSandboxedEnvironment().from_string(template)
    user, answer = {"role": "user", "content": ""}, {"role": "assistant", "content": ""}
    return [page.render(messages=[user]), page.render(messages=[user, answer])] * 500


if __name__ == "__main__":
    sys.exit(main())
