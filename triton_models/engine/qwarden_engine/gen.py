"""The Gen engine: conversations in, answers out, in one prefill and little more."""

from __future__ import annotations

import hashlib
import random
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from itertools import cycle
from pathlib import Path

import torch

from qwarden.guard.answer import Answer, Failure, Unanswered
from qwarden.guard.conversation import Conversation, Task, Turn
from qwarden.guard.normaliser import normalised
from qwarden.guard.row import Row as Asked
from qwarden.guard.row import View, rewritten
from qwarden_engine.checkpoint import Checkpoint, CheckpointError, Config, open_checkpoint
from qwarden_engine.conviction import LEDGER, Ledger
from qwarden_engine.counts import Counts
from qwarden_engine.device import architecture_of, device_of, dtype_of, keep_memory
from qwarden_engine.grammar import Grammar
from qwarden_engine.jobs import Job, Request, Row
from qwarden_engine.judge import Judge, Part
from qwarden_engine.memory import MIB, Need, need
from qwarden_engine.model import Prefix, Qwen3
from qwarden_engine.packing import Slicing
from qwarden_engine.pulse import PULSE, Pulse
from qwarden_engine.revision import Conditions, revision_of
from qwarden_engine.rounding import near
from qwarden_engine.scheduler import Scheduler
from qwarden_engine.settings import EngineSettings, SettingsError
from qwarden_engine.template import Cut, Encoded, Template, TooLong, broken
from qwarden_engine.words import Words, words_of

Progress = Callable[[str], None]


class EngineFailed(Exception):
    """The engine cannot judge at all, not even what it could at its start: an outage."""


class Gen:
    """A loaded Qwen3Guard-Gen. Safe to use from several threads.

    `revision`: the name under which its answers may be kept. `counts`: what it has done.
    """

    def __init__(
        self,
        settings: EngineSettings,
        template: Template,
        parts: dict[Task, Part],
        names: dict[Task, tuple[str, ...]],
        revision: str,
    ) -> None:
        self.revision = revision
        self._settings = settings
        self._template = template
        self._parts = parts
        self._names = names
        self._scheduler: Scheduler

    @classmethod
    def load(cls, settings: EngineSettings, progress: Progress | None = None) -> Gen:
        """Opens and checks a checkpoint, computes each task's prefix and judges a first row.

        `progress` gets a sentence a step. Raises `CheckpointError`, whose message names the file
        and what was expected. Sets torch's threads for the whole process.
        """
        say = progress or (lambda _: None)
        device = device_of(settings)
        if device.type == "cpu":
            torch.set_num_threads(settings.threads)
            keep_memory()
        checkpoint = open_checkpoint(settings.checkpoint, settings.hub_revision)
        say(f"{checkpoint.directory} is opened")
        dtype = dtype_of(settings, device, checkpoint.config.hidden)
        computed = torch.bfloat16 if dtype == "bfloat16" else torch.float32
        template = Template(checkpoint)
        words = {task: words_of(checkpoint, template, task) for task in Task}
        limits = {
            task: _limit(checkpoint, template.cuts[task], template, words[task]) for task in Task
        }
        say("the template and the tokens are checked")
        needed = need(
            checkpoint.config,
            dtype=dtype,
            stored_embedding_bytes=checkpoint.embedding_bytes,
            prefix_tokens=sum(map(len, {template.cuts[task].prefix_ids for task in Task})),
            token_budget=settings.token_budget,
        )
        _bound_memory(settings, device, needed)
        say(f"it needs {needed}")
        read = tuple(dict.fromkeys(i for task in Task for i in words[task].read))
        columns = {token: at for at, token in enumerate(read)}
        model = Qwen3(checkpoint, read, device, computed, say, int8=dtype == "int8")
        prefixes: dict[tuple[int, ...], Prefix] = {}
        for ids in (template.cuts[task].prefix_ids for task in Task):
            if ids not in prefixes:
                prefixes[ids] = model.prefix(ids)

        def part(task: Task, floor: float) -> Part:
            of_task = words[task]
            refusal = settings.refusal
            grammar = Grammar(model, task, of_task, columns, floor=floor, refusal=refusal)
            return Part(grammar, prefixes[template.cuts[task].prefix_ids], limits[task])

        parts = {task: part(task, settings.floor) for task in Task}
        slice_tokens = min(settings.slice_tokens, settings.token_budget)
        conditions = Conditions(
            dtype=dtype,
            architecture=architecture_of(device),
            torch=torch.__version__,
            floor=settings.floor,
            refusal=settings.refusal,
            slice_tokens=slice_tokens,
            max_pieces=settings.max_pieces,
            second_look=settings.second_look,
        )
        revision = revision_of(checkpoint.name, checkpoint.files, conditions)
        names = {task: words[task].names for task in Task}
        gen = cls(settings, template, parts, names, revision)
        judge = Judge(model, parts)
        goods = {task: gen._good(task) for task in Task}
        # Torch sets up its kernels at their first use: 0.4 s that no request should wait for.
        if any(draft.failed for draft in judge.together(list(goods.values()))):
            raise CheckpointError(
                f"{checkpoint.directory}: expected numbers from the network for {_GOOD!r}, and "
                "they are none; the weights are damaged, or need another QWARDEN_ENGINE__DTYPE"
            )
        # As slow as a micro-batch can be: full, with categories for every row. The first one of a
        # large guard on a CPU takes longer than an engine without a beat is given.
        decoding = Judge(model, {task: part(task, 1.0) for task in Task})
        noise = gen._noise(checkpoint.config.vocabulary)
        pulse = Pulse(_in(settings.state, PULSE))
        pulse.starts()
        full = decoding.together(noise)
        pulse.ends()
        bound = 0.0
        if settings.second_look:
            bound = near(decoding, noise, full)
            under = f"moves logits; a row with a margin under {bound:.2g} is judged again alone"
            say(f"a batch {under if bound else 'moves no logit'}")
        gen._scheduler = Scheduler(
            judge,
            Slicing(slice_tokens, _even(checkpoint.config)),
            budget=settings.token_budget,
            bound=bound,
            revision=revision,
            good=goods[Task.PROMPT],
            ledger=Ledger(_in(settings.state, LEDGER)),
            pulse=pulse,
        )
        say(f"{revision} is ready on {device} in {conditions.dtype}")
        return gen

    @property
    def counts(self) -> Counts:
        return self._scheduler.counts

    def measures(self) -> dict[str, float]:
        """Its counts and what waits now, by name (`counts.HELP`, `counts.GAUGES`)."""
        return asdict(self.counts) | self._scheduler.gauges()

    def limit(self, task: Task) -> int:
        """Tokens that a conversation may have: the context less template and answer."""
        return self._parts[task].limit

    def category_names(self, task: Task) -> tuple[str, ...]:
        """The canonical names that can be answered for a task, in the template's order."""
        return self._names[task]

    def judge(self, rows: Sequence[bytes]) -> list[Answer]:
        """An answer for each row (`row_of`), in their order; waits for them.

        A row that cannot be judged is an `Unanswered`; nothing about a row raises. Raises
        `EngineFailed` where nothing can be judged any more.
        """
        answered = threading.Event()
        said: list[list[Answer] | None] = []

        def done(answers: list[Answer] | None) -> None:
            said.append(answers)
            answered.set()

        self.submit(rows, done)
        answered.wait()
        if said[0] is None:
            raise EngineFailed("the engine cannot judge what it could at its start; restart it")
        return said[0]

    def submit(
        self,
        rows: Sequence[bytes],
        done: Callable[[list[Answer] | None], None],
        cancelled: Callable[[], bool] = lambda: False,
    ) -> None:
        """Hands rows over; `done` gets their answers, from another thread, or from this one
        where none needs the network. It gets None where `cancelled` came true before, or where
        the engine failed. Blocks while enough waits already.

        An `Assessment` keeps in `categories` what was decoded also where its safety is Safe and
        P(Safe) is under the floor, decoded under the likelier other word: a verdict shows such
        categories as scores only. Its refusal is then the one read under Safe, None. A floor of
        less than a half leaves some rows that are not Safe above it: without categories, and for
        responses without a refusal, which the model answers behind them.
        """
        request = Request([None] * len(rows), done, cancelled)
        if rows:
            self._scheduler.submit(request, self._encoded(rows, request))
        else:
            done([])

    def close(self) -> None:
        """Ends the engine's thread; rows that wait get no answer."""
        self._scheduler.close()

    def _encoded(self, rows: Sequence[bytes], request: Request) -> list[Row]:
        """Jobs for the rows that have some; the others are answered in the request."""
        by_task: dict[Task, list[tuple[int, Asked, View, Conversation]]] = {t: [] for t in Task}
        for at, data in enumerate(rows):
            try:
                asked = Asked.from_json(data)
            except ValueError as error:
                request.answers[at] = self._without(Failure.REFUSED, str(error))
                continue
            for view, conversation in self._views(asked):
                by_task[asked.conversation.task].append((at, asked, view, conversation))
        made: dict[int, Row] = {}
        for task, some in by_task.items():
            part = self._parts[task]
            encoded = self._template.encode(
                [conversation for *_, conversation in some], part.limit, self._settings.max_pieces
            )
            for (at, asked, view, _), pieces in zip(some, encoded, strict=True):
                if isinstance(pieces, Exception):
                    kind = Failure.TOO_LONG if isinstance(pieces, TooLong) else Failure.REFUSED
                    request.answers[at] = self._without(kind, str(pieces))
                    continue
                row = made.get(at)
                if row is None:
                    row = made[at] = Row(request, at, _name(rows[at]), 0)
                row.dropped_turns = max(row.dropped_turns, pieces[0].dropped_turns)
                row.jobs += [
                    self._job(row, task, view, n, piece, alone=asked.exact)
                    for n, piece in enumerate(pieces)
                ]
        return [row for at, row in made.items() if request.answers[at] is None]

    def _views(self, asked: Asked) -> list[tuple[View, Conversation]]:
        """What is judged of a row: the text as sent, with broken markers where it has some, and
        as a person reads it where that differs; also there no marker stays whole."""

        def unmarked(conversation: Conversation) -> Conversation | None:
            return rewritten(conversation, partial(broken, self._template.markers))

        views = [(View.AS_SENT, asked.conversation)]
        if View.MARKERS_BROKEN in asked.views and (other := unmarked(asked.conversation)):
            views.append((View.MARKERS_BROKEN, other))
        if View.NORMALISED in asked.views and (other := rewritten(asked.conversation, normalised)):
            views.append((View.NORMALISED, unmarked(other) or other))
        return views

    def _job(
        self, row: Row, task: Task, view: View, piece: int, encoded: Encoded, *, alone: bool
    ) -> Job:
        ids = [*encoded.ids, *self._parts[task].grammar.tail]
        return Job(row, task, view, piece, ids, encoded.tokens, alone)

    def _good(self, task: Task) -> Job:
        """The known good conversation."""
        turns = (Turn("user", _GOOD), Turn("assistant", _GOOD))
        conversation = Conversation(task, turns[: 1 if task is Task.PROMPT else 2])
        [pieces] = self._template.encode([conversation], self._parts[task].limit, 1)
        assert not isinstance(pieces, Exception)
        return self._job(_nobodys(), task, View.AS_SENT, 0, pieces[0], alone=True)

    def _noise(self, vocabulary: int) -> list[Job]:
        """Rows of random ids that fill a micro-batch."""
        chooser = random.Random(0)
        jobs: list[Job] = []
        tasks = cycle(Task)
        left = self._settings.token_budget
        while left >= 0:
            ids = chooser.choices(range(vocabulary), k=chooser.randint(1, 2 * _USUAL))
            encoded = Encoded(ids, len(ids), 0)
            jobs.append(self._job(_nobodys(), next(tasks), View.AS_SENT, 0, encoded, alone=False))
            left -= jobs[-1].length
        return jobs[:-1] or jobs

    def _without(self, failure: Failure, reason: str) -> Unanswered:
        clean = reason.encode("utf-8", "backslashreplace").decode()
        return Unanswered(failure, clean, self.revision)


_GOOD = "hello"

_USUAL = 50
"""Tokens of a usual row."""


def _nobodys() -> Row:
    """A row that nobody waits for."""
    return Row(Request([None], lambda _: None, lambda: False), 0, "", 0)


def _name(row: bytes) -> str:
    return hashlib.blake2b(row, digest_size=16).hexdigest()


def _in(folder: Path | None, name: str) -> Path | None:
    return None if folder is None else folder / name


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


def _even(config: Config) -> float:
    """Keys to which attention costs a query as much as the linear layers cost its token."""
    heads = config.heads * config.head_dim
    linear = config.hidden * (2 * heads + 2 * config.kv_heads * config.head_dim)
    linear += 3 * config.hidden * config.intermediate
    return linear / (2 * heads)


def _bound_memory(settings: EngineSettings, device: torch.device, needed: Need) -> None:
    allowed = settings.memory_mib
    if allowed is None:
        return
    if needed.total > allowed:
        raise SettingsError(
            f"QWARDEN_ENGINE__MEMORY_MIB is {allowed} and this checkpoint needs {needed}; raise "
            "it, lower QWARDEN_ENGINE__TOKEN_BUDGET, or take a smaller checkpoint"
        )
    if device.type == "cuda":
        whole = torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, allowed * MIB / whole), device)
