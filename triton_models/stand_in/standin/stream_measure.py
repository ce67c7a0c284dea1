"""What the stream stand-in's card reports: verdicts at the end of texts, and where flags come."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple

import torch
import yaml
from transformers import Qwen3ForCausalLM

from .encoding import Encoder
from .labels import RESPONSE_CATEGORIES, SAFETIES
from .measure import Judged as Verdict
from .measure import logits_after, measure, task_of
from .network import fast
from .row import Row
from .rows import shorten
from .stream_encoding import CATEGORIES, LONG_NAMES, Encoded, Layout
from .stream_exchange import SAFE, Exchange, Judged, Segment
from .stream_network import Logits, StreamNetwork
from .stream_rows import label

NAME: Final = "qwarden-stream-stand-in-toy"  # stands in every verdict's revision
KEEP: Final = 8_000  # code points of one text
BUDGET: Final = 8_192  # padded tokens in a batch
TOGETHER: Final = 512  # rows that Gen judges at a time


class Read(NamedTuple):
    """What the heads say of one exchange, as probabilities: ``query`` at the end of the user's
    turn, the others [tokens, 3] and [tokens, 8] at its scored tokens."""

    query: Logits
    tokens: Logits
    encoded: Encoded


def read_exchanges(
    network: StreamNetwork, layout: Layout, exchanges: Sequence[Exchange]
) -> list[Read]:
    """Reads whole exchanges, in batches of like length."""
    device = next(network.parameters()).device
    encoded = [layout.encode(exchange) for exchange in exchanges]
    out: dict[int, Read] = {}
    for places in _batches(encoded):
        length = max(len(encoded[place].ids) for place in places)
        tokens = torch.full((len(places), length), layout.turn_end, device=device)
        for number, place in enumerate(places):
            ids = torch.tensor(encoded[place].ids, device=device)
            tokens[number, : len(ids)] = ids
        with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, fast(device)):
            states = network.states(tokens)
        with torch.inference_mode():
            for number, place in enumerate(places):
                row = encoded[place]
                scored = [token.place for token in row.scored]
                out[place] = Read(
                    _shares(network.query(states[number, row.query_place])),
                    _shares(network.response(states[number, scored])),
                    row,
                )
    return [out[place] for place in range(len(encoded))]


def _shares(logits: Logits) -> Logits:
    return Logits(logits.risk.softmax(-1).cpu(), logits.category.softmax(-1).cpu())


def _batches(rows: Sequence[Encoded]) -> Iterator[list[int]]:
    current: list[int] = []
    for place in sorted(range(len(rows)), key=lambda place: len(rows[place].ids)):
        if current and (len(current) + 1) * len(rows[place].ids) > BUDGET:
            yield current
            current = []
        current.append(place)
    if current:
        yield current


def flagged_at(safe: Sequence[bool]) -> int | None:
    """The token at which a text is flagged: the second of the first two in a row not Safe."""
    for place in range(1, len(safe)):
        if not safe[place] and not safe[place - 1]:
            return place
    return None


def exchange_of(row: Row) -> Exchange:
    """A row as an exchange; system turns are left out, as the fleet does."""
    turns = [shorten(text, KEEP) for role, text in row.messages if role != "system"]
    if row.task == "prompt":
        return Exchange(row.source, turns[-1], label(row), history=_pairs(turns[:-1]))
    made = label(row)
    judged = Judged(turns[-1], made, None if made == SAFE else len(turns[-1]))
    asked = Exchange(row.source, turns[-2], history=_pairs(turns[:-2]))
    if row.thinking:
        return replace(asked, thinking=judged)
    return replace(asked, answer=judged)


def _pairs(turns: Sequence[str]) -> tuple[tuple[str, str], ...]:
    return tuple(zip(turns[::2], turns[1::2], strict=True))


@dataclass(frozen=True, slots=True)
class Stream:
    """The verdicts at the end of each row, and whether two tokens in a row flagged it before."""

    ends: list[Verdict]
    latched: list[bool]


def judge_rows(network: StreamNetwork, layout: Layout, rows: Sequence[Row]) -> Stream:
    """A prompt by the query heads, an answer or a thought at its last content token."""
    ends: list[Verdict] = []
    latched: list[bool] = []
    exchanges = [exchange_of(row) for row in rows]
    for row, read in zip(rows, read_exchanges(network, layout, exchanges), strict=True):
        if row.task == "prompt":
            ends.append(_verdict(read.query.risk, read.query.category))
            latched.append(ends[-1].safety != "Safe")
            continue
        if not read.encoded.scored:
            raise ValueError(f"a text of {row.source} has no tokens")
        ends.append(_verdict(read.tokens.risk[-1], read.tokens.category[-1]))
        latched.append(flagged_at(_safe(read.tokens.risk)) is not None)
    return Stream(ends, latched)


def _safe(risk: torch.Tensor) -> list[bool]:
    safe: list[bool] = (risk.argmax(-1) == SAFETIES.index("Safe")).tolist()
    return safe


def _verdict(risk: torch.Tensor, category: torch.Tensor) -> Verdict:
    scores = dict(zip(SAFETIES, risk.tolist(), strict=True))
    return Verdict(SAFETIES[int(risk.argmax())], scores, LONG_NAMES[int(category.argmax())], None)


def gen_verdicts(model: Qwen3ForCausalLM, encoder: Encoder, rows: Sequence[Row]) -> list[Verdict]:
    """Safety and its probabilities by a Gen checkpoint; the category is not read."""
    out: list[Verdict] = []
    for start in range(0, len(rows), TOGETHER):
        some = rows[start : start + TOGETHER]
        logits = logits_after(model, encoder, some, ["Safety:"] * len(some))
        for shares in logits[:, 0, encoder.firsts].softmax(-1).tolist():
            scores = dict(zip(SAFETIES, shares, strict=True))
            best = max(SAFETIES, key=lambda name: scores[name])
            out.append(Verdict(best, scores, "", None))
    return out


def compare(rows: Sequence[Row], stream: Stream, gen: Sequence[Verdict]) -> dict[str, Any]:
    """Per source and task the measures of both, and how often they agree."""
    plain = [replace(row, refusal=None) for row in rows]  # the stream guard knows no refusal
    ours = measure(plain, stream.ends)
    theirs = measure(plain, gen)
    groups: dict[str, list[int]] = defaultdict(list)
    for place, row in enumerate(rows):
        groups[f"{row.source} ({task_of(row)})"].append(place)
    for name, places in groups.items():
        same = [stream.ends[place].safety == gen[place].safety for place in places]
        latched = [stream.latched[place] for place in places]
        ours["sources"][name]["agreement"] = round(sum(same) / len(same), 3)
        ours["sources"][name]["latched"] = round(sum(latched) / len(latched), 3)
    return {"stream": ours, "gen": theirs["sources"]}


def table(compared: dict[str, Any]) -> str:
    """Both by source as a Markdown table; each cell is Stream / Gen."""
    lines = [
        "| source (task) | Safe / Contr. / Unsafe | AUC | F1 strict | F1 loose | flagged | agree "
        "| latched | category |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, ours in compared["stream"]["sources"].items():
        theirs, rows = compared["gen"][name], ours["rows"]
        both = [
            "–"
            if ours[key] is None or theirs[key] is None
            else f"{ours[key]:.2f} / {theirs[key]:.2f}"
            for key in ("auc", "f1_strict", "f1_loose", "flagged")
        ]
        counts = f"{rows['Safe']} / {rows['Controversial']} / {rows['Unsafe']}"
        category = "–" if ours["category"] is None else f"{ours['category']:.2f}"
        prompt = name.endswith("(prompt)")
        latched = "–" if prompt else f"{ours['latched']:.2f}"
        cells = [name, counts, *both, f"{ours['agreement']:.2f}", latched, category]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


class Placed(NamedTuple):
    """One text with a known first flagged token: where its flag came, in tokens from there.

    ``distance`` None: not flagged. At best 1, since it takes two tokens in a row. ``tokens`` of the
    whole text. For a Safe text ``first`` is None and ``distance`` counts from its beginning.
    """

    exchange: Exchange
    segment: Segment
    first: int | None
    distance: int | None
    tokens: int


def placed(
    network: StreamNetwork, layout: Layout, exchanges: Sequence[Exchange]
) -> Iterator[Placed]:
    """Every judged text of the exchanges."""
    for exchange, read in zip(exchanges, read_exchanges(network, layout, exchanges), strict=True):
        segments: tuple[Segment, ...] = ("thinking", "answer")
        for segment in segments:
            places = [n for n, at in enumerate(read.encoded.scored) if at.segment == segment]
            if not places:
                continue
            labels = [read.encoded.labels[n] for n in places]
            first = next((n for n, made in enumerate(labels) if made != SAFE), None)
            flag = flagged_at(_safe(read.tokens.risk[places]))
            distance = None if flag is None else flag - (first or 0)
            yield Placed(exchange, segment, first, distance, len(places))


def summary(some: Iterable[Placed]) -> dict[str, Any]:
    """How harmful texts were found, and how often Safe ones were flagged, by segment."""
    out: dict[str, Any] = {}
    by: dict[str, list[Placed]] = defaultdict(list)
    for one in some:
        by[one.segment].append(one)
    for segment, texts in by.items():
        harmful = [text for text in texts if text.first is not None]
        safe = [text for text in texts if text.first is None]
        found = sorted(text.distance for text in harmful if text.distance is not None)
        behind = [distance for distance in found if distance > 0]
        out[segment] = {
            "harmful": len(harmful),
            "missed": _share(len(harmful) - len(found), len(harmful)),
            "ahead": _share(len(found) - len(behind), len(harmful)),
            "at_once": _share(sum(1 <= distance <= 2 for distance in found), len(harmful)),
            "within_16": _share(sum(1 <= distance <= 16 for distance in found), len(harmful)),
            "median": found[len(found) // 2] if found else None,
            "safe": len(safe),
            "false_alarms": _share(sum(text.distance is not None for text in safe), len(safe)),
        }
    return out


def _share(count: int, of: int) -> float | None:
    return round(count / of, 3) if of else None


def profile(measures: dict[str, Any]) -> str:
    """The text of ``profile.yaml``: what the checkpoint is called and how well it does."""
    contents = {
        "name": NAME,
        "family": "qwen3guard-stream",
        "taxonomy": dict(CATEGORIES),
        "calibration": "none",
        "accuracy": measures,
    }
    head = (
        "# A toy: it must not moderate anything real.\n"
        "# accuracy, of the development rows of a category: rows, how many; flagged, the share\n"
        "# that was not judged Safe at its end; named, the share of those that got this category.\n"
    )
    return head + yaml.safe_dump(contents, sort_keys=False, allow_unicode=True)


def echoes(rows: Sequence[Row], together: int) -> list[Exchange]:
    """The prompts of sources that have only Safe ones as answers, so many joined to one."""
    prompts = [row for row in rows if row.task == "prompt"]
    harmful = {row.source for row in prompts if row.safety != "Safe"}
    texts = [row.messages[-1][1] for row in prompts if row.source not in harmful]
    return [
        Exchange(
            "echoes", "Tell me something.", answer=Judged("\n\n".join(texts[at : at + together]))
        )
        for at in range(0, len(texts) - together + 1, together)
    ]


def row_of(exchange: Exchange) -> Row:
    """An exchange with one judged text as a row."""
    judged = exchange.thinking or exchange.answer
    if judged is None:
        raise ValueError("an exchange without a judged text")
    return Row(
        source=exchange.source,
        language="mul",
        task="response",
        messages=(("user", exchange.user), ("assistant", judged.text)),
        safety=judged.label.safety,
        categories=() if judged.label.category is None else (judged.label.category,),
        thinking=exchange.thinking is not None,
    )


def check_exchanges(lists: dict[str, Any]) -> dict[str, list[Exchange]]:
    """Hand-written texts: Safe ones as they are, harmful ones as [category, up to where it is
    harmful, rest]."""
    out: dict[str, list[Exchange]] = {}
    for name, entries in lists.items():
        thinking = name.startswith("thoughts")
        for asked, *text in entries:
            judged = _check(text)
            made = (
                Exchange(name, asked, thinking=judged)
                if thinking
                else Exchange(name, asked, answer=judged)
            )
            out.setdefault(name, []).append(made)
    return out


def _check(text: Sequence[str]) -> Judged:
    if len(text) == 1:
        return Judged(text[0])
    category, begin, rest = text
    if category not in RESPONSE_CATEGORIES:
        raise ValueError(f"no category {category}")
    return Judged(begin + rest, replace(SAFE, safety="Unsafe", category=category), len(begin))
