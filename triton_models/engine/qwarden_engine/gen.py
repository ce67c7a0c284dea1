"""The Gen engine: conversations in, answers out, in one prefill and little more."""

from __future__ import annotations

import dataclasses
import math
import platform
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from qwarden.guard.answer import Answer, Assessment, Failure, Safety, Unanswered
from qwarden.guard.conversation import Conversation, Task, Turn, refusal_of
from qwarden_engine.checkpoint import Checkpoint, CheckpointError, open_checkpoint
from qwarden_engine.grammar import Grammar, Rest, word_of
from qwarden_engine.model import Cache, Prefix, Qwen3
from qwarden_engine.revision import Conditions, revision_of
from qwarden_engine.settings import EngineSettings, SettingsError
from qwarden_engine.template import Cut, Encoded, Template, TooLong
from qwarden_engine.words import Words, words_of

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class _Part:
    """What is constant for one task: its words, its prefix's keys and values, its limit."""

    words: Words
    grammar: Grammar
    prefix: Prefix
    limit: int


@dataclass(frozen=True, slots=True)
class _Row:
    """One conversation on its way: where its answer goes, and all its tokens behind the prefix."""

    at: int
    task: Task
    ids: list[int]
    encoded: Encoded


class Gen:
    """A loaded Qwen3Guard-Gen. Safe to use from several threads: forwards take turns.

    `revision`: the name under which its answers may be kept.
    """

    def __init__(
        self,
        settings: EngineSettings,
        template: Template,
        model: Qwen3,
        parts: Mapping[Task, _Part],
        revision: str,
    ) -> None:
        self.revision = revision
        self._settings = settings
        self._template = template
        self._model = model
        self._parts = parts
        self._lock = threading.Lock()

    @classmethod
    def load(cls, settings: EngineSettings, progress: Progress | None = None) -> Gen:
        """Opens and checks a checkpoint and computes each task's prefix.

        `progress` gets a sentence a step. Raises `CheckpointError`, whose message names the file
        and what was expected. Sets torch's threads for the whole process.
        """
        say = progress or (lambda _: None)
        device = _device(settings)
        dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
        if device.type == "cpu":
            torch.set_num_threads(settings.threads)
        checkpoint = open_checkpoint(settings.checkpoint, settings.hub_revision)
        say(f"{checkpoint.directory} is opened")
        template = Template(checkpoint)
        words = {task: words_of(checkpoint, template, task) for task in Task}
        limits = {
            task: _limit(checkpoint, template.cuts[task], template, words[task]) for task in Task
        }
        say("the template and the tokens are checked")
        read = tuple(dict.fromkeys(i for task in Task for i in words[task].read))
        columns = {token: at for at, token in enumerate(read)}
        model = Qwen3(checkpoint, read, device, dtype, say)
        parts = {
            task: _Part(
                words=words[task],
                grammar=Grammar(model, words[task], columns),
                prefix=model.prefix(template.cuts[task].prefix_ids, settings.slice_tokens),
                limit=limits[task],
            )
            for task in Task
        }
        conditions = Conditions(
            dtype=str(dtype).removeprefix("torch."),
            architecture=_architecture(device),
            torch=torch.__version__,
            floor=settings.floor,
            slice_tokens=settings.slice_tokens,
        )
        revision = revision_of(checkpoint.name, checkpoint.files, conditions)
        gen = cls(settings, template, model, parts, revision)
        # Torch sets up its kernels at their first use: 0.4 s that no request should wait for.
        gen.judge([_first(task) for task in Task])
        say(f"{revision} is ready on {device}")
        return gen

    def limit(self, task: Task) -> int:
        """Tokens that a conversation may have: the context less template and answer."""
        return self._parts[task].limit

    def category_names(self, task: Task) -> tuple[str, ...]:
        """The canonical names that can be answered for a task, in the template's order."""
        return self._parts[task].words.names

    def judge(self, rows: Sequence[bytes]) -> list[Answer]:
        """An answer for each row (`Conversation.to_json`), in their order.

        A row that cannot be judged is an `Unanswered`; nothing about a row raises. An
        `Assessment` keeps in `categories` what was decoded also where its safety is Safe and
        P(Safe) is under the floor, decoded under the likelier other word: a verdict shows such
        categories as scores only. Its refusal is then the one read under Safe, None. A floor of
        less than a half leaves some rows that are not Safe above it: without categories, and for
        responses without a refusal, which the model answers behind them.
        """
        answers: list[Answer | None] = [None] * len(rows)
        ready: dict[Task, list[_Row]] = {task: [] for task in Task}
        for at, result in enumerate(self._encoded(rows)):
            if isinstance(result, Unanswered):
                answers[at] = result
            else:
                task, encoded = result
                ids = [*encoded.ids, *self._parts[task].words.forced]
                ready[task].append(_Row(at, task, ids, encoded))
        for same_task in ready.values():
            for batch in packed(same_task, self._settings.token_budget):
                for row, answer in zip(batch, self._answers(batch), strict=True):
                    answers[row.at] = answer
        return [answer for answer in answers if answer is not None]

    def _encoded(self, rows: Sequence[bytes]) -> list[tuple[Task, Encoded] | Unanswered]:
        out: list[tuple[Task, Encoded] | Unanswered | None] = [None] * len(rows)
        accepted: dict[Task, list[tuple[int, Conversation]]] = {task: [] for task in Task}
        for at, row in enumerate(rows):
            try:
                conversation = Conversation.from_json(row)
            except ValueError as error:
                out[at] = self._without(Failure.REFUSED, str(error))
                continue
            reason = refusal_of(conversation.task, conversation.turns)
            if reason is None:
                accepted[conversation.task].append((at, conversation))
            else:
                out[at] = self._without(Failure.REFUSED, reason)
        for task, some in accepted.items():
            encoded = self._template.encode([each for _, each in some], self._parts[task].limit)
            for (at, _), result in zip(some, encoded, strict=True):
                if isinstance(result, Encoded):
                    out[at] = (task, result)
                elif isinstance(result, TooLong):
                    out[at] = self._without(Failure.TOO_LONG, str(result))
                else:
                    out[at] = self._without(Failure.REFUSED, str(result))
        return [each for each in out if each is not None]

    def _answers(self, batch: Sequence[_Row]) -> list[Answer]:
        """Answers of one batch; halves it where memory runs out, down to a row alone."""
        try:
            with self._lock:
                return self._forward(batch)
        except (RuntimeError, MemoryError) as error:
            if not _is_out_of_memory(error):
                raise
        if self._model.device.type == "cuda":
            torch.cuda.empty_cache()
        if len(batch) == 1:
            tokens = batch[0].encoded.tokens
            reason = f"out of memory for a row of {tokens} tokens alone"
            return [self._without(Failure.NO_ANSWER, reason)]
        half = len(batch) // 2
        return self._answers(batch[:half]) + self._answers(batch[half:])

    def _forward(self, batch: Sequence[_Row]) -> list[Answer]:
        task = batch[0].task
        part, model = self._parts[task], self._model
        counts = [len(row.ids) for row in batch]
        width = max(counts)
        padded = torch.tensor(
            [row.ids + [0] * (width - len(row.ids)) for row in batch], device=model.device
        )
        cache = model.cache(part.prefix, len(batch), width + part.words.room)
        hidden = model.prefill(
            cache,
            padded,
            torch.tensor(counts, device=model.device),
            self._settings.slice_tokens,
        )
        drafts: list[Assessment | None] = [
            Assessment(
                logits=logits,
                categories=(),
                refusal=None,
                tokens=row.encoded.tokens,
                dropped_turns=row.encoded.dropped_turns,
                revision=self.revision,
            )
            if all(map(math.isfinite, logits))
            else None
            for row, logits in zip(batch, part.grammar.safety(hidden), strict=True)
        ]
        rests = self._rest(part, cache, drafts, task)
        answers: list[Answer] = []
        for draft, rest in zip(drafts, rests, strict=True):
            if draft is None or rest.failed:
                reason = "the network's output was not a number"
                answers.append(self._without(Failure.NO_ANSWER, reason))
            else:
                decoded = tuple(rest.categories)
                answers.append(dataclasses.replace(draft, categories=decoded, refusal=rest.refusal))
        return answers

    def _rest(
        self, part: _Part, cache: Cache, drafts: Sequence[Assessment | None], task: Task
    ) -> list[Rest]:
        """Categories where P(Safe) is under the floor, and refusal of responses.

        Each pass goes on from the rows' keys and values behind `Safety:`. The first pass is done
        with them before the second begins, since a selection of all rows shares their storage.
        """
        rests = [Rest() for _ in drafts]
        finite = [(at, draft) for at, draft in enumerate(drafts) if draft is not None]
        unsure = [(at, d) for at, d in finite if d.scores[0] < self._settings.floor]
        if unsure:
            rows = [at for at, _ in unsure]
            some = cache.select(rows)
            part.grammar.categories(
                some, [word_of(d.logits) for _, d in unsure], [rests[at] for at in rows]
            )
            flagged = [n for n, (_, d) in enumerate(unsure) if d.safety is not Safety.SAFE]
            if flagged and task is Task.RESPONSE:
                part.grammar.refusal(
                    some.select(flagged), [rests[rows[n]] for n in flagged], safe=False
                )
        safe = [at for at, d in finite if d.safety is Safety.SAFE]
        if safe and task is Task.RESPONSE:
            part.grammar.refusal(cache.select(safe), [rests[at] for at in safe], safe=True)
        return rests

    def _without(self, failure: Failure, reason: str) -> Unanswered:
        clean = reason.encode("utf-8", "backslashreplace").decode()
        return Unanswered(failure, clean, self.revision)


def packed(rows: Sequence[_Row], budget: int) -> list[list[_Row]]:
    """Rows sorted by length, in batches of at most `budget` padded tokens, one row at the least.

    Longest first, so that a batch that memory cannot hold is met before the others.
    """
    batches: list[list[_Row]] = []
    for row in sorted(rows, key=lambda row: -len(row.ids)):
        if batches:
            widest = len(batches[-1][0].ids)
            if widest * (len(batches[-1]) + 1) <= budget:
                batches[-1].append(row)
                continue
        batches.append([row])
    return batches


def _limit(checkpoint: Checkpoint, cut: Cut, template: Template, words: Words) -> int:
    fixed = len(cut.prefix_ids) + len(cut.tail_ids) + len(template.plain_ids(cut.joined))
    limit = checkpoint.config.context - fixed - len(words.forced) - words.room
    if limit < 1:
        raise CheckpointError(
            f"{checkpoint.directory / 'config.json'}: expected max_position_embeddings above the "
            f"{fixed + len(words.forced) + words.room} tokens that template and answer take, "
            f"not {checkpoint.config.context}"
        )
    return limit


def _first(task: Task) -> bytes:
    turns = (Turn("user", "hello"), Turn("assistant", "hello"))
    return Conversation(task, turns[: 1 if task is Task.PROMPT else 2]).to_json()


def _device(settings: EngineSettings) -> torch.device:
    if settings.device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if settings.device == "cuda" and not torch.cuda.is_available():
        raise SettingsError("QWARDEN_ENGINE__DEVICE is cuda and torch sees none; set it to auto")
    return torch.device(settings.device)


def _architecture(device: torch.device) -> str:
    if device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        return f"cuda-sm_{major}{minor}"
    return f"cpu-{platform.machine()}"


def _is_out_of_memory(error: BaseException) -> bool:
    """Torch's CPU allocator raises a plain RuntimeError, so its words must tell."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        "can't allocate memory" in str(error) or "not enough memory" in str(error)
    )
