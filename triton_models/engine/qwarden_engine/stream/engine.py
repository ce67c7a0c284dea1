"""The Stream engine: appends of sessions in, what the guard says of their tokens out."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import torch

from qwarden.guard.stream import Append, Appended, Part
from qwarden_engine.checkpoint import CheckpointError
from qwarden_engine.conviction import LEDGER, Ledger
from qwarden_engine.device import architecture_of, computed_in, device_of, dtype_of, prepare
from qwarden_engine.gen import EngineFailed, Progress
from qwarden_engine.memory import MIB
from qwarden_engine.pulse import PULSE, Pulse
from qwarden_engine.revision import revision_of
from qwarden_engine.settings import SettingsError
from qwarden_engine.stream.chat import Chat, Writer
from qwarden_engine.stream.checkpoint import open_stream_checkpoint
from qwarden_engine.stream.counts import StreamCounts
from qwarden_engine.stream.jobs import Done, Request
from qwarden_engine.stream.network import StreamNetwork, StreamSpan
from qwarden_engine.stream.pieces import RUN
from qwarden_engine.stream.scheduler import Good, Heads, Memory, Scheduler
from qwarden_engine.stream.scores import numbers_of
from qwarden_engine.stream.settings import StreamSettings
from qwarden_engine.stream.slab import STEP, Slab

SEMANTICS = 2
"""Version of what the engine makes of a checkpoint: raise it with every change that can change
an answer (rendering, cutting of texts, what is read where, rounding)."""

_GOOD = "hello"

_STEP_TOKENS = {"cpu": 256, "cuda": 2048}
"""Where the settings say none, see there."""


@dataclass(frozen=True, slots=True)
class StreamConditions:
    """All that answers depend on beside the checkpoint's files; see `Conditions`. `run`: the rule
    by which texts are cut."""

    dtype: str
    architecture: str
    torch: str
    run: int = RUN
    semantics: int = SEMANTICS


class Stream:
    """A loaded Qwen3Guard-Stream. Safe to use from several threads.

    `revision`: the name under which its answers may be kept.
    """

    def __init__(self, revision: str, scheduler: Scheduler) -> None:
        self.revision = revision
        self._scheduler = scheduler

    @classmethod
    def load(cls, settings: StreamSettings, progress: Progress | None = None) -> Stream:
        """Opens and checks a checkpoint, takes the memory of sessions and judges a first one.

        `progress` gets a sentence a step. Raises `CheckpointError`, whose message names the file
        and what was expected, and `SettingsError`. Sets torch's threads for the whole process.
        """
        say = progress or (lambda _: None)
        device = device_of(settings)
        prepare(device, settings)
        checkpoint = open_stream_checkpoint(settings.checkpoint, settings.hub_revision)
        base = checkpoint.base
        say(f"{base.directory} is opened")
        dtype = dtype_of(settings, device, base.config.hidden)
        computed = computed_in(dtype)
        chat = Chat(base)
        say("the template and the tokens are checked")
        a_token = base.config.kv_numbers * computed.itemsize
        _check_room(settings, a_token, base.config.context)
        network = StreamNetwork(checkpoint, device, computed, say, int8=dtype == "int8")
        slab = Slab(base.config, settings.kv_mib * MIB // a_token, computed, device)
        good = _good(Writer(chat))
        pulse = Pulse(settings.left_in(PULSE))
        # Torch sets up its kernels at their first use, and how long a full step takes bounds how
        # long its supervisor waits for one.
        if not _comes_back(network, slab, good):
            raise CheckpointError(
                f"{base.directory}: expected numbers from the network for {_GOOD!r}, and they are "
                f"none; the weights are damaged, or need another {settings.prefix}DTYPE"
            )
        pulse.starts()
        step_tokens = settings.step_tokens or _STEP_TOKENS[device.type]
        tokens = min(step_tokens, base.config.context)
        _full_step(network, slab, tokens, base.config.vocabulary)
        pulse.ends()
        conditions = StreamConditions(dtype, architecture_of(device), torch.__version__)
        revision = revision_of(base.name, base.files, conditions)
        scheduler = Scheduler(
            network,
            Memory(slab, settings.high_water, settings.silent_s, base.config.context),
            Heads(checkpoint.response.categories, checkpoint.query.categories),
            lambda: Writer(chat),
            good,
            step_tokens=step_tokens,
            revision=revision,
            ledger=Ledger(settings.left_in(LEDGER)),
            pulse=pulse,
        )
        room = f"{slab.total} tokens of sessions, {a_token / 1024:.0f} KiB each"
        say(f"{revision} is ready on {device} in {dtype}, with room for {room}")
        return cls(revision, scheduler)

    @property
    def counts(self) -> StreamCounts:
        return self._scheduler.counts

    def measures(self) -> dict[str, float]:
        """Its counts and what it holds now, by name (`counts.HELP`, `counts.GAUGES`)."""
        return asdict(self.counts) | self._scheduler.gauges()

    def submit(
        self,
        appends: Sequence[bytes],
        done: Done,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> None:
        """Hands appends over (`Append.to_json`); `done` gets an answer to each, in their order.

        It gets them from another thread, or from this one where none is taken; and None where
        `cancelled` came true before, or where the engine failed. Sessions of these are forgotten
        then. Nothing about an append raises, and nothing blocks.
        """
        if appends:
            self.submit_all([Request(list(appends), done, cancelled)])
        else:
            done([])

    def submit_all(self, requests: Sequence[Request]) -> None:
        """Hands over requests that came together, none of them empty; what several of them have of
        one session is put in order."""
        self._scheduler.submit(requests)

    def append(self, appends: Sequence[Append]) -> list[Appended]:
        """An answer to each append, in their order; waits for them. Raises `EngineFailed`."""
        answered = threading.Event()
        said: list[list[Appended] | None] = []

        def done(answers: list[Appended] | None) -> None:
            said.append(answers)
            answered.set()

        self.submit([append.to_json() for append in appends], done)
        answered.wait()
        if said[0] is None:
            raise EngineFailed("the stream engine cannot judge now; its sessions are lost")
        return said[0]

    def close(self) -> None:
        """Ends the engine's threads; appends that wait get no answer."""
        self._scheduler.close()


def _check_room(settings: StreamSettings, a_token: int, context: int) -> None:
    """One whole context must fit beside the known good session, so that one can get to its end."""
    whole = -(-context // STEP) * STEP
    needed = int(whole / settings.high_water) + 2 * STEP
    if settings.kv_mib * MIB < needed * a_token:
        raise SettingsError(
            f"{settings.prefix}KV_MIB is {settings.kv_mib}, and one session of {context} tokens "
            f"under the high-water mark of {settings.high_water} takes "
            f"{-(-needed * a_token // MIB)} MiB; raise it to that"
        )


def _good(writer: Writer) -> Good:
    fed = writer.write(Part("user", _GOOD, end=True))
    [read] = [at for at, each in enumerate(fed) if each.reads]
    return Good([each.id for each in fed], read)


def _comes_back(network: StreamNetwork, slab: Slab, good: Good) -> bool:
    slot = slab.open(len(good.ids))
    assert slot is not None
    logits = network.step([StreamSpan(slot, good.ids, (), (good.read,))], slab)
    slab.free(slot)
    numbers = numbers_of(torch.cat([logits.query_risk, logits.query_categories], dim=1))
    return bool(torch.isfinite(torch.from_numpy(numbers)).all())


def _full_step(network: StreamNetwork, slab: Slab, tokens: int, vocabulary: int) -> None:
    slot = slab.open(tokens)
    assert slot is not None
    ids = random.Random(0).choices(range(vocabulary), k=tokens)
    network.step([StreamSpan(slot, ids, range(tokens), ())], slab)
    slab.free(slot)
