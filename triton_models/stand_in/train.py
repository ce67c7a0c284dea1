"""Train the stand-in guard: a toy in the format of Qwen3Guard-Gen. ``--help`` says how."""

from __future__ import annotations

import argparse
import json
import random
import shutil
import signal
import sys
from pathlib import Path
from typing import Final

import torch
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer
from transformers import Qwen3ForCausalLM

from standin.encoding import Encoder, read_template
from standin.measure import grammar_errors, measure, profile, table
from standin.network import CONTEXT, Shape, build, write_configs
from standin.rows import Row, read_rows, texts_for_tokenizer
from standin.synthetic import make_rows
from standin.tokenizer import (
    END_OF_TEXT,
    TURN_END,
    check_tokens,
    save_tokenizer,
    token_id,
    train_tokenizer,
)
from standin.training import Plan, Trainer

TEMPLATE: Final = Path(__file__).parent / "checkpoint" / "chat_template.jinja"
GRAMMAR_ROWS: Final = 200  # decoded in full after training
EPILOG: Final = """\
example, three quarters of an hour on two cores:

  OMP_WAIT_POLICY=PASSIVE nice python train.py --data train.jsonl.gz --dev dev.jsonl.gz \\
      --out /tmp/guard --minutes 45

OMP_WAIT_POLICY=PASSIVE matters where other work shares the cores: four times as fast.

A row (JSON Lines, plain or .gz):

  {"id": "a1", "source": "mine", "lang": "en", "task": "prompt", "prompt": "...",
   "response": null, "label": "Unsafe", "categories": ["PII"]}

task is prompt or response; label is Safe, Controversial or Unsafe; categories is empty for Safe.
Every class and category is also learnt from made-up rows in twelve languages (--made).
OUT gets config.json, tokenizer.json, chat_template.jinja and model.safetensors (a checkpoint that
transformers, vLLM and llama.cpp's converter read) and resume.pt (optimizer; --resume needs it).
With --dev it also gets measures.json and profile.yaml, and prints a table, one line a source.
"""


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description="Train the stand-in guard, a toy that must not moderate anything real.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--data", type=Path, nargs="*", default=[], metavar="FILE", help="training rows")
    add("--out", type=Path, required=True, metavar="DIR", help="where the checkpoint goes")
    add("--minutes", type=float, default=45.0, help="wall time of training (default 45)")
    add("--seed", type=int, default=1, help="of weights, order and made rows (default 1)")
    add("--made", type=int, default=60_000, metavar="N", help="made rows (default 60000)")
    add("--resume", action="store_true", help="go on from OUT; --minutes is the new total")
    add("--dev", type=Path, metavar="FILE", help="rows to measure on after training")
    add("--template", type=Path, default=TEMPLATE, metavar="FILE", help="chat template")
    add("--vocabulary", type=int, default=12_000, metavar="N", help="token ids (default 12000)")
    add("--layers", type=int, default=3, help="layers of the network (default 3)")
    add("--threads", type=int, help="CPU threads (default: torch decides)")
    return parser.parse_args()


def say(line: str) -> None:
    """Progress goes to standard error."""
    print(line, file=sys.stderr, flush=True)


def main() -> int:
    """Train, save, measure."""
    options = arguments()
    for ending in (signal.SIGINT, signal.SIGTERM):  # also where a shell had them ignored
        signal.signal(ending, signal.default_int_handler)
    out: Path = options.out
    out.mkdir(parents=True, exist_ok=True)
    if options.threads:
        torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    rows: list[Row] = [row for path in options.data for row in read_rows(path)]
    say(f"{len(rows)} rows read, {options.made} made")
    rows.extend(make_rows(options.made, options.seed))
    template = read_template(options.template)
    if options.resume:
        tokenizer = Tokenizer.from_file(str(out / "tokenizer.json"))
        check_tokens(tokenizer)
    else:
        texts = [*texts_for_tokenizer(rows, options.seed), *_words(template)]
        tokenizer = train_tokenizer(texts, options.vocabulary)
        save_tokenizer(tokenizer, out, CONTEXT)
        if (out / "chat_template.jinja").resolve() != options.template.resolve():
            shutil.copyfile(options.template, out / "chat_template.jinja")
        say(f"tokenizer of {tokenizer.get_vocab_size()} ids trained")
    end_of_turn, end_of_text = token_id(tokenizer, TURN_END), token_id(tokenizer, END_OF_TEXT)
    if options.resume:
        shape = Shape.read(json.loads((out / "config.json").read_text()))
    else:
        shape = Shape(vocabulary=tokenizer.get_vocab_size(), layers=options.layers)
        write_configs(out, shape.config(end_of_turn, end_of_text), end_of_text)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = torch.nn.Module.to(build(shape, end_of_turn, end_of_text), device)
    say(f"{sum(value.numel() for value in model.parameters()):,} parameters on {device}")
    encoder = Encoder(tokenizer, template)
    plan = Plan(out=out, minutes=options.minutes, seed=options.seed)
    trainer = Trainer(model, encoder, plan, say)
    if options.resume:
        trainer.resume()
    trainer.run(rows)
    if options.dev is not None:
        measure_checkpoint(out, list(read_rows(options.dev)))
    return 0


def measure_checkpoint(out: Path, rows: list[Row]) -> None:
    """Load the saved checkpoint as anyone would, write measures and profile, print the table."""
    model = Qwen3ForCausalLM.from_pretrained(out, dtype=torch.float32)
    tokenizer = Tokenizer.from_file(str(out / "tokenizer.json"))
    encoder = Encoder(tokenizer, read_template(out / "chat_template.jinja"))
    measures = measure(model, encoder, rows, say)
    some = random.Random(0).sample(rows, min(GRAMMAR_ROWS, len(rows)))
    wrong = grammar_errors(model, encoder, some, tokenizer.decode)
    say(f"{len(wrong)} of {len(some)} greedy answers break the grammar {wrong[:5]}")
    measures["grammar"] = {"answers": len(some), "broken": len(wrong)}
    (out / "measures.json").write_text(json.dumps(measures, indent=1) + "\n")
    (out / "profile.yaml").write_text(profile(measures))
    print(table(measures))


def _words(template: str) -> list[str]:
    """The template's own words many times over, so that they become short."""
    page = ImmutableSandboxedEnvironment().from_string(template)
    user, answer = {"role": "user", "content": ""}, {"role": "assistant", "content": ""}
    return [page.render(messages=[user]), page.render(messages=[user, answer])] * 500


if __name__ == "__main__":
    sys.exit(main())
