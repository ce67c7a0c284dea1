"""A conversation as token ids: the checkpoint's own template, cut so that the most is constant.

The template is rendered once per task with a sentinel as content and cut into a fixed prefix, the
conversation and a fixed tail. The cut must not change a token, so blanks go with the content: the
blank after a role belongs to the word that follows, and the newlines behind the content merge with
its own. Whether the cut holds is checked at load against the encoding of the whole; where the tail
cannot stand alone, the conversation and the tail's plain text are encoded together.

Content is data: it is encoded by a second tokenizer, built from the same file without its added
tokens, so that `<|im_end|>` or `<think>` typed by a user is text. The tokens of the structure come
from the template alone.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jinja2
import jinja2.ext
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer

from qwarden.guard.conversation import Conversation, Task, Turn
from qwarden_engine.checkpoint import Checkpoint, CheckpointError

_SENTINEL = "qwardenSentinel7f3a"
"""Letters and a number, so that no template strips a part of it, and in no template."""

_CONTENTS = (
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
    """The last turn alone is over what the context leaves; the message states both."""


class NotRendered(Exception):
    """The checkpoint's template refused the conversation, or rendered it in a way of its own."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """One conversation, ready for the network.

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
    `tail_ids` is what follows `joined`.
    """

    prefix: str
    tail: str
    joined: str
    prefix_ids: tuple[int, ...]
    tail_ids: tuple[int, ...]


class Template:
    """The template of one checkpoint, cut for both tasks.

    Raises `CheckpointError` where the template cannot be rendered or cut.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._file = checkpoint.template_file
        self._tokens = dict(checkpoint.tokens)
        self._whole = checkpoint.tokenizer
        self.added_ids = frozenset(checkpoint.tokenizer.get_added_tokens_decoder())
        self._added = [t.content for t in checkpoint.tokenizer.get_added_tokens_decoder().values()]
        self._plain = _without_added_tokens(checkpoint)
        try:
            self._template = _environment().from_string(checkpoint.template)
        except jinja2.TemplateError as error:
            raise CheckpointError(f"{self._file}: expected a Jinja template ({error})") from None
        self.cuts = {task: self._cut(task) for task in Task}

    def render(self, turns: Sequence[Turn]) -> str:
        """The whole text for these turns. Raises `NotRendered` with what the template says."""
        messages = [{"role": turn.role, "content": turn.content} for turn in turns]
        try:
            return self._template.render(
                messages=messages,
                tools=None,
                documents=None,
                add_generation_prompt=True,
                **self._tokens,
            )
        except Exception as error:  # a template is a program: it can raise anything
            raise NotRendered(
                f"the checkpoint's template refuses this conversation: {error}"
            ) from None

    def encode(
        self, conversations: Sequence[Conversation], limit: int
    ) -> list[Encoded | Exception]:
        """Token ids behind the fixed prefix; an exception of this module for a row that has none.

        `limit`: tokens that a conversation may have. Over it, the oldest turns are left out, so
        that what is kept starts with a user turn; a judged assistant turn keeps the user turn
        before it if both fit, else it stands behind an empty one. `TooLong` where the last turn
        alone does not fit.
        """
        out: list[Encoded | Exception] = [NotRendered("not rendered")] * len(conversations)
        texts: list[str] = []
        rows: list[int] = []
        for row, conversation in enumerate(conversations):
            try:
                texts.append(self._conversation(conversation.task, conversation.turns))
                rows.append(row)
            except NotRendered as error:
                out[row] = error
        tasks = [conversations[row].task for row in rows]
        encoded = self._plain.encode_batch_fast(
            [text + self.cuts[task].joined for text, task in zip(texts, tasks, strict=True)],
            add_special_tokens=False,
        )
        for row, task, encoding in zip(rows, tasks, encoded, strict=True):
            tokens = self._counted(task, len(encoding.ids))
            if tokens <= limit:
                out[row] = Encoded(encoding.ids + list(self.cuts[task].tail_ids), tokens, 0)
                continue
            try:
                out[row] = self._shortened(conversations[row], tokens, limit)
            except (NotRendered, TooLong) as error:
                out[row] = error
        return out

    def whole_ids(self, turns: Sequence[Turn]) -> list[int]:
        """The template's own encoding of everything, without a cut: what the cut must equal.

        Added tokens typed in content are parsed here, as `transformers` would.
        """
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
        text = self._between(cut, self.render(conversation.turns))
        return [*cut.prefix_ids, *self.plain_ids(text + cut.joined), *cut.tail_ids]

    def _conversation(self, task: Task, turns: Sequence[Turn]) -> str:
        return self._between(self.cuts[task], self.render(turns))

    @staticmethod
    def _between(cut: Cut, text: str) -> str:
        if (
            len(text) < len(cut.prefix) + len(cut.tail)
            or not text.startswith(cut.prefix)
            or not text.endswith(cut.tail)
        ):
            raise NotRendered("the checkpoint's template renders this conversation another way")
        return text[len(cut.prefix) : len(text) - len(cut.tail)]

    def _counted(self, task: Task, ids: int) -> int:
        """The conversation's share of ids that were encoded together with a joined tail."""
        joined = self.cuts[task].joined
        return ids - len(self.plain_ids(joined)) if joined else ids

    def _shortened(self, conversation: Conversation, tokens: int, limit: int) -> Encoded:
        """The longest ending that fits, by bisection: an ending's length grows with its turns."""
        task, turns = conversation.task, conversation.turns
        starts = [at for at, turn in enumerate(turns) if turn.role == "user" and at > 0]
        endings = [(at, turns[at:]) for at in starts]
        if task is Task.RESPONSE:
            endings.append((len(turns) - 1, (Turn("user", ""), turns[-1])))
        fitting: Encoded | None = None
        low, high = 0, len(endings)
        while low < high:
            middle = (low + high) // 2
            dropped, kept = endings[middle]
            ids = self.plain_ids(self._conversation(task, kept) + self.cuts[task].joined)
            tokens = self._counted(task, len(ids))
            if tokens <= limit:
                fitting = Encoded([*ids, *self.cuts[task].tail_ids], tokens, dropped)
                high = middle
            else:
                low = middle + 1
        if fitting is None:
            raise TooLong(
                f"the last turn alone has {tokens} tokens and the guard takes at most {limit} "
                "beside its template; send it in parts"
            )
        return fitting

    def _cut(self, task: Task) -> Cut:
        """Renders with sentinels, cuts, and checks the cut; falls back to a joined tail."""
        turns = [Turn("user", _SENTINEL)]
        if task is Task.RESPONSE:
            turns.append(Turn("assistant", _SENTINEL))
        try:
            text = self.render(turns)
        except NotRendered as error:
            raise CheckpointError(f"{self._file}: expected to render a {task}: {error}") from None
        if text.count(_SENTINEL) != len(turns):
            raise CheckpointError(
                f"{self._file}: expected the content of each turn of a {task} once in its "
                f"rendering, and {len(turns)} turns came out {text.count(_SENTINEL)} times"
            )
        prefix = text[: text.index(_SENTINEL)].rstrip()
        behind = text[text.rindex(_SENTINEL) + len(_SENTINEL) :]
        tail = behind.lstrip()
        if not prefix or not tail:
            raise CheckpointError(
                f"{self._file}: expected text before and behind the conversation of a {task}"
            )
        plain_end = min((tail.index(t) for t in self._added if t in tail), default=len(tail))
        wrong = ""
        for joined in ("", tail[:plain_end]):
            cut = Cut(
                prefix=prefix,
                tail=tail,
                joined=joined,
                prefix_ids=self._ids(prefix),
                tail_ids=self._ids(tail[len(joined) :]),
            )
            wrong = self._mismatch(cut, task)
            if not wrong:
                return cut
        raise CheckpointError(
            f"{self._file}: expected the same token ids for the rendering of a {task} as a whole "
            f"and cut before and behind the conversation, and they differ for {wrong!r}"
        )

    def _mismatch(self, cut: Cut, task: Task) -> str:
        """The first content of the corpus for which the cut changes a token, else empty."""
        for at, content in enumerate(_CONTENTS):
            other = _CONTENTS[(at + 7) % len(_CONTENTS)]
            last = "user" if task is Task.PROMPT else "assistant"
            alone = [Turn("user", content)]
            if last == "assistant":
                alone.append(Turn("assistant", other))
            longer = [Turn("user", other), Turn("assistant", content), *alone]
            for turns in (alone, longer):
                try:
                    cut_ids = self._cut_ids(cut, Conversation(task, tuple(turns)))
                    if cut_ids == self.whole_ids(turns):
                        continue
                except NotRendered:
                    pass
                return content
        return ""

    def _ids(self, text: str) -> tuple[int, ...]:
        return tuple(self._whole.encode(text, add_special_tokens=False).ids)


def _without_added_tokens(checkpoint: Checkpoint) -> Tokenizer:
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
