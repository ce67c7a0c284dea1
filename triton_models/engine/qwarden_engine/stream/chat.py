"""A session's turns as token ids, while they come: the scaffold and what was written in it.

The scaffold is the checkpoint's own: its chat template is rendered once with sentinels as contents,
and what stands between two of them is cut at its added tokens. From the first of these to the last
all is constant. The text before the first goes behind the content before it, and the text behind
the last in front of the next content, through one tokenizer with it, since tokens reach over both:
"\\n" and a content that starts with newlines are one token. So the ids are those of the rendering
of the whole, which is checked at load.

Content is data, as in `template.py`: it cannot yield an added token, and nothing that is typed in
it moves the scaffold.

An exchange is: earlier turns, the user's turn, the assistant's thought, and its answer. An answer
without a thought has an empty one before it; earlier assistant turns have none at all.
"""

from __future__ import annotations

import enum
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple

from tokenizers import Tokenizer, normalizers

from qwarden.guard.conversation import Task
from qwarden.guard.stream import Part, Segment
from qwarden_engine.checkpoint import Checkpoint, CheckpointError
from qwarden_engine.stream.pieces import RUN, Piece, Pieces
from qwarden_engine.template import (
    CONTENTS,
    SENTINEL,
    NotRendered,
    rendered,
    template_of,
    without_added_tokens,
)

_BLANKS = [chr(point) for point in range(0x3001) if chr(point).isspace()]
"""All characters that `str.strip` takes."""


class Fed(NamedTuple):
    """One token for the network.

    `task`, `start`, `end`: of a token that has characters of a judged text, the task, and which
    code points of its text; else None, 0, 0. `reads`: the token that closes a judged user turn,
    where the whole of it is judged: `start` 0, `end` its length.
    """

    id: int
    task: Task | None = None
    start: int = 0
    end: int = 0
    reads: bool = False


class Kind(enum.StrEnum):
    """The texts of an exchange, by what stands around them."""

    USER = "user's turn"
    EARLIER = "earlier assistant's turn"
    THOUGHT = "thought"
    ANSWER = "answer"


_EXCHANGE = (
    Kind.USER, Kind.USER, Kind.EARLIER, Kind.EARLIER, Kind.USER, Kind.THOUGHT, Kind.ANSWER
)  # fmt: skip
"""In which every kind stands behind every kind that it can stand behind, but one: an answer without
a thought is one with an empty thought."""


@dataclass(frozen=True, slots=True)
class Around:
    """What the template does to texts of one kind.

    `left`, `right`: characters that it strips off the ends. `behind`: text between the content and
    the added token `closing`.
    """

    left: str
    right: str
    behind: str
    closing: int


@dataclass(frozen=True, slots=True)
class Opening:
    """What stands before a text: `ids`, behind the token that closed the text before it, and then
    `text`."""

    ids: tuple[int, ...]
    text: str


class Chat:
    """The scaffold of one checkpoint.

    Raises `CheckpointError` where its template is not one of exchanges with thoughts, or where the
    cut would change a token.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._file = checkpoint.template_file
        self._tokens = dict(checkpoint.tokens)
        self._whole = checkpoint.tokenizer
        self._added = frozenset(checkpoint.tokenizer.get_added_tokens_decoder())
        self._template = template_of(checkpoint)
        self.plain = without_added_tokens(checkpoint)
        if not isinstance(self.plain.normalizer, normalizers.NFC | None):
            raise CheckpointError(
                f"{checkpoint.directory / 'tokenizer.json'}: expected the normalizer NFC or none, "
                f"not {self.plain.normalizer}"
            )
        gaps = self._gaps()
        kinds: list[Kind | None] = [None, *_EXCHANGE]
        self.around = {kind: self._around(kind, gaps) for kind in Kind}
        self.openings = {
            (before, kind): self._opening(before, gap)
            for before, kind, gap in zip(kinds, _EXCHANGE, gaps, strict=False)
        }
        wrong = self._mismatch()
        if wrong:
            raise CheckpointError(
                f"{self._file}: expected the same token ids for the rendering of an exchange as a "
                f"whole and text by text, and they differ for {wrong!r}"
            )

    def whole_ids(self, texts: Sequence[tuple[Kind, str]]) -> list[int]:
        """The template's own encoding of an exchange: what a `Writer` gives must be its beginning,
        to the end of the last content or, of a user's turn, to its closing token.

        Added tokens typed in content are parsed here, as `transformers` would. Raises
        `NotRendered`.
        """
        ids: list[int] = self._whole.encode(self._render(texts), add_special_tokens=False).ids
        return ids

    def _render(self, texts: Sequence[tuple[Kind, str]]) -> str:
        messages: list[dict[str, str]] = []
        thought = ""
        for kind, text in texts:
            if kind is Kind.THOUGHT:
                thought = text
                continue
            role = "user" if kind is Kind.USER else "assistant"
            messages.append({"role": role, "content": text})
            if kind is Kind.ANSWER and thought:
                messages[-1]["reasoning_content"] = thought
        return rendered(self._template, messages, self._tokens, add_generation_prompt=False)

    def _gaps(self, at: int | None = None, blank: str = "") -> list[str]:
        """What stands before, between and behind the texts of `_EXCHANGE`, where that at `at`
        starts and ends with `blank`."""
        marks = [f"{SENTINEL}x{number}x" for number in range(len(_EXCHANGE))]
        contents = [
            f"{blank}{mark}{blank}" if number == at else mark for number, mark in enumerate(marks)
        ]
        try:
            text = self._render(list(zip(_EXCHANGE, contents, strict=True)))
        except NotRendered as error:
            raise CheckpointError(
                f"{self._file}: expected to render an exchange: {error}"
            ) from None
        gaps = []
        for kind, mark in zip(_EXCHANGE, marks, strict=True):
            if text.count(mark) != 1:
                raise CheckpointError(
                    f"{self._file}: expected the text of each turn once and in order in its "
                    f"rendering, and the {kind} is not (a thought is given as reasoning_content of "
                    "the last message)"
                )
            gap, _, text = text.partition(mark)
            gaps.append(gap)
        return [*gaps, text]

    def _around(self, kind: Kind, gaps: Sequence[str]) -> Around:
        left, right = "", ""
        at = _EXCHANGE.index(kind)
        for blank in _BLANKS:
            changed = self._gaps(at, blank)
            if changed[at] == gaps[at]:
                left += blank
            if changed[at + 1] == gaps[at + 1]:
                right += blank
        behind = [
            self._split(gap)
            for before, gap in zip(_EXCHANGE, gaps[1:], strict=True)
            if before is kind
        ]
        closings = {(text, ids[0]) for text, ids, _ in behind}
        if len(closings) != 1:
            raise CheckpointError(
                f"{self._file}: expected the same text and added token behind every {kind}"
            )
        [(text, closing)] = closings
        return Around(left, right, text, closing)

    def _opening(self, before: Kind | None, gap: str) -> Opening:
        behind, ids, text = self._split(gap)
        if before is None and behind:
            raise CheckpointError(
                f"{self._file}: expected to start with an added token, not with {behind!r}"
            )
        return Opening(ids if before is None else ids[1:], text)

    def _split(self, gap: str) -> tuple[str, tuple[int, ...], str]:
        """The text before the first added token, the ids from this to the last one, and the text
        behind it."""
        encoding = self._whole.encode(gap, add_special_tokens=False)
        added = [at for at, token in enumerate(encoding.ids) if token in self._added]
        if not added:
            raise CheckpointError(
                f"{self._file}: expected an added token before and behind each text, and there is "
                f"none in {gap!r}"
            )
        first, last = added[0], added[-1]
        start, end = encoding.offsets[first][0], encoding.offsets[last][1]
        return gap[:start], tuple(encoding.ids[first : last + 1]), gap[end:]

    def _mismatch(self) -> str:
        """The first content of the corpus for which a `Writer` gives other ids than the whole
        rendering has, else empty."""
        contents = [content for content in CONTENTS if len(content) <= RUN]
        for at, content in enumerate(contents):
            other = contents[(at + 7) % len(contents)]
            user, thought, answer = (
                (Kind.USER, other),
                (Kind.THOUGHT, content),
                (Kind.ANSWER, other),
            )
            for texts in (
                [(Kind.USER, content)],
                [user, (Kind.ANSWER, content)],
                [user, thought, answer],
                [(kind, (content, other)[n % 2]) for n, kind in enumerate(_EXCHANGE)],
            ):
                writer = Writer(self)
                ids = [fed.id for part in _parts(texts) for fed in writer.write(part)]
                if texts[-1][0] is Kind.ANSWER:
                    ids.append(self.around[Kind.ANSWER].closing)
                try:
                    if self.whole_ids(texts)[: len(ids)] == ids:
                        continue
                except NotRendered:
                    pass
                return content
        return ""


def _parts(texts: Sequence[tuple[Kind, str]]) -> Iterator[Part]:
    """The parts of an exchange, its texts in halves."""
    last_user = max(at for at, (kind, _) in enumerate(texts) if kind is Kind.USER)
    for at, (kind, text) in enumerate(texts):
        role = "user" if kind is Kind.USER else "assistant"
        segment = Segment.THINKING if kind is Kind.THOUGHT else Segment.ANSWER
        middle = len(text) // 2
        for half, end in ((text[:middle], False), (text[middle:], True)):
            yield Part(role, half, segment=segment, end=end, history=at < last_user)


class Writer:
    """The text of one session as ids. It keeps what is held and some numbers, and no text that was
    given."""

    __slots__ = ("_chat", "_cuts", "_text")

    def __init__(self, chat: Chat) -> None:
        self._chat = chat
        self._text: _Text | None = None
        self._cuts = 0

    @property
    def held(self) -> int:
        """Code points at the end of the current text that wait for what follows."""
        return self._text.held if self._text else 0

    @property
    def cuts(self) -> int:
        """Stretches that were cut for their length."""
        return self._cuts + (self._text.cuts if self._text else 0)

    def write(self, part: Part, room: int = sys.maxsize) -> list[Fed]:
        """More of the session; answers the tokens that are stable now.

        Where they are more than `room`, not all of them: what cannot be forwarded is not encoded.
        The session has come to its end then, and what follows is written with a `room` below 0.

        A text ends with `end`, or where a part of another role or segment follows. A thought of the
        history is not read, as the template has none there. An empty part that ends nothing says
        nothing; so does one that ends once more a judged text that has ended, as a late copy does.
        Raises `ValueError` with a sentence for a part that has no place, and is then as before.
        """
        return list(chain.from_iterable(self.writing(part, room)))

    def writing(self, part: Part, room: int = sys.maxsize) -> Iterator[list[Fed]]:
        """`write`, some of the tokens at a time: what is done for each list is bounded, whatever
        the part and what was held before it. Drain it, or write no more of this session."""
        if not part.text and not part.end:
            return
        kind, task = _kind_of(part), part.task
        text = self._text
        is_over = text is not None and text.ended and (text.kind, text.task) == (kind, task)
        if is_over and not part.text and task is not None:
            return
        self._check(kind, part)
        fed: list[Fed] = []
        if text is None or text.ended or text.kind is not kind or text.task is not task:
            if kind is Kind.ANSWER and (text is None or text.kind is not Kind.THOUGHT):
                self._begin(Kind.THOUGHT, None, fed, room)
            text = self._begin(kind, task, fed, room)
        if kind is not Kind.EARLIER or part.segment is not Segment.THINKING:
            room -= len(fed)
            for more in text.writing(part.text, room):
                room -= len(more)
                yield fed + more
                fed = []
            if part.end:
                fed += text.end(room)
        if fed:
            yield fed

    def _begin(self, kind: Kind, task: Task | None, fed: list[Fed], room: int) -> _Text:
        before = self._text
        if before is not None:
            if not before.ended:
                fed += before.end(room - len(fed))
            self._cuts += before.cuts
        opening = self._chat.openings[before.kind if before else None, kind]
        fed += map(Fed, opening.ids)
        self._text = _Text(self._chat.plain, kind, task, self._chat.around[kind])
        fed += self._text.lead(opening.text, room - len(fed))
        return self._text

    def _check(self, kind: Kind, part: Part) -> None:
        """Raises `ValueError` where a part of this kind has no place."""
        last = self._text
        if part.history and last is not None and last.task is not None:
            raise ValueError(
                "history stands before all that is judged; begin the session anew to change it"
            )
        if kind is Kind.USER:
            if part.segment is Segment.THINKING:
                raise ValueError("a user's turn has no thinking; send its text as an answer")
            if last is not None and last.kind in (Kind.THOUGHT, Kind.ANSWER):
                raise ValueError(
                    "a session ends with the assistant's turn; begin a new one for the next user's "
                    "turn, with this exchange as history"
                )
        elif last is None:
            raise ValueError("an assistant's turn answers a user's; send the user's turn first")
        elif kind is not Kind.EARLIER and last.kind is Kind.EARLIER:
            raise ValueError(
                "a judged assistant's turn answers a user's; send a user's turn behind the history"
            )
        elif kind is Kind.THOUGHT and last.kind is Kind.ANSWER:
            raise ValueError("thinking stands before the answer, and this session is past it")
        elif kind is last.kind is Kind.THOUGHT and last.ended:
            raise ValueError("the thinking of this session has ended; send its answer")
        elif kind is last.kind is Kind.ANSWER and last.ended:
            raise ValueError("the answer of this session has ended; begin a new session")


def _kind_of(part: Part) -> Kind:
    if part.role == "user":
        return Kind.USER
    if part.history:
        return Kind.EARLIER
    return Kind.THOUGHT if part.segment is Segment.THINKING else Kind.ANSWER


class _Text:
    """One text and the scaffold that shares tokens with it.

    `lead`: code points of scaffold in front. `skipped`: of the content, what was stripped in front;
    `taken`: what went to the tokenizer; `blanks`: what is stripped if nothing comes behind.
    """

    __slots__ = (
        "_around",
        "_blanks",
        "_lead",
        "_pieces",
        "_skipped",
        "_taken",
        "ended",
        "kind",
        "task",
    )

    def __init__(self, plain: Tokenizer, kind: Kind, task: Task | None, around: Around) -> None:
        self.kind = kind
        self.task = task
        self.ended = False
        self._around = around
        self._pieces = Pieces(plain)
        self._blanks: list[str] = []
        self._lead = self._skipped = self._taken = 0

    @property
    def held(self) -> int:
        return min(self._pieces.held, self._taken) + sum(map(len, self._blanks))

    @property
    def cuts(self) -> int:
        return self._pieces.cuts

    def lead(self, text: str, room: int) -> list[Fed]:
        self._lead = len(text)
        return self._fed(self._pieces.take(text, room))

    def writing(self, text: str, room: int) -> Iterator[list[Fed]]:
        if not self._taken and not self._blanks:
            begun = text.lstrip(self._around.left)
            self._skipped += len(text) - len(begun)
            text = begun
        body = text.rstrip(self._around.right)
        if not body:
            if text:
                self._blanks.append(text)
            return
        blanks, self._blanks = "".join(self._blanks), []
        if len(body) < len(text):
            self._blanks.append(text[len(body) :])
        self._taken += len(blanks) + len(body)
        yield from map(self._fed, self._pieces.taking(blanks + body, room))

    def end(self, room: int) -> list[Fed]:
        """What is held, and the closing token but of an answer, behind which nothing is read."""
        self.ended = True
        if room < 0:
            self._blanks = []
            return []
        pieces = self._pieces.take(self._around.behind) + self._pieces.end()
        fed = self._fed(pieces)
        length = self._skipped + self._taken + sum(map(len, self._blanks))
        self._blanks = []
        closing = self._around.closing
        if self.kind is Kind.USER and self.task is not None:
            fed.append(Fed(closing, self.task, 0, length, reads=True))
        elif self.kind is not Kind.ANSWER:
            fed.append(Fed(closing))
        return fed

    def _fed(self, pieces: Sequence[Piece]) -> list[Fed]:
        fed = []
        for piece in pieces:
            start = max(piece.start - self._lead, 0)
            end = min(piece.end - self._lead, self._taken)
            if self.task is not None and start < end:
                fed.append(Fed(piece.id, self.task, self._skipped + start, self._skipped + end))
            else:
                fed.append(Fed(piece.id))
        return fed
