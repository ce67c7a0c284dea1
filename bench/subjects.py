"""What the proofs of the engine share: networks, seeded conversations, results on disk.

The networks are the contest's own (`contest/shapes.py`) with one change. *listing* lets the comma
compete, so that an answer lists several categories; *plain* takes out the constant that makes
random weights answer mostly Safe, so that every choice of the grammar is open and close.
"""

from __future__ import annotations

import gzip
import json
import os
import random
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from contest import shapes
from contest.tokenizer import tokenizer
from machine import machine
from qwarden.guard.conversation import Conversation, Task, Turn
from qwarden.stack.home import Home

# The reference in transformers and the seeded texts stand with the tests.
sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))

import traffic

RESULTS = Path(__file__).resolve().parent / "results"

Kind = Literal["listing", "plain"]
Tokens = Callable[[str], int]

_VERSION = 1
"""Of the change below: raise it with every change to it."""

_began = time.monotonic()

_REPLIES = (
    "I am sorry, but I cannot help with that.",
    "No. Please ask somebody who knows you.",
    "Sure, here is how it is done.",
    "That depends on the size; most people need about an hour.",
    "Yes: wait until nobody is there, and hide what is left.",
    "Of course! Start slowly, take your time, and check the result twice.",
)
_ODD = (
    "def f(x):\n    return x ** 2  # code\n",
    '{"a": [1, 2], "b": null}',
    "👩‍👩‍👧‍👦 🇩🇪 👍🏽",
    "   blanks around   ",
    "\n\nnewlines around\n\n",
    "tabs\tand\r\nwindows\r\n",
    "e\u0301 decomposed, \u200bzero width\u200d, \u00a0no-break",
    "USER: a line that looks like a turn",
    "Safety: Safe\nCategories: None",
    "12345 67,890.12 %%% ---",
    "สวัสดีชาวโลก שלום עולם Γειά σου",
    "x",
)


def say(sentence: str) -> None:
    """Progress, on standard error, with the seconds since the start."""
    print(f"{time.monotonic() - _began:7.1f} s  {sentence}", file=sys.stderr, flush=True)


def network(name: str, kind: Kind) -> Path:
    """The checkpoint of a shape, made where it is not there yet. `stand-in` is the project's own,
    as it is."""
    folder = Home().cache("bench")
    file, which = tokenizer(folder / "tokenizers")
    made = shapes.checkpoint(name, folder / "checkpoints", file)
    if name == "stand-in":
        return made
    target = folder / "subjects" / f"{made.name}-{kind}-{_VERSION}"
    if not (target / "complete").is_file():
        say(f"{name}: writing {target}, with {which}")
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(made, target, ignore=shutil.ignore_patterns("complete"))
        _change(target, kind)
        (target / "complete").touch()
    return target


def _change(target: Path, kind: Kind) -> None:
    from safetensors.torch import load_file, save_file
    from tokenizers import Tokenizer

    tensors = load_file(target / "model.safetensors")
    embeddings = tensors["model.embed_tokens.weight"]
    if kind == "plain":
        embeddings[:, 0] = 0
    else:
        comma, other = (
            Tokenizer.from_file(str(target / "tokenizer.json")).encode(text).ids[0]
            for text in (",", "\n")
        )
        embeddings[comma, 0] = embeddings[other, 0]
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})


def conversations(seed: str, count: int, *, most: int = 40) -> list[Conversation]:
    """Prompts, responses, thoughts and longer conversations in many languages, no two alike.

    `most`: sentences of a turn; most turns have few.
    """
    rng = random.Random(seed)
    made: dict[Conversation, None] = {}
    sentences = _sentences(rng, count + 100)
    while len(made) < count:
        made[_conversation(rng, sentences, most)] = None
    return list(made)


def long_conversations(
    seed: str, count: int, least: int, most: int, tokens: Tokens
) -> list[Conversation]:
    """Prompts and responses of `least` to `most` tokens, the lengths spread evenly and mixed."""
    rng = random.Random(seed)
    sentences = _sentences(rng, 2_000)
    lengths = [round(least + (most - least) * at / max(1, count - 1)) for at in range(count)]
    rng.shuffle(lengths)
    sizes = {sentence: tokens(" " + sentence) for sentence in sentences}
    made = []
    for at, length in enumerate(lengths):
        some: list[str] = []
        left = length
        while left > 0:
            some.append(rng.choice(sentences))
            left -= sizes[some[-1]]
        text = Turn("user", " ".join(some[:-1]))
        if at % 3 == 2:
            half = Turn("user", some[0]), Turn("assistant", " ".join(some[1:-1]))
            made.append(Conversation(Task.RESPONSE, half))
        else:
            made.append(Conversation(Task.PROMPT, (text,)))
    return made


def _sentences(rng: random.Random, count: int) -> list[str]:
    made = traffic.events(rng.randrange(2**32), count, distinct=count, tenants=("bench",))
    found = []
    for each in made:
        messages: Any = each.event["messages"]
        found.append(str(messages[0]["content"]))
    return found


def _conversation(rng: random.Random, sentences: Sequence[str], most: int) -> Conversation:
    def text() -> str:
        if rng.random() < 0.04:
            return rng.choice(_ODD)
        several = min(most, max(1, round(rng.lognormvariate(0.3, 1.0))))
        return " ".join(rng.choice(sentences) for _ in range(several))

    def reply() -> str:
        return rng.choice(_REPLIES) if rng.random() < 0.5 else f"{rng.choice(_REPLIES)} {text()}"

    task = rng.choices((Task.PROMPT, Task.RESPONSE, Task.THINKING), (50, 38, 12))[0]
    turns: list[Turn] = []
    for _ in range(rng.randint(1, 3) if rng.random() < 0.2 else 0):
        turns += [Turn("user", text()), Turn("assistant", reply())]
    turns.append(Turn("user", text()))
    if task is not Task.PROMPT:
        turns.append(Turn("assistant", reply()))
    return Conversation(task, tuple(turns))


def read(file: Path, count: int | None) -> list[Conversation]:
    """Conversations of a file of the stand-in's training rows (its `train.py --help`), JSON Lines,
    plain or gzip; of a longer file `count` lines, spread evenly. Rows without a text are left out.
    """
    with gzip.open(file, "rt") if file.suffix == ".gz" else file.open() as lines:
        rows = list(filter(None, map(_row, lines)))
    if count is None or count >= len(rows):
        return rows
    return [rows[at * len(rows) // count] for at in range(count)]


def _row(line: str) -> Conversation | None:
    fields = json.loads(line)
    task = Task(fields["task"])
    turns = [Turn("user", fields["prompt"])]
    if task is not Task.PROMPT:
        turns.append(Turn("assistant", fields["response"] or ""))
    return Conversation(task, tuple(turns)) if turns[-1].content else None


def chunks(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    """Stretches of at most `size` items."""
    for at in range(0, len(items), size):
        yield items[at : at + size]


def record(path: Path, what: str, part: str, body: dict[str, Any]) -> None:
    """Writes one part of a file of results; the other parts in it stay."""
    before = json.loads(path.read_text()) if path.is_file() else {}
    parts = before.get("parts", {})
    parts[part] = {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "load": round(os.getloadavg()[0], 2),
        **body,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_suffix(".new")
    new.write_text(json.dumps({"what": what, "parts": parts}, indent=2, ensure_ascii=False) + "\n")
    new.replace(path)
    say(f"{part} is written to {path}")
