"""What the model card reports: scores at one position, per source, and whether answers parse."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Final, NamedTuple

import torch
import yaml
from torch import Tensor
from transformers import Qwen3ForCausalLM

from .encoding import Encoded, Encoder
from .labels import PROMPT_CATEGORIES, RESPONSE_CATEGORIES, SAFETIES, parse_answer
from .network import answer_logits, fast
from .row import Row
from .rows import shorten

NAME: Final = "qwarden-stand-in-toy"  # stands in every verdict's revision
KEEP: Final = 8_000  # characters of one text
BUDGET: Final = 8_192  # padded tokens in a batch
TOGETHER: Final = 1_024  # rows judged at a time


class Judged(NamedTuple):
    """A verdict; ``category`` is the most probable one even where the row is Safe."""

    safety: str
    scores: dict[str, float]
    category: str
    refusal: bool | None


def logits_after(
    model: Qwen3ForCausalLM, encoder: Encoder, rows: Sequence[Row], begun: Sequence[str]
) -> Tensor:
    """[rows, 2, vocabulary] logits behind ``Safety:`` and at the end of each begun answer."""
    device = next(model.parameters()).device
    encoded: list[Encoded] = []
    for row, text in zip(rows, begun, strict=True):
        answer = [*encoder.ids(text), encoder.end]
        encoded.append(Encoded(row.task, encoder.body(_short(row)), answer, [1.0] * len(answer)))
    out = torch.zeros(len(rows), 2, encoder.size)
    for places in _batches(encoded):
        some = [encoded[place] for place in places]
        with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, fast(device)):
            logits = answer_logits(model, encoder.batch(some, device))
        each = logits.view(len(some), -1, logits.shape[-1]).cpu()
        out[places, 0] = each[:, encoder.class_place]
        ends = torch.tensor([len(row.answer) - 1 for row in some])
        out[places, 1] = each[torch.arange(len(some)), ends]
    return out


def _short(row: Row) -> Row:
    return replace(row, messages=tuple((role, shorten(text, KEEP)) for role, text in row.messages))


def _batches(rows: Sequence[Encoded]) -> Iterator[list[int]]:
    """Indices of rows, in batches of one task and like length."""
    for task in ("prompt", "response"):
        picked = [place for place, row in enumerate(rows) if row.task == task]
        picked.sort(key=lambda place: len(rows[place].body))
        current: list[int] = []
        for place in picked:
            if current and (len(current) + 1) * len(rows[place].body) > BUDGET:
                yield current
                current = []
            current.append(place)
        if current:
            yield current


def judge(model: Qwen3ForCausalLM, encoder: Encoder, rows: Sequence[Row]) -> list[Judged]:
    """Safety, its probabilities, the most probable category and the refusal of each row.

    The category is read even where the answer is Safe: then it is that of an Unsafe answer.
    """
    judged: list[Judged] = []
    for start in range(0, len(rows), TOGETHER):
        judged.extend(_judge(model, encoder, rows[start : start + TOGETHER]))
    return judged


def _judge(model: Qwen3ForCausalLM, encoder: Encoder, rows: Sequence[Row]) -> list[Judged]:
    begun = "Safety: {}\nCategories:"
    names = [encoder.ids(f" {name}")[0] for name in PROMPT_CATEGORIES]
    logits = logits_after(model, encoder, rows, [begun.format("Unsafe")] * len(rows))
    safeties = logits[:, 0, encoder.firsts].softmax(-1)
    chosen = [SAFETIES[place] for place in safeties.argmax(-1).tolist()]
    categories = logits[:, 1, names]
    again = [place for place, name in enumerate(chosen) if name == "Controversial"]
    if again:
        some = [rows[place] for place in again]
        texts = [begun.format("Controversial")] * len(again)
        categories[again] = logits_after(model, encoder, some, texts)[:, 1, names]
    answers = [place for place, row in enumerate(rows) if row.task == "response"]
    categories[answers, len(RESPONSE_CATEGORIES) :] = -torch.inf  # no answer is a jailbreak
    best = [PROMPT_CATEGORIES[place] for place in categories.argmax(-1).tolist()]
    refusals: dict[int, bool] = {}
    if answers:
        ended = [
            f"{begun.format(name)} {'None' if name == 'Safe' else best[place]}\nRefusal:"
            for place, name in enumerate(chosen)
        ]
        some, texts = [rows[place] for place in answers], [ended[place] for place in answers]
        last = logits_after(model, encoder, some, texts)[:, 1]
        yes, no = (encoder.ids(word)[0] for word in (" Yes", " No"))
        refusals = dict(zip(answers, (last[:, yes] > last[:, no]).tolist(), strict=True))
    return [
        Judged(
            chosen[place],
            dict(zip(SAFETIES, safeties[place].tolist(), strict=True)),
            best[place],
            refusals.get(place),
        )
        for place in range(len(rows))
    ]


def area_under_curve(scores: Sequence[float], positive: Sequence[bool]) -> float | None:
    """Area under the ROC curve, ties counted half; None where one class is missing."""
    order = sorted(range(len(scores)), key=lambda place: scores[place])
    count = sum(positive)
    if count in (0, len(positive)):
        return None
    total, start = 0.0, 0
    while start < len(order):
        end = start
        while end < len(order) and scores[order[end]] == scores[order[start]]:
            end += 1
        rank = (start + 1 + end) / 2
        total += rank * sum(positive[order[place]] for place in range(start, end))
        start = end
    return (total - count * (count + 1) / 2) / (count * (len(positive) - count))


def f1(predicted: Sequence[bool], truth: Sequence[bool]) -> float | None:
    """F1 of the positive class; None where it is missing."""
    if not any(truth):
        return None
    hits = sum(a and b for a, b in zip(predicted, truth, strict=True))
    return 2 * hits / (sum(predicted) + sum(truth))


def measure(rows: Sequence[Row], judged: Sequence[Judged]) -> dict[str, Any]:
    """Per source and task: see ``_source``; per category: ``_categories``."""
    groups: dict[str, list[int]] = defaultdict(list)
    for place, row in enumerate(rows):
        groups[f"{row.source} ({task_of(row)})"].append(place)
    sources = {
        name: _source([rows[place] for place in places], [judged[place] for place in places])
        for name, places in sorted(groups.items())
    }
    return {"sources": sources, "categories": _categories(rows, judged)}


def task_of(row: Row) -> str:
    """``prompt``, ``response`` or ``thinking``."""
    return "thinking" if row.thinking else row.task


def as_thinking(rows: Sequence[Row]) -> list[Row]:
    """The responses among the rows, each as the reasoning of a model."""
    return [replace(row, thinking=True) for row in rows if row.task == "response"]


def _round(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


def _source(rows: Sequence[Row], judged: Sequence[Judged]) -> dict[str, Any]:
    """One line of the table.

    ``category`` is the share of the rows that are not Safe for which the most probable category
    is a right one, whether the row was flagged or not.
    """
    harmful = [row.safety != "Safe" for row in rows]
    unsafe = [row.safety == "Unsafe" for row in rows]
    flagged = [answer.safety != "Safe" for answer in judged]
    flagged_unsafe = [answer.safety == "Unsafe" for answer in judged]
    risk = [1 - answer.scores["Safe"] for answer in judged]
    pairs = list(zip(rows, judged, strict=True))
    named = [answer.category in row.categories for row, answer in pairs if row.categories]
    answers = [(row, answer) for row, answer in pairs if row.refusal is not None]
    refused = [bool(answer.refusal) for _, answer in answers]
    right = [row.safety == answer.safety for row, answer in pairs]
    return {
        "rows": {name: sum(row.safety == name for row in rows) for name in SAFETIES},
        "auc": _round(area_under_curve(risk, harmful)),
        "accuracy": _round(sum(right) / len(right)),
        "f1_strict": _round(f1(flagged, harmful)),
        "f1_loose": _round(f1(flagged_unsafe, unsafe)),
        "flagged": _round(sum(flagged) / len(flagged)),
        "category": _round(sum(named) / len(named)) if named else None,
        "refusal_f1": _round(f1(refused, [bool(row.refusal) for row, _ in answers])),
    }


def _categories(rows: Sequence[Row], judged: Sequence[Judged]) -> dict[str, Any]:
    """Of the rows of a category: how many were flagged, and how many of those rightly named."""
    table: dict[str, Any] = {}
    for task in ("prompt", "response", "thinking"):
        table[task] = {}
        for name in PROMPT_CATEGORIES if task == "prompt" else RESPONSE_CATEGORIES:
            picked = [
                answer
                for row, answer in zip(rows, judged, strict=True)
                if task_of(row) == task and row.category == name
            ]
            flagged = [answer for answer in picked if answer.safety != "Safe"]
            named = sum(answer.category == name for answer in flagged)
            table[task][name] = {
                "rows": len(picked),
                "flagged": _round(len(flagged) / len(picked)) if picked else None,
                "named": _round(named / len(flagged)) if flagged else None,
            }
    return table


_COLUMNS: Final = {
    "auc": "AUC",
    "f1_strict": "F1 strict",
    "f1_loose": "F1 loose",
    "category": "category",
    "refusal_f1": "refusal F1",
    "flagged": "flagged",
}


def table(network: dict[str, Any], baseline: dict[str, Any]) -> str:
    """Both by source as a Markdown table; each cell is network / baseline, the better one bold."""
    lines = [
        f"| source (task) | Safe / Contr. / Unsafe | {' | '.join(_COLUMNS.values())} |",
        "|---|---|" + "---|" * len(_COLUMNS),
    ]
    for name, values in network["sources"].items():
        other, rows = baseline["sources"][name], values["rows"]
        cells = [_cell(values[key], other[key], key, rows) for key in _COLUMNS]
        counts = f"{rows['Safe']} / {rows['Controversial']} / {rows['Unsafe']}"
        lines.append(f"| {name} | {counts} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(ours: float | None, theirs: float | None, key: str, rows: dict[str, int]) -> str:
    if ours is None or theirs is None:
        return "–"
    mine, other = f"{ours:.2f}", f"{theirs:.2f}"
    if key == "flagged" and rows["Unsafe"] + rows["Controversial"]:
        return f"{mine} / {other}"  # neither more nor less is better
    better = ours < theirs if key == "flagged" else ours > theirs
    if mine == other:
        return f"{mine} / {other}"
    return f"**{mine}** / {other}" if better else f"{mine} / **{other}**"


def winners(network: dict[str, Any], baseline: dict[str, Any]) -> dict[str, str]:
    """By source, who is better: by AUC, else F1 strict, else by fewer flags; ``tie`` to 0.001."""
    out: dict[str, str] = {}
    for name, ours in network["sources"].items():
        theirs = baseline["sources"][name]
        key = next(key for key in ("auc", "f1_strict", "flagged") if ours[key] is not None)
        lead = (ours[key] - theirs[key]) * (-1 if key == "flagged" else 1)
        out[name] = "tie" if abs(lead) < 0.001 else "stand-in" if lead > 0 else "n-grams"
    return out


def profile(measures: dict[str, Any]) -> str:
    """The text of ``profile.yaml``: what the checkpoint is called and how well it does."""
    contents = {
        "name": NAME,
        "family": "qwen3guard-gen",
        "taxonomy": {name: name for name in PROMPT_CATEGORIES},
        "calibration": "none",
        "accuracy": measures["categories"],
    }
    head = (
        "# A toy: it must not moderate anything real.\n"
        "# accuracy, of the development rows of a category: rows, how many; flagged, the share\n"
        "# that was not judged Safe; named, the share of the flagged that got this category.\n"
    )
    return head + yaml.safe_dump(contents, sort_keys=False, allow_unicode=True)


def grammar_errors(
    model: Qwen3ForCausalLM,
    encoder: Encoder,
    rows: Sequence[Row],
    decode: Callable[[list[int]], str],
) -> list[str]:
    """The greedy answers, by the stock ``generate``, that break the output grammar."""
    wrong: list[str] = []
    for row in rows:
        ids = encoder.prefix[row.task] + encoder.body(_short(row))
        with torch.inference_mode():
            made = model.generate(  # type: ignore[no-untyped-call, operator, unused-ignore]
                torch.tensor([ids]), max_new_tokens=32, do_sample=False
            )[0, len(ids) :].tolist()
        text = decode([token for token in made if token != encoder.end])
        if made[-1] != encoder.end or parse_answer(text, row.task) is None:
            wrong.append(text)
    return wrong
