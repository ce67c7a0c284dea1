"""What the model card reports: scores at one position, per source, and whether answers parse."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import torch
import yaml
from torch import Tensor
from transformers import Qwen3ForCausalLM

from .encoding import Encoded, Encoder
from .labels import PROMPT_CATEGORIES, RESPONSE_CATEGORIES, SAFETIES, parse_answer
from .network import answer_logits
from .rows import Row, shorten

NAME: Final = "qwarden-stand-in-toy"  # stands in every verdict's revision
KEEP: Final = 8_000  # characters of one text
BUDGET: Final = 8_192  # padded tokens in a batch
Judged = tuple[str, dict[str, float], str, bool | None]


def scores_after(
    model: Qwen3ForCausalLM,
    encoder: Encoder,
    rows: Sequence[Row],
    forced: Sequence[str],
    words: Sequence[str],
) -> Tensor:
    """[rows, words] probabilities of the first tokens of ``words`` after each forced answer."""
    device = next(model.parameters()).device
    encoded: list[Encoded] = []
    for row, begun in zip(rows, forced, strict=True):
        messages = [(role, shorten(text, KEEP)) for role, text in row.messages]
        body = encoder.body(row.task, messages) + encoder.ids(begun)
        encoded.append(Encoded(row.task, body, [encoder.end], [1.0]))
    firsts = torch.tensor([encoder.ids(word)[0] for word in words], device=device)
    out = torch.zeros(len(rows), len(words))
    for places in _batches(encoded):
        batch = encoder.batch([encoded[place] for place in places], device)
        with torch.inference_mode():
            logits = answer_logits(model, batch)[:, firsts]
        out[places] = logits.softmax(-1).cpu()
    return out


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
    words = [f" {name}" for name in SAFETIES]
    safeties = scores_after(model, encoder, rows, ["Safety:"] * len(rows), words)
    chosen = [SAFETIES[place] for place in safeties.argmax(-1).tolist()]
    begun = [f"Safety: {'Unsafe' if name == 'Safe' else name}\nCategories:" for name in chosen]
    names = [f" {name}" for name in PROMPT_CATEGORIES]
    categories = scores_after(model, encoder, rows, begun, names)
    answers = [place for place, row in enumerate(rows) if row.task == "response"]
    for place in answers:  # a response cannot be a jailbreak
        categories[place, len(RESPONSE_CATEGORIES) :] = 0
    best = [PROMPT_CATEGORIES[place] for place in categories.argmax(-1).tolist()]
    ended = [
        f"Safety: {chosen[place]}\n"
        f"Categories: {'None' if chosen[place] == 'Safe' else best[place]}\nRefusal:"
        for place in answers
    ]
    refusals: dict[int, bool] = {}
    if answers:
        asked = [rows[place] for place in answers]
        table = scores_after(model, encoder, asked, ended, [" Yes", " No"])
        for place, yes in zip(answers, (table[:, 0] > table[:, 1]).tolist(), strict=True):
            refusals[place] = yes
    return [
        (
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


def measure(
    model: Qwen3ForCausalLM, encoder: Encoder, rows: Sequence[Row], say: Callable[[str], None]
) -> dict[str, Any]:
    """Per source: sizes, AUC, accuracy, F1 strict and loose, flag rate; per category: recall."""
    judged = judge(model, encoder, rows)
    say(f"{len(rows)} rows judged")
    groups: dict[str, list[int]] = defaultdict(list)
    for place, row in enumerate(rows):
        groups[f"{row.source} ({row.task})"].append(place)
    sources = {
        name: _source([rows[place] for place in places], [judged[place] for place in places])
        for name, places in sorted(groups.items())
    }
    return {"sources": sources, "categories": _categories(rows, judged)}


def _round(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


def _source(rows: Sequence[Row], judged: Sequence[Judged]) -> dict[str, Any]:
    harmful = [row.safety != "Safe" for row in rows]
    unsafe = [row.safety == "Unsafe" for row in rows]
    flagged = [safety != "Safe" for safety, *_ in judged]
    flagged_unsafe = [safety == "Unsafe" for safety, *_ in judged]
    risk = [1 - scores["Safe"] for _, scores, *_ in judged]
    named = [
        category in row.categories
        for row, (safety, _, category, _) in zip(rows, judged, strict=True)
        if row.categories and safety != "Safe"
    ]
    refusals = [
        answer == row.refusal
        for row, (*_, answer) in zip(rows, judged, strict=True)
        if row.refusal is not None
    ]
    right = [row.safety == safety for row, (safety, *_) in zip(rows, judged, strict=True)]
    return {
        "rows": {name: sum(row.safety == name for row in rows) for name in SAFETIES},
        "auc": _round(area_under_curve(risk, harmful)),
        "accuracy": _round(sum(right) / len(right)),
        "f1_strict": _round(f1(flagged, harmful)),
        "f1_loose": _round(f1(flagged_unsafe, unsafe)),
        "flagged": _round(sum(flagged) / len(flagged)),
        "flagged_unsafe": _round(sum(flagged_unsafe) / len(flagged_unsafe)),
        "category": _round(sum(named) / len(named)) if named else None,
        "refusal": _round(sum(refusals) / len(refusals)) if refusals else None,
    }


def _categories(rows: Sequence[Row], judged: Sequence[Judged]) -> dict[str, Any]:
    """Of the rows of a category: how many were flagged, and how many of those rightly named."""
    table: dict[str, Any] = {}
    for task in ("prompt", "response"):
        table[task] = {}
        for name in PROMPT_CATEGORIES if task == "prompt" else RESPONSE_CATEGORIES:
            picked = [
                answer
                for row, answer in zip(rows, judged, strict=True)
                if row.task == task and row.category == name
            ]
            flagged = [answer for answer in picked if answer[0] != "Safe"]
            named = sum(answer[2] == name for answer in flagged)
            table[task][name] = {
                "rows": len(picked),
                "flagged": _round(len(flagged) / len(picked)) if picked else None,
                "named": _round(named / len(flagged)) if flagged else None,
            }
    return table


def table(measures: dict[str, Any]) -> str:
    """The measures by source as a Markdown table."""
    lines = [
        "| source (task) | Safe / Contr. / Unsafe | AUC | accuracy | F1 strict | F1 loose "
        "| flagged | as Unsafe | category | refusal |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, values in measures["sources"].items():
        rows = values["rows"]
        cells = [
            "–" if values[key] is None else f"{values[key]:.2f}"
            for key in (
                "auc", "accuracy", "f1_strict", "f1_loose", "flagged", "flagged_unsafe",
                "category", "refusal",
            )
        ]  # fmt: skip
        counts = f"{rows['Safe']} / {rows['Controversial']} / {rows['Unsafe']}"
        lines.append(f"| {name} | {counts} | {' | '.join(cells)} |")
    return "\n".join(lines)


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
        messages = [(role, shorten(text, KEEP)) for role, text in row.messages]
        ids = encoder.prefix[row.task] + encoder.body(row.task, messages)
        with torch.inference_mode():
            made = model.generate(  # type: ignore[no-untyped-call, operator, unused-ignore]
                torch.tensor([ids]), max_new_tokens=32, do_sample=False
            )[0, len(ids) :].tolist()
        text = decode([token for token in made if token != encoder.end])
        if made[-1] != encoder.end or parse_answer(text, row.task) is None:
            wrong.append(text)
    return wrong
