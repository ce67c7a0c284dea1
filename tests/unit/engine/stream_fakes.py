"""A network whose every answer depends on all that its slot holds, and a client that replays."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from qwarden.guard.conversation import Task
from qwarden.guard.stream import Append, Appended, Part, Scored, Status
from qwarden_engine.checkpoint import Config
from qwarden_engine.conviction import Ledger
from qwarden_engine.pulse import Pulse
from qwarden_engine.stream.book import ASK_AFTER_S
from qwarden_engine.stream.chat import Chat, Fed, Writer
from qwarden_engine.stream.jobs import Request
from qwarden_engine.stream.network import Logits, StreamSpan
from qwarden_engine.stream.scheduler import Good, Heads, Memory, Scheduler
from qwarden_engine.stream.scores import DECIMALS
from qwarden_engine.stream.slab import Slab

CONTEXT = 512
HEADS = Heads(("Violent", "PII"), ("Violent", "PII", "Jailbreak"))


def numbers_of(ids: Sequence[int], head: str, count: int) -> list[float]:
    """What the network says at the last of these tokens: a function of all of them."""
    digest = hashlib.blake2b(json.dumps([head, *ids]).encode(), digest_size=2 * count).digest()
    pairs = zip(digest[::2], digest[1::2], strict=True)
    return [(256 * high + low) / 4096 - 8 for high, low in pairs]


class HashNetwork:
    """Keeps ids where a network keeps keys. `before` is called with each step's spans."""

    def __init__(self) -> None:
        self.before: Callable[[Sequence[StreamSpan]], None] = lambda spans: None
        self.steps: list[list[int]] = []
        """Tokens of each span of each step."""
        self.fault = ""
        """What no scheduler may do, as a step that fails is done again in parts."""
        self.nan: int | None = None
        """A token for which there are no numbers."""

    def step(self, spans: Sequence[StreamSpan], slab: Slab) -> Logits:
        self.steps.append([len(span.ids) for span in spans])
        self.before(spans)
        said: dict[str, list[list[float]]] = {"r3": [], "r2": [], "q3": [], "q2": []}
        if len({id(span.slot) for span in spans}) < len(spans):
            self.fault = "a session is in a step twice"
        for span in spans:
            slot = span.slot
            start, end = slot.start + slot.used, slot.start + slot.used + len(span.ids)
            if end > slot.end:
                self.fault = "there is no room in a slot"
            slab.keys[0, 0, start:end, 0] = torch.tensor(span.ids, dtype=torch.float32)
            held = [int(each) for each in slab.keys[0, 0, slot.start : end, 0].tolist()]
            for which, reads in (("r", span.reads), ("q", span.query_reads)):
                for at in reads:
                    ids = held[: slot.used + at + 1]
                    said[f"{which}3"].append(numbers_of(ids, f"{which}3", 3))
                    said[f"{which}2"].append(numbers_of(ids, f"{which}2", 2 + (which == "q")))
                    if span.ids[at] == self.nan:
                        said[f"{which}3"][-1] = [float("nan")] * 3
        for span in spans:
            span.slot.used += len(span.ids)
        return Logits(*(_tensor(said[key], width) for key, width in _WIDTHS.items()))


_WIDTHS = {"r3": 3, "r2": 2, "q3": 3, "q2": 3}


def _tensor(rows: list[list[float]], width: int) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float32).reshape(-1, width)


def slab_of(tokens: int) -> Slab:
    config = Config(
        vocabulary=8, hidden=1, layers=1, heads=1, kv_heads=1, head_dim=1, intermediate=1,
        context=CONTEXT, eps=1e-6, rope_theta=1e4, tied=True,
    )  # fmt: skip
    return Slab(config, tokens, torch.float32, torch.device("cpu"))


@dataclass
class Opened:
    scheduler: Scheduler
    network: HashNetwork
    chat: Chat
    now: float = 0.0

    def ask(self, *appends: Append) -> list[Appended]:
        answers = self.asked(*appends)()
        assert answers is not None
        return answers

    def asked(
        self, *appends: Append, cancelled: Callable[[], bool] = lambda: False
    ) -> Callable[[], list[Appended] | None]:
        """Sends appends; a call waits for what was said."""
        told, said = request_of(*appends, cancelled=cancelled)
        self.scheduler.submit([told])
        return said


def request_of(
    *appends: Append, cancelled: Callable[[], bool] = lambda: False
) -> tuple[Request, Callable[[], list[Appended] | None]]:
    said: list[list[Appended] | None] = []
    event = threading.Event()

    def done(answers: list[Appended] | None) -> None:
        said.append(answers)
        event.set()

    def wait() -> list[Appended] | None:
        assert event.wait(60), "nobody was told"
        assert len(said) == 1
        return said[0]

    request = Request([append.to_json() for append in appends], done, cancelled)
    request.since -= 2 * ASK_AFTER_S
    return request, wait


def opened(
    chat: Chat,
    *,
    tokens: int = 4096,
    step_tokens: int = 256,
    high_water: float = 0.9,
    silent_s: float = 1000.0,
    ledger: Ledger | None = None,
) -> Opened:
    network = HashNetwork()
    scheduler = Scheduler(
        network,
        Memory(slab_of(tokens), high_water, silent_s, CONTEXT),
        HEADS,
        lambda: Writer(chat),
        Good([1, 2, 3], 2),
        step_tokens=step_tokens,
        revision="fake@0",
        ledger=ledger or Ledger(None),
        pulse=Pulse(None),
    )
    return Opened(scheduler, network, chat)


def fed_of(chat: Chat, parts: Sequence[Part]) -> list[Fed]:
    writer = Writer(chat)
    return [fed for part in parts for fed in writer.write(part)]


def expected(chat: Chat, parts: Sequence[Part]) -> list[tuple[Task, int, int, list[float]]]:
    """What is to be said of these, all at once and alone."""
    ids: list[int] = []
    said = []
    for fed in fed_of(chat, parts)[:CONTEXT]:
        ids.append(fed.id)
        if fed.task is None or (fed.task is Task.PROMPT) is not fed.reads:
            continue
        numbers = numbers_of(ids, "q3" if fed.reads else "r3", 3)
        said.append((fed.task, fed.start, fed.end, [round(each, DECIMALS) for each in numbers]))
    return said


def told(scored: Sequence[Scored]) -> list[tuple[Task, int, int, list[float]]]:
    return [(each.task, each.start, each.end, list(each.logits)) for each in scored]


@dataclass
class Client:
    """Sends one session's parts as they come, and all of them where it is told to."""

    session: str
    sent: list[Part] = field(default_factory=list)
    scored: list[Scored] = field(default_factory=list)
    offset: int = 0
    known: int = 0
    """Code points of the transcript whose scores have come."""
    replays: int = 0
    full: int = 0
    closed: bool = False

    def append(self, *parts: Part) -> Append:
        return Append("t", self.session, self.offset, parts)

    def all_of(self) -> Append:
        return Append("t", self.session, 0, tuple(self.sent), since=self.known)

    def send(self, ask: Callable[[Append], Appended], *parts: Part) -> None:
        """Until it is taken."""
        append = self.append(*parts)
        self.sent += parts
        while True:
            answer = ask(append)
            if answer.status is Status.FULL:
                self.full += 1
                time.sleep(0.002)
                append = self.all_of()
            elif answer.status is Status.REPLAY:
                self.replays += 1
                append = self.all_of()
            else:
                break
        assert answer.status in (Status.DONE, Status.CLOSED), answer
        self.closed = answer.status is Status.CLOSED
        self.offset = sum(len(part.text) for part in self.sent)
        self.scored += answer.scored
        begins = _begins(self.sent)
        ends = (begins[each.task] + each.end for each in answer.scored)
        self.known = max([self.known, *ends])


def _begins(parts: Sequence[Part]) -> dict[Task, int]:
    """Where in the transcript each task's text begins: there is one of each here."""
    begins: dict[Task, int] = {}
    at = 0
    for part in parts:
        if part.task is not None:
            begins.setdefault(part.task, at)
        at += len(part.text)
    return begins
