"""From exchanges to tokens with labels, by the checkpoint's own chat template."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, NamedTuple

import torch
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer
from torch import Tensor

from .labels import SAFETIES
from .stream_exchange import Exchange, Judged, Label, Segment
from .tokenizer import NOT_SPECIAL, SPECIAL, TURN_END, plain_tokenizer, token_id

#: The official maps, in their order, with the long names that the rows carry.
CATEGORIES: Final[dict[str, str]] = {
    "Violent": "Violent",
    "Sexual Content": "Sexual Content or Sexual Acts",
    "Self-Harm": "Suicide & Self-Harm",
    "Political": "Politically Sensitive Topics",
    "PII": "PII",
    "Copyright": "Copyright Violation",
    "Illegal Acts": "Non-violent Illegal Acts",
    "Unethical": "Unethical Acts",
    "Jailbreak": "Jailbreak",
}
LONG_NAMES: Final = tuple(CATEGORIES.values())
NONE: Final = -1  # no category is learnt here

_ADDED: Final = re.compile("|".join(re.escape(token) for token in (*SPECIAL, *NOT_SPECIAL)))
#: Stand for the contents while the template is rendered; no text of a template holds them.
_SLOTS: Final = {"user": "\ue000", "thinking": "\ue001", "answer": "\ue002"}
_OLDER: Final = 0xE010  # the first of those for the history
_ASKED: Final = "end of the user's turn"
_SLOT: Final = re.compile(f"[\ue000-\ue002{chr(_OLDER)}-\uf8ff]")


class Token(NamedTuple):
    """A token of the whole rendering; the code points of the content that it covers, if any."""

    id: int
    slot: str  # "" for scaffold, else the sentinel of its content, or ``_ASKED``
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Scored:
    """A content token: its place among the ids, its segment, the code points that it covers."""

    place: int
    segment: Segment
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Encoded:
    """``ids`` of the whole exchange; ``scored`` its content tokens with ``labels`` beside them;
    ``query_place`` of the token that ends the user's turn, with its label where it is known."""

    ids: list[int]
    scored: list[Scored]
    labels: list[Label]
    query_place: int
    query: Label | None


class Layout:
    """The chat template with a tokenizer: exchanges become tokens as the engine will feed them.

    Between two added tokens, literal text of the template and content are one text for the
    tokenizer, so that they merge as in a rendering of the whole. Content is encoded without the
    added tokens: a marker in it is text. A token is scored if it covers content of the assistant.
    """

    def __init__(self, tokenizer: Tokenizer, template: str) -> None:
        self._plain = plain_tokenizer(tokenizer)
        self._template = ImmutableSandboxedEnvironment().from_string(template)
        self._added = {token: token_id(tokenizer, token) for token in (*SPECIAL, *NOT_SPECIAL)}
        self.turn_end = self._added[TURN_END]
        self._frames: dict[tuple[int, bool, bool], list[str]] = {}

    def encode(self, exchange: Exchange) -> Encoded:
        """The tokens and labels of an exchange, up to the end of its last content."""
        tokens = list(self._tokens(exchange))
        query_place = next(place for place, token in enumerate(tokens) if token.slot == _ASKED)
        scored: list[Scored] = []
        labels: list[Label] = []
        segments: tuple[tuple[Segment, Judged | None], ...] = (
            ("thinking", exchange.thinking),
            ("answer", exchange.answer),
        )
        for segment, judged in segments:
            if judged is None:
                continue
            for place, token in enumerate(tokens):
                if token.slot == _SLOTS[segment]:
                    scored.append(Scored(place, segment, token.start, token.end))
                    labels.append(label_of(judged, token.end))
        ids = [token.id for token in tokens]
        return Encoded(ids, scored, labels, query_place, exchange.query)

    def _tokens(self, exchange: Exchange) -> Iterator[Token]:
        contents = {_SLOTS["user"]: exchange.user}
        for number, text in enumerate(text for pair in exchange.history for text in pair):
            contents[chr(_OLDER + number)] = text
        last = _SLOTS["user"]
        if exchange.thinking is not None:
            last = _SLOTS["thinking"]
            contents[last] = exchange.thinking.text
        if exchange.answer is not None:
            last = _SLOTS["answer"]
            contents[last] = exchange.answer.text
        before = ""
        for stretch in self._frame(exchange):
            if stretch in self._added:
                ends = last if _SLOTS["user"] in before else ""
                yield Token(self._added[stretch], _ASKED if ends else "", 0, 0)
                if ends == _SLOTS["user"]:
                    return
            else:
                yield from self._stretch(stretch, contents)
                if last in stretch and last != _SLOTS["user"]:
                    return
            before = stretch

    def _stretch(self, stretch: str, contents: dict[str, str]) -> Iterator[Token]:
        """The tokens of the text between two added tokens; it holds at most one content."""
        slot = _SLOT.search(stretch)
        if slot is None:
            yield from (Token(number, "", 0, 0) for number in self._plain.encode(stretch).ids)
            return
        content = contents[slot[0]]
        ending = stretch[slot.end() :]
        begin, end = slot.start(), slot.start() + len(content)
        coding = self._plain.encode(stretch[: slot.start()] + content + ending)
        for number, (first, behind) in zip(coding.ids, coding.offsets, strict=True):
            start, stop = max(first, begin), min(behind, end)
            inside = start < stop
            yield (
                Token(number, slot[0], start - begin, stop - begin)
                if inside
                else Token(number, "", 0, 0)
            )

    def _frame(self, exchange: Exchange) -> list[str]:
        """The rendering with sentinels for contents, split at the added tokens."""
        key = (len(exchange.history), exchange.thinking is not None, exchange.answer is not None)
        if key not in self._frames:
            messages: list[dict[str, str]] = []
            for number in range(len(exchange.history)):
                user, answer = _OLDER + 2 * number, _OLDER + 2 * number + 1
                messages.append({"role": "user", "content": chr(user)})
                messages.append({"role": "assistant", "content": chr(answer)})
            messages.append({"role": "user", "content": _SLOTS["user"]})
            if exchange.thinking is not None or exchange.answer is not None:
                turn = {"role": "assistant", "content": _SLOTS["answer"]}
                if exchange.thinking is not None:
                    turn["reasoning_content"] = _SLOTS["thinking"]
                messages.append(turn)
            text = self._template.render(messages=messages)
            cuts = [0, *(at for found in _ADDED.finditer(text) for at in found.span()), len(text)]
            pieces = [text[a:b] for a, b in pairwise(cuts)]
            self._frames[key] = [piece for piece in pieces if piece]
        return self._frames[key]


def label_of(judged: Judged, end: int) -> Label:
    """The label at a token whose last code point is the one before ``end``."""
    if judged.since is None or end < judged.since:
        return Label("Safe")
    return judged.label


@dataclass(slots=True)
class Batch:
    """Exchanges padded on the right.

    ``tokens`` [rows, length]; ``places`` [n, 2] the (row, position) of what is learnt, ``risk`` [n]
    the number of the safety, ``category`` [n] that of the category or ``NONE``, ``weights`` [n];
    the same for the ends of the user turns (``query_…``). ``scaffold`` [rows, length]: not content.
    """

    tokens: Tensor
    scaffold: Tensor
    places: Tensor
    risk: Tensor
    category: Tensor
    weights: Tensor
    query_places: Tensor
    query_risk: Tensor
    query_category: Tensor


def batch(rows: Sequence[Encoded], pad: int, device: torch.device) -> Batch:
    """A batch; the weights of one text's tokens sum to 1, so that long texts count like short."""
    length = max(len(row.ids) for row in rows)
    tokens = torch.full((len(rows), length), pad, dtype=torch.long)
    scaffold = torch.ones(len(rows), length, dtype=torch.bool)
    places, numbers, weights = list[tuple[int, int]](), list[tuple[int, int]](), list[float]()
    query_places, query_numbers = list[tuple[int, int]](), list[tuple[int, int]]()
    for number, row in enumerate(rows):
        tokens[number, : len(row.ids)] = torch.tensor(row.ids)
        for token, label in zip(row.scored, row.labels, strict=True):
            places.append((number, token.place))
            numbers.append(_numbers(label))
            scaffold[number, token.place] = False
        for segment in ("thinking", "answer"):
            count = sum(token.segment == segment for token in row.scored)
            weights.extend([1 / count] * count if count else [])
        if row.query is not None:
            query_places.append((number, row.query_place))
            query_numbers.append(_numbers(row.query))

    def tensor(pairs: list[tuple[int, int]]) -> Tensor:
        return torch.tensor(pairs, dtype=torch.long, device=device).view(-1, 2)

    learnt, asked = tensor(numbers), tensor(query_numbers)
    return Batch(
        tokens.to(device),
        scaffold.to(device),
        tensor(places),
        learnt[:, 0],
        learnt[:, 1],
        torch.tensor(weights, device=device),
        tensor(query_places),
        asked[:, 0],
        asked[:, 1],
    )


def _numbers(label: Label) -> tuple[int, int]:
    category = NONE if label.category is None else LONG_NAMES.index(label.category)
    return SAFETIES.index(label.safety), category


def pack(rows: Sequence[Encoded], budget: int, chooser: random.Random) -> Iterator[list[Encoded]]:
    """Batches of like length, at most ``budget`` padded tokens each, shuffled."""
    batches: list[list[Encoded]] = [[]]
    for row in sorted(rows, key=lambda row: len(row.ids)):
        if batches[-1] and (len(batches[-1]) + 1) * len(row.ids) > budget:
            batches.append([])
        batches[-1].append(row)
    chooser.shuffle(batches)
    yield from batches
