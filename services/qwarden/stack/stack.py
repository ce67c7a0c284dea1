"""The whole local stack: its parts, then the services, as `qwarden up` runs them."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from types import FrameType
from typing import Any, Self

from qwarden.stack.child import Progress
from qwarden.stack.errors import Interrupted, StackError
from qwarden.stack.home import Home
from qwarden.stack.kafka import Kafka
from qwarden.stack.part import Part
from qwarden.stack.running import Claim
from qwarden.stack.service import PUBLIC_URL, Service, create_topics
from qwarden.stack.triton import Triton
from qwarden.stack.valkey import Valkey

PARTS = ("kafka", "valkey", "triton")
"""What can be part of the stack beside the services."""

REVIEW = "review-service"

SERVICES = ("moderator", "streamer", REVIEW)
"""The services that run by default."""

DATABASE = "QWARDEN_REVIEW__DATABASE_URL"

GEN = "QWARDEN_ENGINE__CHECKPOINT"
STREAM = "QWARDEN_STREAM__CHECKPOINT"
_ENGINES = ("QWARDEN_ENGINE__", "QWARDEN_STREAM__")
_GUARDS_OF = {"moderator": (GEN,), "streamer": (STREAM, GEN), REVIEW: ()}
"""The streamer asks Gen for its last look at a whole text."""

StackProgress = Callable[[str, str, float | None], None]
"""Told the part, what it does now, and the share that is done (0 to 1) where it is known."""

_WATCH_S = 0.2
"""How late it is seen that a part has ended: less than people notice."""


class Stack:
    """The parts and services of one home; a context manager that starts and ends them all.

    `parts`: those of PARTS to run. `settings`: `QWARDEN_*` for the services; they must name the
    broker where `kafka` is left out, and the guards (QWARDEN_ENGINE__CHECKPOINT for the moderator,
    QWARDEN_STREAM__CHECKPOINT for the streamer) for Triton, or for the services' own processes
    where there is no Triton. `progress` is called from threads.
    """

    def __init__(
        self,
        home: Home,
        *,
        services: Sequence[str] = SERVICES,
        parts: Sequence[str] = PARTS,
        settings: Mapping[str, str] | None = None,
        progress: StackProgress = lambda part, message, fraction: None,
    ) -> None:
        self._home = home
        self._services = tuple(services)
        self._given = dict(settings or {})
        self._progress = progress
        self._ending = threading.Event()
        self._claim: Claim | None = None
        self._started: list[tuple[str, Part]] = []
        self._wanted = _checked(parts, self._services, self._given)

    @property
    def home(self) -> Home:
        """The folder of this stack."""
        return self._home

    def start(self) -> None:
        """Start everything and return when it is ready and `stack.json` says where.

        Raises StackError if a stack of this home runs already or something did not start, and
        Interrupted if `cancel` was called; what had started is ended then.
        """
        try:
            self._claim = Claim.take(self._home)
            self._home.forget()  # a stack that was killed leaves its addresses behind
            self._start()
        except BaseException as error:
            self._ending.set()
            self.stop()
            if isinstance(error, OSError):
                raise StackError(
                    f"The stack in {self._home.root} did not start: {error}. Free some disk "
                    "there, or name a folder that you may write to with QWARDEN_STACK__HOME."
                ) from error
            raise

    def stop(self) -> None:
        """End everything, in reverse order."""
        for name, part in reversed(self._started):
            self._progress(name, "stopping", None)
            part.stop()
        self._started.clear()
        if self._claim is not None:
            self._home.forget()
            self._claim.release()
            self._claim = None

    def cancel(self) -> None:
        """Make a running `start` or `wait` return soon; any thread or signal handler may call.

        Called again it kills what has not ended yet.
        """
        if self._ending.is_set():
            for _, part in self._started:
                part.hurry()
        self._ending.set()

    def wait(self) -> None:
        """Return after `cancel`.

        Raises StackError as soon as a part or service ends by itself.
        """
        while not self._ending.wait(_WATCH_S):
            for name, part in self._started:
                if not part.alive:
                    raise part.child.failure(
                        f"{name} ended by itself with code {part.child.exit_code}, and the stack "
                        "with it",
                        "Start it again with `qwarden up`.",
                    )

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *failure: object) -> None:
        self.stop()

    def _start(self) -> None:
        kafka = Kafka(self._home, progress=self._teller("kafka"))
        valkey = Valkey(self._home, progress=self._teller("valkey"))
        engine = {key: value for key, value in self._given.items() if key.startswith(_ENGINES)}
        triton = Triton(self._home, engine, progress=self._teller("triton"))
        every: dict[str, Part] = {"kafka": kafka, "valkey": valkey, "triton": triton}
        self._together({name: part for name, part in every.items() if name in self._wanted})

        settings = {**self._given, "QWARDEN_CONTENT_KEY": self._content_key()}
        if "kafka" in self._wanted:
            settings["QWARDEN_KAFKA__BOOTSTRAP_SERVERS"] = kafka.bootstrap
        if "valkey" in self._wanted:
            settings["QWARDEN_REDIS__URL"] = valkey.url
        if "triton" in self._wanted:
            settings = {key: value for key, value in settings.items() if key not in engine}
            settings["QWARDEN_TRITON__URL"] = triton.grpc
        if REVIEW in self._services:
            file = self._home.data("review") / "review.sqlite"
            settings.setdefault(DATABASE, f"sqlite:///{file}")
        in_process = "triton" not in self._wanted and "QWARDEN_TRITON__URL" not in settings
        settings["QWARDEN_GUARD__MODE"] = "in-process" if in_process else "triton"

        services = {
            name: Service(self._home, name, settings, progress=self._teller(name))
            for name in self._services
        }
        self._together(services)
        if REVIEW in services:
            settings[PUBLIC_URL] = services[REVIEW].url
        addresses: dict[str, Any] = {
            "kafka": settings["QWARDEN_KAFKA__BOOTSTRAP_SERVERS"],
            "redis": settings.get("QWARDEN_REDIS__URL"),
            "triton": None,
            "database": settings.get(DATABASE),
            "services": {name: {"http": service.http} for name, service in services.items()},
        }
        if "triton" in self._wanted:
            addresses["triton"] = {
                "http": triton.http,
                "grpc": triton.grpc,
                "metrics": triton.metrics,
            }
        self._home.write_settings(settings)
        self._home.write_addresses(addresses)
        assert self._claim is not None
        children = {name: part.child.process for name, part in self._started}
        self._claim.name_children({name: each for name, each in children.items() if each})

    def _together(self, parts: Mapping[str, Part]) -> None:
        """Start `parts` at the same time; the first failure ends the rest and is raised."""
        if not parts:
            return
        self._started.extend(parts.items())
        with ThreadPoolExecutor(len(parts)) as pool:
            starts: list[Future[None]] = [
                pool.submit(self._start_one, name, part) for name, part in parts.items()
            ]
            try:
                left = set(starts)
                while left and not self._ending.is_set():
                    done, left = wait(left, timeout=_WATCH_S, return_when=FIRST_EXCEPTION)
                    for each in done:
                        each.result()
            except BaseException:
                self._ending.set()
                raise
            finally:
                if self._ending.is_set():
                    # A part that is still starting learns it from its next word of progress.
                    wait(starts)
        if self._ending.is_set():
            raise Interrupted("The start was interrupted; everything that had started has ended.")

    def _start_one(self, name: str, part: Part) -> None:
        part.start()
        if isinstance(part, Kafka):
            self._teller(name)("making the topics", None)
            address = {"QWARDEN_KAFKA__BOOTSTRAP_SERVERS": part.bootstrap}
            create_topics(self._home, {**self._given, **address})
        self._progress(name, "ready", 1.0)

    def _teller(self, name: str) -> Progress:
        def tell(message: str, fraction: float | None) -> None:
            if self._ending.is_set():
                raise Interrupted(
                    "The start was interrupted; everything that had started has ended."
                )
            self._progress(name, message, fraction)

        return tell

    def _content_key(self) -> str:
        return self._given.get("QWARDEN_CONTENT_KEY") or self._home.content_key()


def _checked(
    parts: Sequence[str], services: Sequence[str], settings: Mapping[str, str]
) -> frozenset[str]:
    wanted = frozenset(parts)
    if unknown := wanted - set(PARTS):
        raise StackError(f"There is no part {', '.join(sorted(unknown))}; there are {PARTS}.")
    if "kafka" not in wanted and "QWARDEN_KAFKA__BOOTSTRAP_SERVERS" not in settings:
        raise StackError("Name a broker with QWARDEN_KAFKA__BOOTSTRAP_SERVERS, or let one start.")
    if "triton" in wanted and not settings.get(GEN) and not settings.get(STREAM):
        raise StackError(f"Name a guard: `--guard DIR_OR_HUB_ID`, {GEN} or {STREAM}.")
    if "triton" in wanted or "QWARDEN_TRITON__URL" not in settings:
        for service in services:
            for guard in _GUARDS_OF[service]:
                if not settings.get(guard):
                    raise StackError(
                        f"The {service} needs a guard: `--guard DIR_OR_HUB_ID` or {guard}."
                    )
    return wanted


@contextmanager
def ended_by_signals(stack: Stack) -> Iterator[None]:
    """Let SIGINT, SIGTERM and SIGHUP end `stack` in order, a second one at once.

    For the main thread only, as Python's signal handlers are.
    """

    def cancel(number: int, frame: FrameType | None) -> None:
        stack.cancel()

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, cancel) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def run(stack: Stack, ready: Callable[[], None]) -> None:
    """Start `stack`, call `ready`, and stay until a signal ends it.

    Raises StackError if it does not start, or if a part of it ends by itself.
    """
    with ended_by_signals(stack), stack:
        ready()
        stack.wait()
