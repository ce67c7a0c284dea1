"""The Gen engine: conversations in, answers out, in one prefill and little more."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Self

import torch

from qwarden.guard.answer import Answer
from qwarden.guard.conversation import Task
from qwarden_engine.checkpoint import CheckpointError, Config, open_checkpoint
from qwarden_engine.conviction import LEDGER, Ledger
from qwarden_engine.counts import Counts
from qwarden_engine.device import architecture_of, computed_in, device_of, dtype_of, prepare
from qwarden_engine.grammar import Grammar
from qwarden_engine.intake import GOOD_TEXT, Intake
from qwarden_engine.jobs import Request
from qwarden_engine.judge import Judge, Part
from qwarden_engine.memory import MIB, Need, need
from qwarden_engine.model import Qwen3
from qwarden_engine.packing import Slicing
from qwarden_engine.pulse import PULSE, Pulse
from qwarden_engine.revision import Conditions, revision_of
from qwarden_engine.rounding import near
from qwarden_engine.scheduler import Scheduler
from qwarden_engine.settings import EngineSettings, SettingsError
from qwarden_engine.wording import Wording

Progress = Callable[[str], None]


class EngineFailed(Exception):
    """The engine cannot judge at all, not even what it could at its start: an outage."""


class Gen:
    """A loaded Qwen3Guard-Gen. Safe to use from several threads.

    `revision`: the name under which its answers may be kept. `counts`: what it has done.
    """

    def __init__(
        self, wording: Wording, intake: Intake, scheduler: Scheduler, revision: str
    ) -> None:
        self.revision = revision
        self._wording = wording
        self._intake = intake
        self._scheduler = scheduler

    @classmethod
    def load(cls, settings: EngineSettings, progress: Progress | None = None) -> Self:
        """Opens and checks a checkpoint, and starts with it.

        `progress` gets a sentence a step. Raises `CheckpointError`, whose message names the file
        and what was expected, and `SettingsError`.
        """
        say = progress or (lambda _: None)
        device = device_of(settings)
        checkpoint = open_checkpoint(settings.checkpoint, settings.hub_revision)
        say(f"{checkpoint.directory} is opened")
        wording = Wording.of(checkpoint)
        say("the template and the tokens are checked")
        return cls.start(wording, settings, device, say)

    @classmethod
    def start(
        cls, wording: Wording, settings: EngineSettings, device: torch.device, say: Progress
    ) -> Self:
        """Loads the network, computes each task's prefix and judges first rows. Sets torch's
        threads for the whole process. Raises as `load`."""
        prepare(device, settings)
        checkpoint = wording.checkpoint
        prefix_ids = {wording.prefix(task) for task in Task}
        dtype = dtype_of(settings, device, checkpoint.config.hidden)
        needed = need(
            checkpoint.config,
            dtype=dtype,
            stored_embedding_bytes=checkpoint.embedding_bytes,
            prefix_tokens=sum(map(len, prefix_ids)),
            token_budget=settings.token_budget,
        )
        _bound_memory(settings, device, needed)
        say(f"it needs {needed}")
        model = Qwen3(
            checkpoint, wording.read, device, computed_in(dtype), say, int8=dtype == "int8"
        )
        columns = {token: at for at, token in enumerate(wording.read)}
        prefixes = {ids: model.prefix(ids) for ids in prefix_ids}

        def parts(floor: float) -> dict[Task, Part]:
            return {
                task: Part(
                    Grammar(model, task, words, columns, floor=floor, refusal=settings.refusal),
                    prefixes[wording.prefix(task)],
                    wording.limits[task],
                )
                for task, words in wording.words.items()
            }

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
        of_rows = parts(settings.floor)
        judge = Judge(model, of_rows)
        intake = Intake(wording.template, of_rows, settings.max_pieces, revision)
        goods = {task: intake.good(task) for task in Task}
        # Torch sets up its kernels at their first use: 0.4 s that no request should wait for.
        if any(draft.failed for draft in judge.together(list(goods.values()))):
            raise CheckpointError(
                f"{checkpoint.directory}: expected numbers from the network for {GOOD_TEXT!r}, and "
                "they are none; the weights are damaged, or need another QWARDEN_ENGINE__DTYPE"
            )
        # As slow as a micro-batch can be: full, with categories for every row. The first one of a
        # large guard on a CPU takes longer than an engine without a beat is given.
        decoding = Judge(model, parts(floor=1.0))
        noise = intake.noise(checkpoint.config.vocabulary, settings.token_budget)
        pulse = Pulse(settings.left_in(PULSE))
        pulse.starts()
        full = decoding.together(noise)
        pulse.ends()
        bound = 0.0
        if settings.second_look:
            bound = near(decoding, noise, full)
            under = f"moves logits; a row with a margin under {bound:.2g} is judged again alone"
            say(f"a batch {under if bound else 'moves no logit'}")
        scheduler = Scheduler(
            judge,
            Slicing(slice_tokens, _even(checkpoint.config)),
            budget=settings.token_budget,
            bound=bound,
            revision=revision,
            good=goods[Task.PROMPT],
            ledger=Ledger(settings.left_in(LEDGER)),
            pulse=pulse,
        )
        say(f"{revision} is ready on {device} in {dtype}")
        return cls(wording, intake, scheduler, revision)

    @property
    def counts(self) -> Counts:
        return self._scheduler.counts

    def measures(self) -> dict[str, float]:
        """Its counts and what waits now, by name (`counts.HELP`, `counts.GAUGES`)."""
        return asdict(self.counts) | self._scheduler.gauges()

    def limit(self, task: Task) -> int:
        """Tokens that a conversation may have: the context less template and answer."""
        return self._wording.limits[task]

    def category_names(self, task: Task) -> tuple[str, ...]:
        """The canonical names that can be answered for a task, in the template's order."""
        return self._wording.words[task].names

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
            self._scheduler.submit(request, self._intake.rows(rows, request))
        else:
            done([])

    def close(self) -> None:
        """Ends the engine's thread; rows that wait get no answer."""
        self._scheduler.close()


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
