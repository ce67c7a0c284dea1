"""The engine's answers beside those of `transformers` with the same weights, in float32.

Three parts, each with its own bar:

*stand-in*: at least 2,000 seeded conversations. `transformers` decodes freely and greedily. Where
its text is an answer of the grammar, safety, categories and refusal must be the engine's; the
others are listed apart, since the engine cannot leave the grammar. The decode is batched, padded
on the left, in batches of nearly equal length; a row that differs is decoded once more alone
before it counts.

*0.6B*: random weights of the sizes of Qwen3-0.6B. The three scores must be within 1e-3 of a plain
forward over template and `Safety:`, and categories and refusal those of a constrained greedy decode
without cache or batch.

*long*: conversations of 8,000 to 30,000 tokens through a tiny network with the full vocabulary.
The same two bars; the engine forwards them in slices, the reference at once.

Why one plain forward stands for a whole constrained decode: the network is causal. The logits
behind the first n tokens of a text do not depend on what follows, so one forward over template and
the engine's whole answer gives, at every place where the grammar leaves a choice, exactly what a
decode step by step would see there if it had taken the engine's tokens so far. At the first place
both have the same tokens. Where the likeliest allowed token is the engine's at a place, the decode
goes on as the engine did, and sees the same tokens at the next. So by induction the two decodes are
equal if and only if the engine's choice is the likeliest at every place. Some rows are decoded step
by step beside that, by other code, as a check on this one.

The floor under which categories are decoded is the quantile of P(Safe) that gives them to a fifth
of the rows, found in a first pass of the engine over some of them.
"""

from __future__ import annotations

import argparse
import math
import re
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

import subjects
from qwarden.guard.answer import SAFETIES, Answer, Assessment, Safety, scores_of
from qwarden.guard.conversation import Conversation, Task
from qwarden_engine.gen import Gen
from qwarden_engine.grammar import word_of
from qwarden_engine.settings import EngineSettings, usable_cores
from subjects import say
from unit.engine.reference import Reference

PARTS = ("stand-in", "0.6B", "long")
SCORE_BAR = 1e-3
SHARE = 0.2
"""Of the rows that decode categories where random weights answer."""

EPILOG = """\
examples:
  .venv/bin/python bench/equality.py                        all parts, the counts of the bars
  .venv/bin/python bench/equality.py --only stand-in --data rows.jsonl.gz
                                                            real texts, the stand-in's row format
  .venv/bin/python bench/equality.py --only 0.6B --rows-06b 10 --stepwise 2
                                                            a quick look

Every difference is printed and written. The exit status is 1 where a bar is missed; a quick look
misses it too, since fewer rows are compared than the bar asks for. The networks with random weights
are made at the first run and kept in .qwarden/bench.
"""

_ANSWER = re.compile(
    r"Safety: (Safe|Unsafe|Controversial)\nCategories: ([^\n]+)(?:\nRefusal: (Yes|No))?"
)


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that is not equal. `margin`: how far apart the reference's two likeliest were, in
    logits, where it is known."""

    row: int
    task: str
    what: str
    engine: str
    transformers: str
    text: str
    margin: float | None = None


@dataclass(slots=True)
class Compared:
    """What was compared in one part."""

    rows: int = 0
    compared: int = 0
    with_categories: int = 0
    with_several: int = 0
    with_refusal: int = 0
    decisions: int = 0
    score_difference: float = 0.0
    smallest_margin: float = math.inf
    differences: list[Difference] = field(default_factory=list)

    def found(self, answer: Assessment) -> None:
        """Counts an answer that is compared."""
        self.compared += 1
        self.with_categories += bool(answer.categories)
        self.with_several += len(answer.categories) > 1
        self.with_refusal += answer.refusal is not None

    def body(self) -> dict[str, Any]:
        """For the file of results."""
        found = asdict(self)
        found["smallest_margin"] = _finite(self.smallest_margin)
        return found


# A free decode, batched.


def decoded(reference: Reference, ids: Sequence[list[int]], batch: int) -> list[str]:
    """The free greedy decode of each text, padded on the left to those of nearly its length."""
    order = sorted(range(len(ids)), key=lambda at: len(ids[at]))
    texts = [""] * len(ids)
    done = 0
    for some in subjects.chunks(order, batch):
        width = max(len(ids[at]) for at in some)
        pad = reference.model.generation_config.pad_token_id or 0
        rows = torch.tensor([[pad] * (width - len(ids[at])) + ids[at] for at in some])
        real = torch.tensor([[0] * (width - len(ids[at])) + [1] * len(ids[at]) for at in some])
        out = reference.model.generate(
            rows, attention_mask=real, max_new_tokens=64, do_sample=False, pad_token_id=pad
        )
        for at, tokens in zip(some, out[:, width:], strict=True):
            texts[at] = reference.tokenizer.decode(tokens, skip_special_tokens=True)
        done += len(some)
        if done * 10 // len(ids) != (done - len(some)) * 10 // len(ids):
            say(f"transformers has decoded {done:,} of {len(ids):,}")
    return texts


@dataclass(frozen=True, slots=True)
class Parsed:
    """An answer that keeps the grammar. `categories`: none where it is Safe."""

    safety: Safety
    categories: tuple[str, ...]
    refusal: bool | None


def parsed(text: str, task: Task, names: Sequence[str]) -> Parsed | None:
    """What a decoded text says, or None where it left the grammar."""
    match = _ANSWER.fullmatch(text)
    if match is None or (match[3] is None) != (task is Task.PROMPT):
        return None
    safety, listed = Safety(match[1]), tuple(match[2].split(", "))
    refusal = None if match[3] is None else match[3] == "Yes"
    if safety is Safety.SAFE:
        return Parsed(safety, (), refusal) if listed == ("None",) else None
    if not set(listed) <= set(names) or len(set(listed)) < len(listed):
        return None
    return Parsed(safety, listed, refusal)


def said(answer: Assessment) -> Parsed:
    """What the engine says, as a free decode would: a Safe answer has no categories."""
    listed = tuple(name for name, _ in answer.categories)
    safe = answer.safety is Safety.SAFE
    return Parsed(answer.safety, () if safe else listed, answer.refusal)


def free(gen: Gen, reference: Reference, some: Sequence[Conversation], batch: int) -> Any:
    """The stand-in's part: the comparison, and the rows apart."""
    answers = _judged(gen, some)
    ids = [reference.ids(each) for each in some]
    own = [gen._wording.template.cut_ids(each) for each in some]
    result = Compared(len(some))
    apart: dict[str, list[dict[str, Any]]] = {"left_the_grammar": [], "typed_markers": []}
    tokens: list[str] = list(reference.tokenizer.get_added_vocab())
    compared = []
    for at, conversation in enumerate(some):
        if own[at] == ids[at]:
            compared.append(at)
        elif any(token in turn.content for turn in conversation.turns for token in tokens):
            # Typed by a user, they are text to the engine and tokens to transformers.
            apart["typed_markers"].append({"row": at, "text": _short(conversation)})
        else:
            result.differences.append(
                _difference(at, conversation, "token ids", str(len(own[at])), str(len(ids[at])))
            )
    say(f"the engine has judged {len(some):,}; transformers decodes {len(compared):,}")
    alone = 0
    texts = decoded(reference, [ids[at] for at in compared], batch)
    for at, text in zip(compared, texts, strict=True):
        conversation, answer = some[at], answers[at]
        names = gen.category_names(conversation.task)
        theirs = parsed(text, conversation.task, names)
        if isinstance(answer, Assessment) and theirs != said(answer):
            alone += 1
            theirs = parsed(reference.generate(conversation), conversation.task, names)
        if not isinstance(answer, Assessment):
            result.differences.append(_difference(at, conversation, "answer", str(answer), text))
        elif theirs is None:
            apart["left_the_grammar"].append(
                {"row": at, "engine": _words(said(answer)), "transformers": text}
            )
        else:
            result.found(answer)
            if theirs != said(answer):
                result.differences.append(
                    _difference(at, conversation, "answer", _words(said(answer)), _words(theirs))
                )
    safeties = [each.safety for each in answers if isinstance(each, Assessment)]
    return result, {
        "safeties": {word.value: safeties.count(word) for word in SAFETIES},
        "decoded_again_alone": alone,
        **apart,
    }


# A constrained decode, followed along the engine's answer.


@dataclass(frozen=True, slots=True)
class Choice:
    """A place where the grammar leaves a choice: behind the first `at` + 1 tokens of a script one
    of `options` (each the ids of which the likeliest speaks for it), of which `chosen` was."""

    what: str
    at: int
    options: dict[str, list[int]]
    chosen: str


class Script:
    """An answer as the text that the network is given behind the template, and its choices."""

    def __init__(self, reference: Reference) -> None:
        self._reference = reference
        self.text = ""
        self.ids: list[int] = []
        self.choices: list[Choice] = []

    def put(self, text: str) -> None:
        self.text += text
        self.ids += self._reference.encode(text)

    def choose(self, what: str, options: dict[str, list[int]], chosen: str) -> None:
        self.choices.append(Choice(what, len(self.ids) - 1, options, chosen))

    def first(self, text: str) -> list[int]:
        return self._reference.encode(text)[:1]

    def refuse(self, refusal: bool | None) -> None:
        self.put("\nRefusal:")
        options = {word: self.first(f" {word}") for word in ("Yes", "No")}
        self.choose("refusal", options, {True: "Yes", False: "No", None: "none"}[refusal])

    def follow(self, names: Sequence[str], listed: Sequence[str], task: Task) -> None:
        """A list of categories, and where each could have been another or the end."""
        stop = [self.first("\n")[0]]
        if task is Task.PROMPT:
            ends = self._reference.model.generation_config.eos_token_id
            stop = [ends] if isinstance(ends, int) else ends
        left = list(names)
        for at, name in enumerate(listed):
            self.choose("category", {each: self.first(f" {each}") for each in left}, name)
            self.put(f" {name}")
            left.remove(name)
            more = at + 1 < len(listed)
            if left:
                options = {"the end": stop, "another": self.first(",")}
                self.choose("end of the categories", options, "another" if more else "the end")
            if more:
                self.put(",")


def scripts(
    reference: Reference, answer: Assessment, task: Task, names: Sequence[str]
) -> list[Script]:
    """The engine's answer as texts to forward: two where it is Safe and has categories for a
    likelier other word, since its refusal stands behind Safe."""
    listed = [name for name, _ in answer.categories]
    asks = task is not Task.PROMPT
    made = []
    if listed:
        script = Script(reference)
        script.put("Safety:")
        script.put(f" {word_of(answer.logits)}")
        script.put("\nCategories:")
        script.follow(names, listed, task)
        if asks and answer.safety is not Safety.SAFE:
            script.refuse(answer.refusal)
        made.append(script)
    if not listed or (asks and answer.safety is Safety.SAFE):
        script = Script(reference)
        script.put("Safety:")
        if asks and answer.safety is Safety.SAFE:
            script.put(" Safe")
            script.put("\nCategories:")
            script.put(" None")
            script.refuse(answer.refusal)
        made.append(script)
    for script in made:
        if reference.encode(script.text) != script.ids:
            raise RuntimeError(f"{script.text!r} is not the tokens of its parts")
    return made


@torch.no_grad()
def forwarded(reference: Reference, start: list[int], script: Script) -> torch.Tensor:
    """The logits at each token of a script: one forward, nothing kept, nothing beside it."""
    ids = torch.tensor([start + script.ids])
    out = reference.model(ids, logits_to_keep=len(script.ids), use_cache=False)
    logits: torch.Tensor = out.logits[0]
    return logits


def follow(
    gen: Gen,
    reference: Reference,
    some: Sequence[Conversation],
    answers: Sequence[Answer],
    floor: float,
) -> Compared:
    """Compares the engine's answers with plain forwards along them."""
    result = Compared(len(some))
    for at, (conversation, answer) in enumerate(zip(some, answers, strict=True)):
        if at and at % max(1, len(some) // 10) == 0:
            say(f"{at} of {len(some)} are forwarded plainly")
        if isinstance(answer, Assessment) and answer.dropped_turns == 0 and not answer.entries:
            _follow(gen, reference, conversation, answer, floor=floor, result=result, at=at)
        else:
            result.differences.append(
                _difference(at, conversation, "answer", str(answer), "not asked")
            )
    return result


def _follow(
    gen: Gen,
    reference: Reference,
    conversation: Conversation,
    answer: Assessment,
    *,
    floor: float,
    result: Compared,
    at: int,
) -> None:
    result.found(answer)
    names = gen.category_names(conversation.task)
    start = reference.ids(conversation)

    def differs(what: str, engine: object, theirs: object, margin: float | None = None) -> None:
        result.differences.append(
            _difference(at, conversation, what, str(engine), str(theirs), margin=margin)
        )

    for number, script in enumerate(scripts(reference, answer, conversation.task, names)):
        logits = forwarded(reference, start, script)
        # Behind `Safety:`, the script's first tokens.
        first = logits[len(reference.encode("Safety:")) - 1]
        safe, controversial, unsafe = (float(first[script.first(f" {w}")[0]]) for w in SAFETIES)
        plain = (safe, controversial, unsafe)
        if number == 0:
            _scores(answer, plain, floor, result, differs)
        for choice in script.choices:
            values = {
                label: max(float(logits[choice.at][token]) for token in tokens)
                for label, tokens in choice.options.items()
            }
            best, margin = _best(values)
            result.decisions += 1
            result.smallest_margin = min(result.smallest_margin, margin)
            if best != choice.chosen:
                differs(choice.what, choice.chosen, best, margin)
                return


def _scores(
    answer: Assessment,
    plain: tuple[float, float, float],
    floor: float,
    result: Compared,
    differs: Any,
) -> None:
    theirs = scores_of(plain)
    worst = max(abs(a - b) for a, b in zip(answer.scores, theirs, strict=True))
    result.score_difference = max(result.score_difference, worst)
    if not worst <= SCORE_BAR:
        differs("scores", answer.scores, theirs)
    best, margin = _best(dict(zip(SAFETIES, plain, strict=True)))
    result.smallest_margin = min(result.smallest_margin, margin)
    if best != answer.safety:
        differs("safety", answer.safety, best, margin)
    if (theirs[0] < floor) != bool(answer.categories):
        differs("whether there are categories", bool(answer.categories), theirs[0] < floor)
    if answer.categories and word_of(plain) != word_of(answer.logits):
        differs("the word of the categories", word_of(answer.logits), word_of(plain))


def step_by_step(
    gen: Gen,
    reference: Reference,
    some: Sequence[Conversation],
    answers: Sequence[Answer],
    *,
    floor: float,
    count: int,
) -> Compared:
    """Decodes some rows a token at a time, those with most categories first."""
    result = Compared()
    having = [at for at, each in enumerate(answers) if isinstance(each, Assessment)]
    having.sort(key=lambda at: -len(getattr(answers[at], "categories", ())))
    half = (count + 1) // 2
    others = [at for at in having[half:] if not getattr(answers[at], "categories", ())]
    for at in having[:half] + others[: count - half]:
        answer, conversation = answers[at], some[at]
        assert isinstance(answer, Assessment)
        names = gen.category_names(conversation.task)
        theirs = reference.constrained(conversation, names, floor)
        result.rows += 1
        result.found(answer)
        ours = ([name for name, _ in answer.categories], answer.refusal)
        expected = ([name for name, _ in theirs.categories], theirs.refusal)
        if answer.safety is not Safety.SAFE and not answer.categories:
            expected = (expected[0], None)  # above the floor nothing is decoded, see `submit`
        if ours != expected:
            result.differences.append(
                _difference(
                    at, conversation, "answer", str(ours), str(expected), margin=theirs.margin
                )
            )
        say(f"row {at} is decoded step by step, {len(ours[0])} categories")
    return result


# The parts.


def stand_in(asked: argparse.Namespace) -> dict[str, Any]:
    """The stand-in beside a free decode."""
    checkpoint = subjects.network("stand-in", "plain")
    if asked.data:
        some = subjects.read(asked.data, asked.rows)
        texts = f"{asked.data.name}, {len(some)} rows of it"
    else:
        some = subjects.conversations(f"equality-{asked.seed}", asked.rows)
        texts = f"seeded, seed {asked.seed}"
    gen = _engine(checkpoint)
    result, more = free(gen, Reference(checkpoint), some, asked.batch)
    gen.close()
    tasks = [each.task for each in some]
    return {
        "texts": texts,
        "tasks": {task.value: tasks.count(task) for task in Task},
        "bar": {
            "rows": 2_000,
            "differences": 0,
            "met": not result.differences and result.compared >= 2_000,
        },
        "compared": result.body(),
        **more,
    }


def random_weights(
    name: str,
    some: Sequence[Conversation],
    checkpoint: Path,
    *,
    wanted: int,
    first_pass: int,
    stepwise: int,
) -> dict[str, Any]:
    """Random weights beside plain forwards. `wanted`: rows that the bar asks for; `first_pass`:
    rows that the floor is found on."""
    gen = _engine(checkpoint, floor=0, refusal=False)
    say(f"{name}: the engine looks for the floor")
    first = _judged(gen, some[:first_pass])
    safe = sorted(each.scores[0] for each in first if isinstance(each, Assessment))
    gen.close()
    del gen
    at = min(len(safe) - 1, max(1, round(SHARE * len(safe))))
    floor = (safe[at - 1] + safe[at]) / 2 if len(safe) > 1 else 0.5
    gen = _engine(checkpoint, floor=floor)
    answers = _judged(gen, some)
    say(f"{name}: floor {floor:.4f}; transformers forwards {len(some)} rows, one after the other")
    reference = Reference(checkpoint)
    result = follow(gen, reference, some, answers, floor)
    stepped = step_by_step(gen, reference, some, answers, floor=floor, count=stepwise)
    tokens = [each.tokens for each in answers if isinstance(each, Assessment)]
    gen.close()
    met = not result.differences and not stepped.differences and result.compared >= wanted
    return {
        "network": checkpoint.name,
        "floor": floor,
        "tokens": {"least": min(tokens), "most": max(tokens), "all": sum(tokens)},
        "bar": {"rows": wanted, "scores_within": SCORE_BAR, "differences": 0, "met": met},
        "compared": result.body(),
        "step_by_step": stepped.body(),
    }


def shape_06b(asked: argparse.Namespace) -> dict[str, Any]:
    """Random weights of the 0.6B shape."""
    some = subjects.conversations(f"equality-06b-{asked.seed}", asked.rows_06b, most=6)
    network = subjects.network("0.6B", "listing")
    return random_weights("0.6B", some, network, wanted=200, first_pass=60, stepwise=asked.stepwise)


def long(asked: argparse.Namespace) -> dict[str, Any]:
    """Long conversations through the tiny shape."""
    from tokenizers import Tokenizer

    network = subjects.network("tiny", "listing")
    tokenizer = Tokenizer.from_file(str(network / "tokenizer.json"))
    some = subjects.long_conversations(
        f"equality-long-{asked.seed}",
        asked.rows_long,
        8_000,
        30_000,
        lambda text: len(tokenizer.encode(text).ids),
    )
    return random_weights("long", some, network, wanted=50, first_pass=10, stepwise=0)


def _engine(checkpoint: Path, **settings: Any) -> Gen:
    return Gen.load(
        EngineSettings(checkpoint=str(checkpoint), device="cpu", dtype="float32", **settings)
    )


def _judged(gen: Gen, some: Sequence[Conversation]) -> list[Answer]:
    answers: list[Answer] = []
    for each in subjects.chunks(some, 100):
        answers += gen.judge([conversation.to_json() for conversation in each])
    return answers


def _best(values: dict[Any, float]) -> tuple[Any, float]:
    """The likeliest, and how far it is from the next."""
    ordered = sorted(values, key=values.__getitem__, reverse=True)
    return ordered[0], values[ordered[0]] - values[ordered[1]] if len(ordered) > 1 else math.inf


def _words(said: Parsed) -> str:
    refusal = {True: ", refused", False: ", not refused", None: ""}[said.refusal]
    return f"{said.safety}, {', '.join(said.categories) or 'None'}{refusal}"


def _difference(
    at: int,
    conversation: Conversation,
    what: str,
    engine: str,
    theirs: str,
    *,
    margin: float | None = None,
) -> Difference:
    return Difference(
        at, conversation.task.value, what, engine, theirs, _short(conversation), margin
    )


def _short(conversation: Conversation) -> str:
    text = " | ".join(turn.content for turn in conversation.turns)
    return text if len(text) <= 200 else f"{text[:150]} … {text[-49:]}"


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def show(part: str, body: dict[str, Any]) -> bool:
    """Prints a part; whether its bar is met."""
    found = body["compared"]
    print(f"{part}: {found['rows']:,} rows, {found['compared']:,} compared")
    print(
        f"  with categories {found['with_categories']:,}, of these several "
        f"{found['with_several']:,}; with a refusal {found['with_refusal']:,}"
    )
    if part == "stand-in":
        print(f"  {body['texts']}; {body['tasks']}; {body['safeties']}")
        print(f"  decoded again alone: {body['decoded_again_alone']}")
        for name in ("left_the_grammar", "typed_markers"):
            print(f"  {name.replace('_', ' ')}: {len(body[name])}")
            for each in body[name]:
                print(f"    {each}")
    else:
        print(
            f"  floor {body['floor']:.4f}, {found['decisions']:,} decisions; the largest "
            f"difference of a score {found['score_difference']:.2e}, the smallest margin "
            f"{found['smallest_margin']:.2e}; step by step {body['step_by_step']['rows']} rows"
        )
    differences = found["differences"] + body.get("step_by_step", {}).get("differences", [])
    print(f"  differences: {len(differences)}")
    for each in differences:
        print(f"    {each}")
    met = bool(body["bar"]["met"])
    if found["compared"] < body["bar"]["rows"]:
        print(f"  fewer rows were compared than the {body['bar']['rows']:,} of the bar")
    print(f"  {'met' if met else 'NOT MET'}")
    return met


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description="Compare the engine's answers with those of transformers.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--only", default=",".join(PARTS), metavar="PARTS", help=f"of {', '.join(PARTS)}")
    add("--rows", type=int, default=2_400, help="of the stand-in's part (default 2400)")
    add("--data", type=Path, metavar="FILE", help="texts of that part, in place of seeded ones")
    add("--batch", type=int, default=32, help="rows that transformers decodes at once (default 32)")
    add("--rows-06b", type=int, default=200, help="of the 0.6B part (default 200)")
    add("--stepwise", type=int, default=10, help="rows of it decoded step by step (default 10)")
    add("--rows-long", type=int, default=50, help="of the long part (default 50)")
    add("--seed", type=int, default=1, help="of the texts (default 1)")
    add("--out", type=Path, default=subjects.RESULTS / "equality.json", help="the results")
    asked = parser.parse_args()
    unknown = set(asked.only.split(",")) - set(PARTS)
    if unknown:
        parser.error(f"{', '.join(sorted(unknown))}: parts are {', '.join(PARTS)}")
    return asked


def main() -> None:
    asked = arguments()
    torch.set_num_threads(usable_cores())
    runs = {"stand-in": stand_in, "0.6B": shape_06b, "long": long}
    met = True
    for part in asked.only.split(","):
        body = runs[part](asked)
        name = f"{part}, {asked.data.name}" if part == "stand-in" and asked.data else part
        subjects.record(asked.out, "the engine's answers beside transformers'", name, body)
        met &= show(part, body)
    sys.exit(0 if met else 1)


if __name__ == "__main__":
    main()
