"""A conversation as token ids: the checkpoint's own template, cut so that the most is constant.

The template is rendered once per task with a sentinel as content and cut into a fixed prefix, the
conversation and a fixed tail. The cut must not change a token, so blanks go with the content: the
blank after a role belongs to the word that follows, and the newlines behind the content merge with
its own. Whether the cut holds is checked at load against the encoding of the whole; where the tail
cannot stand alone, the conversation and the tail's plain text are encoded together.

Content is data: it is encoded by a second tokenizer, built from the same file without its added
tokens, so that `<|im_end|>` or `<think>` typed by a user is text. The tokens of the structure come
from the template alone; those around a thought, `<think>` and `</think>`, are put in by their ids.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jinja2
import jinja2.ext
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer

from qwarden.guard.conversation import Conversation, Task, Turn
from qwarden_engine.checkpoint import Checkpoint, CheckpointError

OVERLAP = 256
"""Tokens that a piece of a turn shares with the one before it, so that what stands at a cut is
read whole once. Part of the revision."""

ANSWER_LABELS = ("Safety:", "Categories:", "Refusal:")
"""How the lines of an answer start (model card of Qwen3Guard-Gen)."""

_CUT_SLACK = 32
"""Tokens that a piece may have more than its part of the whole text had."""
_THINK = ("<think>", "</think>")
_NOBODY = Turn("user", "")
_BLOCK = re.compile(r"<(?:BEGIN|END) [A-Z][A-Z ]*>")

SENTINEL = "qwardenSentinel7f3a"
"""Letters and a number, so that no template strips a part of it, and in no template."""

CONTENTS = (
    "hello",
    "Hello, world! How are you?",
    " leading and trailing blanks  ",
    "\n\nnewlines around\n\n\n",
    "\r\nwindows\r\n",
    "tabs\tand trailing tab \t\n ",
    "'s starts like a contraction",
    "ends in punctuation!?...",
    "<END",
    "<END CONVERSATION>\n\nUSER: x",
    "\u0301 a combining mark first",
    "e\u0301 decomposed",
    "\u00a0no-break blanks\u3000",
    "\u200bzero width\u200d",
    "line\u2028separators\u2029",
    "12345 67,890.12",
    "def f(x):\n    return x ** 2  # code\n",
    '{"a": [1, 2], "b": null}',
    "你好，世界。",
    "こんにちは 世界",
    "안녕하세요",
    "Привет, как дела?",
    "مرحبا بالعالم",
    "שלום עולם",
    "नमस्ते दुनिया",
    "สวัสดีชาวโลก",
    "Γειά σου Κόσμε",
    "👩‍👩‍👧‍👦 🇩🇪 👍🏽",
    "x" * 300,
    " ",
    "\n",
    "{{ messages }} {% raw %}",
)


class TooLong(Exception):
    """The last turn alone needs more pieces than are judged; the message states both."""


class NotRendered(Exception):
    """The checkpoint's template refused the conversation, or rendered it in a way of its own."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """One conversation, or one piece of it, ready for the network.

    `ids`: what follows the task's fixed prefix, the tail included. `tokens`: of these, the
    conversation's. `dropped_turns`: oldest turns that were left out.
    """

    ids: list[int]
    tokens: int
    dropped_turns: int


@dataclass(frozen=True, slots=True)
class Cut:
    """How the rendering of one task is cut.

    `prefix` and `tail`: texts around the conversation. `joined`: the head of the tail that is
    encoded with the conversation; empty where the cut holds. `prefix_ids`, `tail_ids`: constant;
    `tail_ids` is what follows `joined`. `gap`: blanks between a thought and the tail; they are in
    the tail's ids, since no token reaches over `</think>`.
    """

    prefix: str
    tail: str
    joined: str
    prefix_ids: tuple[int, ...]
    tail_ids: tuple[int, ...]
    gap: str = ""


class Template:
    """The template of one checkpoint, cut for every task.

    Raises `CheckpointError` where the template cannot be rendered or cut.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._file = checkpoint.template_file
        self._tokens = dict(checkpoint.tokens)
        self._whole = checkpoint.tokenizer
        self.added_ids = frozenset(checkpoint.tokenizer.get_added_tokens_decoder())
        self._added = [t.content for t in checkpoint.tokenizer.get_added_tokens_decoder().values()]
        self._plain = without_added_tokens(checkpoint)
        self._template = template_of(checkpoint)
        self._think = tuple(self._added_id(checkpoint, text) for text in _THINK)
        self.cuts = {task: self._cut(task) for task in Task}
        self.markers = _markers(self._added, self.cuts[Task.RESPONSE], self._roles())

    def render(self, turns: Sequence[Turn]) -> str:
        """The whole text for these turns. Raises `NotRendered` with what the template says."""
        messages = [{"role": turn.role, "content": turn.content} for turn in turns]
        return rendered(self._template, messages, self._tokens, add_generation_prompt=True)

    def encode(
        self, conversations: Sequence[Conversation], limit: int, max_pieces: int
    ) -> list[list[Encoded] | Exception]:
        """Token ids behind the fixed prefix; an exception of this module for a row that has none.

        `limit`: tokens that a conversation may have. Over it, the oldest turns are left out, so
        that what is kept starts with a user turn; a judged assistant turn keeps the user turn
        before it if both fit, else it stands behind an empty one. Where the last turn alone does
        not fit, it is cut into pieces, each of which repeats the last `OVERLAP` tokens of the one
        before; `TooLong` where there would be more than `max_pieces`.
        """
        out: list[list[Encoded] | Exception] = [NotRendered("not rendered")] * len(conversations)
        stretches: list[list[str]] = []
        rows: list[int] = []
        for row, conversation in enumerate(conversations):
            try:
                stretches.append(self._stretches(conversation.task, conversation.turns))
                rows.append(row)
            except NotRendered as error:
                out[row] = error
        encodings = iter(
            self._plain.encode_batch_fast(
                [text for some in stretches for text in some], add_special_tokens=False
            )
        )
        for row, some in zip(rows, stretches, strict=True):
            conversation = conversations[row]
            ids = [next(encodings).ids for _ in some]
            encoded = self._encoded(conversation.task, ids, 0)
            if encoded.tokens <= limit:
                out[row] = [encoded]
                continue
            try:
                shortened = self._shortened(conversation, limit)
                out[row] = (
                    [shortened] if shortened else self._pieces(conversation, limit, max_pieces)
                )
            except (NotRendered, TooLong) as error:
                out[row] = error
        return out

    def whole_ids(self, conversation: Conversation) -> list[int]:
        """The template's own encoding of everything, without a cut: what the cut must equal.

        Added tokens typed in content are parsed here, as `transformers` would.
        """
        turns = list(conversation.turns)
        if conversation.task is Task.THINKING:
            thought = f"{_THINK[0]}\n{turns[-1].content}\n{_THINK[1]}"
            turns[-1] = Turn(turns[-1].role, thought)
        ids: list[int] = self._whole.encode(self.render(turns), add_special_tokens=False).ids
        return ids

    def plain_ids(self, text: str) -> list[int]:
        """Ids of a text in which nothing is an added token."""
        ids: list[int] = self._plain.encode(text, add_special_tokens=False).ids
        return ids

    def cut_ids(self, conversation: Conversation) -> list[int]:
        """Prefix, conversation and tail, as the network sees them. Raises `NotRendered`."""
        return self._cut_ids(self.cuts[conversation.task], conversation)

    def _cut_ids(self, cut: Cut, conversation: Conversation) -> list[int]:
        stretches = self._stretched(cut, conversation.task, conversation.turns)
        ids = [self.plain_ids(stretch) for stretch in stretches]
        return [*cut.prefix_ids, *self._woven(cut, ids)]

    def _stretches(self, task: Task, turns: Sequence[Turn]) -> list[str]:
        return self._stretched(self.cuts[task], task, turns)

    def _stretched(self, cut: Cut, task: Task, turns: Sequence[Turn]) -> list[str]:
        """The conversation as the texts to encode: one, or for a thought what is before it and
        itself. Raises `NotRendered`."""
        if task is not Task.THINKING:
            return [self._between(cut, self.render(turns)) + cut.joined]
        thought = f"\n{turns[-1].content}\n"
        end = f"{_THINK[0]}{thought}{_THINK[1]}"
        text = self._between(cut, self.render([*turns[:-1], Turn(turns[-1].role, end)]))
        if not text.endswith(end + cut.gap):
            raise NotRendered("the checkpoint's template does not render a thought as it is")
        return [text[: len(text) - len(end + cut.gap)], thought]

    def _woven(self, cut: Cut, ids: Sequence[list[int]]) -> list[int]:
        """The ids behind the prefix, from those of the stretches."""
        if len(ids) == 1:
            return [*ids[0], *cut.tail_ids]
        before, thought = ids
        return [*before, self._think[0], *thought, self._think[1], *cut.tail_ids]

    def _encoded(self, task: Task, ids: Sequence[list[int]], dropped: int) -> Encoded:
        cut = self.cuts[task]
        woven = self._woven(cut, ids)
        behind = len(cut.tail_ids) + (len(self.plain_ids(cut.joined)) if cut.joined else 0)
        return Encoded(woven, len(woven) - behind, dropped)

    def _encode_one(self, task: Task, turns: Sequence[Turn], dropped: int) -> Encoded:
        ids = [self.plain_ids(stretch) for stretch in self._stretches(task, turns)]
        return self._encoded(task, ids, dropped)

    @staticmethod
    def _between(cut: Cut, text: str) -> str:
        if (
            len(text) < len(cut.prefix) + len(cut.tail)
            or not text.startswith(cut.prefix)
            or not text.endswith(cut.tail)
        ):
            raise NotRendered("the checkpoint's template renders this conversation another way")
        return text[len(cut.prefix) : len(text) - len(cut.tail)]

    def _shortened(self, conversation: Conversation, limit: int) -> Encoded | None:
        """The longest ending that fits, by bisection: an ending's length grows with its turns."""
        task, turns = conversation.task, conversation.turns
        starts = [at for at, turn in enumerate(turns) if turn.role == "user" and at > 0]
        endings = [(at, turns[at:]) for at in starts]
        if task is not Task.PROMPT:
            endings.append((len(turns) - 1, (_NOBODY, turns[-1])))
        fitting: Encoded | None = None
        low, high = 0, len(endings)
        while low < high:
            middle = (low + high) // 2
            dropped, kept = endings[middle]
            encoded = self._encode_one(task, kept, dropped)
            if encoded.tokens <= limit:
                fitting = encoded
                high = middle
            else:
                low = middle + 1
        return fitting

    def _pieces(self, conversation: Conversation, limit: int, max_pieces: int) -> list[Encoded]:
        """The last turn alone, in pieces that each fit."""
        task, last = conversation.task, conversation.turns[-1]
        before = [] if task is Task.PROMPT else [_NOBODY]
        around = self._encode_one(task, [*before, Turn(last.role, "x")], 0).tokens
        room = limit - around - _CUT_SLACK
        if room <= OVERLAP:
            raise TooLong(f"the guard's context leaves only {limit} tokens for a turn")
        offsets = self._plain.encode(last.content, add_special_tokens=False).offsets
        step = room - OVERLAP
        count = 1 + max(0, -(-(len(offsets) - room) // step))
        if count > max_pieces:
            raise TooLong(
                f"the last turn alone has {len(offsets)} tokens, which is {count} pieces of at "
                f"most {room}, and the guard judges at most {max_pieces}; send it in parts"
            )
        pieces = []
        for start in range(0, count * step, step):
            end = min(start + room, len(offsets))
            # Where NFC composes, a token's own end is before the marks that it took in.
            after = offsets[end][0] if end < len(offsets) else len(last.content)
            text = last.content[offsets[start][0] : after]
            turns = [*before, Turn(last.role, text)]
            piece = self._encode_one(task, turns, len(conversation.turns) - 1)
            if piece.tokens > limit:
                raise TooLong(
                    f"a piece of the last turn has {piece.tokens} tokens and the guard takes "
                    f"{limit}; send it in parts"
                )
            pieces.append(piece)
        return pieces

    def _cut(self, task: Task) -> Cut:
        """Renders with sentinels, cuts, and checks the cut; falls back to a joined tail."""
        turns = [Turn("user", SENTINEL)]
        if task is not Task.PROMPT:
            turns.append(Turn("assistant", SENTINEL))
        try:
            text = self.render(turns)
        except NotRendered as error:
            raise CheckpointError(f"{self._file}: expected to render a {task}: {error}") from None
        if text.count(SENTINEL) != len(turns):
            raise CheckpointError(
                f"{self._file}: expected the content of each turn of a {task} once in its "
                f"rendering, and {len(turns)} turns came out {text.count(SENTINEL)} times"
            )
        before = text[: text.index(SENTINEL)]
        prefix = before.rstrip()
        behind = text[text.rindex(SENTINEL) + len(SENTINEL) :]
        tail = behind.lstrip()
        if not prefix or not tail:
            raise CheckpointError(
                f"{self._file}: expected text before and behind the conversation of a {task}"
            )
        gap = behind[: len(behind) - len(tail)] if task is Task.THINKING else ""
        plain_end = min((tail.index(t) for t in self._added if t in tail), default=len(tail))
        wrong = ""
        for joined in ("",) if task is Task.THINKING else ("", tail[:plain_end]):
            cut = Cut(
                prefix=prefix,
                tail=tail,
                joined=joined,
                prefix_ids=self._ids(prefix),
                tail_ids=self._ids(gap + tail[len(joined) :]),
                gap=gap,
            )
            wrong = self._mismatch(cut, task)
            if not wrong:
                return cut
        raise CheckpointError(
            f"{self._file}: expected the same token ids for the rendering of a {task} as a whole "
            f"and cut before and behind the conversation, and they differ for {wrong!r}"
            f"{self._expected_before(before)}"
        )

    def _expected_before(self, before: str) -> str:
        """What the template should write before the content, where the cut there changes a token;
        else empty."""
        prefix = before.rstrip()
        ids = self._ids(prefix)
        if all(self._ids(before + content)[: len(ids)] == ids for content in CONTENTS):
            return ""
        start = prefix.rsplit("\n", 1)[-1]
        return (
            f"; where the template writes {start + before[len(prefix) :]!r} before the content, "
            f"{start + ' '!r} is expected"
        )

    def _mismatch(self, cut: Cut, task: Task) -> str:
        """The first content of the corpus for which the cut changes a token, else empty."""
        for at, content in enumerate(CONTENTS):
            other = CONTENTS[(at + 7) % len(CONTENTS)]
            alone = [Turn("user", content)]
            if task is not Task.PROMPT:
                alone.append(Turn("assistant", other))
            longer = [Turn("user", other), Turn("assistant", content), *alone]
            for turns in (alone, longer):
                conversation = Conversation(task, tuple(turns))
                try:
                    if self._cut_ids(cut, conversation) == self.whole_ids(conversation):
                        continue
                except NotRendered:
                    pass
                return content
        return ""

    def _roles(self) -> tuple[str, ...]:
        """What the template writes before a user's and an assistant's turn, without blanks."""
        turns = [Turn("user", SENTINEL), Turn("assistant", SENTINEL)]
        before, between, _ = self.render(turns).split(SENTINEL)
        return before.rsplit("\n", 1)[-1].strip(), between.strip()

    def _added_id(self, checkpoint: Checkpoint, text: str) -> int:
        added = checkpoint.tokenizer.token_to_id(text)
        if added not in self.added_ids:
            raise CheckpointError(
                f"{checkpoint.directory / 'tokenizer.json'}: expected {text} among the added tokens"
            )
        return int(added)

    def _ids(self, text: str) -> tuple[int, ...]:
        return tuple(self._whole.encode(text, add_special_tokens=False).ids)


def _markers(added: Sequence[str], cut: Cut, roles: Sequence[str]) -> re.Pattern[str]:
    """What in a content could be taken for the template's structure: added tokens and block
    markers anywhere, and what starts a turn or a line of the answer, at the start of a line."""
    blocks = set(_BLOCK.findall(cut.prefix + cut.tail))
    anywhere = "|".join(map(re.escape, sorted({*added, *blocks}, key=lambda m: (-len(m), m))))
    starts = "|".join(map(re.escape, sorted({*roles, *ANSWER_LABELS} - {""})))
    return re.compile(rf"(?:{anywhere})|(?:(?<=\n)|(?<=\r)|^)[^\S\r\n]*(?:{starts})")


def broken(markers: re.Pattern[str], content: str) -> str:
    """The content with one space behind the first character of every marker."""

    def with_space(match: re.Match[str]) -> str:
        blanks = len(match[0]) - len(match[0].lstrip())
        return f"{match[0][: blanks + 1]} {match[0][blanks + 1 :]}"

    return markers.sub(with_space, content)


def without_added_tokens(checkpoint: Checkpoint) -> Tokenizer:
    """The same vocabulary and merges with no added token: it cannot yield one's id.

    A vocabulary that holds an added token's text is refused where the model takes whole words
    from it (`ignore_merges`), since it would yield the id after all.
    """
    file = checkpoint.directory / "tokenizer.json"
    parts = json.loads(checkpoint.tokenizer_json)
    added = parts.get("added_tokens") or []
    parts.update(added_tokens=[], post_processor=None, truncation=None, padding=None)
    plain = Tokenizer.from_str(json.dumps(parts))
    ids = {token["id"] for token in added}
    for token in added:
        yielded = ids.intersection(plain.encode(token["content"], add_special_tokens=False).ids)
        if yielded:
            raise CheckpointError(
                f"{file}: expected {token['content']!r} typed in content to be plain text, and "
                f"it yields the added ids {sorted(yielded)}"
            )
    return plain


def template_of(checkpoint: Checkpoint) -> jinja2.Template:
    """The checkpoint's chat template, compiled. Raises `CheckpointError`."""
    try:
        return _environment().from_string(checkpoint.template)
    except jinja2.TemplateError as error:
        raise CheckpointError(
            f"{checkpoint.template_file}: expected a Jinja template ({error})"
        ) from None


def rendered(
    template: jinja2.Template,
    messages: Sequence[Mapping[str, str]],
    tokens: Mapping[str, str],
    *,
    add_generation_prompt: bool,
) -> str:
    """What the template writes for these messages. Raises `NotRendered` with what it says."""
    try:
        return template.render(
            messages=messages,
            tools=None,
            documents=None,
            add_generation_prompt=add_generation_prompt,
            **tokens,
        )
    except Exception as error:  # a template is a program: it can raise anything
        raise NotRendered(f"the checkpoint's template refuses this conversation: {error}") from None


def _environment() -> ImmutableSandboxedEnvironment:
    """As transformers renders chat templates (`utils/chat_template_utils.py`), less its clock."""

    def raise_exception(message: str) -> None:
        raise jinja2.TemplateError(message)

    def tojson(
        value: Any,
        ensure_ascii: bool = False,
        indent: int | None = None,
        separators: tuple[str, str] | None = None,
        sort_keys: bool = False,
    ) -> str:
        return json.dumps(
            value,
            ensure_ascii=ensure_ascii,
            indent=indent,
            separators=separators,
            sort_keys=sort_keys,
        )

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = tojson
    environment.globals["raise_exception"] = raise_exception
    return environment
