"""The client of the stream guard in cases of its own, in virtual time: who waits for whom, who
moves where, and what operators see."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable, Sequence
from itertools import pairwise
from typing import Any

import pytest
from prometheus_client import REGISTRY

from qwarden.guard.stream import Append, Part, Status
from qwarden.inference.memory_stream import MemoryStream
from qwarden.inference.port import GuardFailed, GuardUnavailable, Trouble
from qwarden.inference.rendezvous import owner_of
from qwarden.inference.replica import StreamLimits
from qwarden.inference.replicas import Addresses
from qwarden.inference.session import Session
from qwarden.inference.stream_client import StreamClient
from twin import clock

LIMITS = StreamLimits(
    appends_a_request=4,
    requests_in_flight=1,
    replay_tokens_a_second=100.0,
    leave_s=10.0,
    backoff_s=0.1,
    max_backoff_s=1.0,
    alone_s=60.0,
    alone_1000_tokens_s=20.0,
)
STEP_S = 0.05
"""What a request takes."""


class Guard(MemoryStream):
    """Takes `STEP_S`; `away` while it is so; `requests`: when each came, and what it was."""

    def __init__(self) -> None:
        super().__init__()
        self.away = False
        self.requests: list[tuple[float, Sequence[Append]]] = []
        self.timeouts: list[float | None] = []
        self.before = self._before

    async def append(self, appends: Sequence[Append], *, timeout_s: float | None = None) -> Any:
        self.timeouts.append(timeout_s)
        return await super().append(appends, timeout_s=timeout_s)

    async def _before(self, appends: Sequence[Append]) -> None:
        self.requests.append((time.monotonic(), appends))
        await asyncio.sleep(STEP_S)
        if self.away:
            raise GuardUnavailable("nobody is there")

    def asked(self) -> list[str]:
        """The sessions that it was asked about, in order."""
        return [each.session for _, appends in self.requests for each in appends if each.tenant]


class Fleet:
    """Guards by address, of which those in `known` are found."""

    def __init__(self, *known: str) -> None:
        self.known = frozenset(known)
        self.guards: dict[str, Guard] = {}
        self.client = StreamClient(
            self.guard_at, self._look, LIMITS, look_s=1.0, chance=lambda: 0.0
        )

    def guard_at(self, address: str) -> Guard:
        return self.guards.setdefault(address, Guard())

    async def _look(self) -> frozenset[str]:
        return self.known


def sessions_of(address: str, *addresses: str, count: int = 1) -> list[Session]:
    """Sessions that belong to this one of the addresses."""
    names = [name for n in range(200) if owner_of("t", name := f"s{n}", addresses) == address]
    return [Session("t", name) for name in names[:count]]


HELLO = (Part("user", "hello you", end=True), Part("assistant", "one two "))
MORE = (Part("assistant", "three "),)


def counted(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


def run(main: Callable[[], Awaitable[None]]) -> None:
    async def all_of_it() -> None:
        async with asyncio.timeout(3600):
            await main()

    clock.run(all_of_it)


def test_an_append_waits_for_others_while_the_guard_is_idle() -> None:
    fleet = Fleet("a:1")

    async def main() -> None:
        first, *others = sessions_of("a:1", "a:1", count=6)
        began = time.monotonic()
        await asyncio.gather(*[fleet.client.append(each, HELLO) for each in [first, *others]])
        assert [len(appends) for _, appends in fleet.guards["a:1"].requests] == [1, 4, 1]
        # The one that waits is sent when the one before it returns, and takes who waits along.
        assert time.monotonic() - began == pytest.approx(3 * STEP_S, abs=0.01)

    run(main)


def test_what_is_long_keeps_what_is_short_waiting() -> None:
    fleet = Fleet("a:1")

    async def main() -> None:
        short, other, long, lost = sessions_of("a:1", "a:1", count=4)
        for each in (short, other, lost):
            await fleet.client.append(each, HELLO)
        guard = fleet.guards["a:1"]
        guard.forget(("t", lost.session))
        guard.requests.clear()
        await asyncio.gather(
            fleet.client.append(lost, MORE),
            fleet.client.append(long, [Part("user", "word " * 300, end=True)]),
            fleet.client.append(short, MORE),
            fleet.client.append(other, MORE),
        )
        together = [{each.session for each in appends} for _, appends in guard.requests]
        assert {long.session} in together
        assert together.count({lost.session}) == 2  # once asked for its transcript, once sent it
        assert {short.session, other.session} in together

    run(main)


def test_a_restart_is_a_storm_of_replays() -> None:
    fleet = Fleet("a:1", "b:1")

    async def main() -> None:
        live = [Session("t", f"s{n}") for n in range(40)]
        await asyncio.gather(*[fleet.client.append(each, HELLO) for each in live])
        for guard in fleet.guards.values():
            guard.forget()
            guard.requests.clear()
        replays = counted("qwarden_stream_replays_total")
        tokens = counted("qwarden_stream_replayed_tokens_total")
        began = time.monotonic()
        await asyncio.gather(*[fleet.client.append(each, MORE) for each in live])
        took_s = time.monotonic() - began
        replayed = counted("qwarden_stream_replayed_tokens_total") - tokens
        assert counted("qwarden_stream_replays_total") - replays == len(live)
        assert replayed == 40 * 8  # of 17 bytes, and of 6
        most = max(len(guard.sessions) for guard in fleet.guards.values())
        assert took_s == pytest.approx(most * 8 / LIMITS.replay_tokens_a_second, rel=0.15)
        # One that begins meanwhile has not to wait for them.
        for guard in fleet.guards.values():
            guard.forget()
        storm = [asyncio.create_task(fleet.client.append(each, MORE)) for each in live]
        await asyncio.sleep(1)
        began = time.monotonic()
        await fleet.client.append(Session("t", "new"), HELLO)
        assert time.monotonic() - began < 3 * STEP_S
        await asyncio.gather(*storm)

    run(main)


def test_a_rebuilt_session_comes_before_its_turn_among_the_replays() -> None:
    fleet = Fleet("a:1")

    async def main() -> None:
        whole = [Part("user", "hello " * 50, end=True)]
        live = [Session("t", f"s{n}") for n in range(10)]
        began = time.monotonic()
        heard = await asyncio.gather(
            *[fleet.client.append(each, whole, replays=True) for each in live]
        )
        assert all(len(each.scored) == 1 for each in heard)
        # All but the last have their time behind them.
        assert time.monotonic() - began > 9 * 100 / LIMITS.replay_tokens_a_second

    run(main)


def test_sessions_of_a_replica_that_is_away_wait_for_ever_or_leave_at_once() -> None:
    fleet = Fleet("a:1", "b:1")

    async def main() -> None:
        changes: list[str | None] = []
        fleet.client.on_change = lambda: changes.append(fleet.client.outage)
        stays, moves = (sessions_of(at, "a:1", "b:1")[0] for at in ("b:1", "a:1"))
        for each in (stays, moves):
            await fleet.client.append(each, HELLO)
        here, there = fleet.guards["a:1"], fleet.guards["b:1"]
        here.away = True
        began = time.monotonic()
        await fleet.client.append(stays, MORE)
        assert time.monotonic() - began < 2 * STEP_S
        heard = await fleet.client.append(moves, MORE)
        assert [each.start for each in heard.scored] == [7]
        waited_s = time.monotonic() - began
        assert LIMITS.leave_s < waited_s < LIMITS.leave_s + 1
        assert moves.session in there.asked()
        assert not changes, "one replica of two is away, and the fleet is told of an outage"
        # It comes back, and its sessions to it.
        here.away = False
        await asyncio.sleep(2)
        asked = len(there.asked())
        await fleet.client.append(moves, MORE)
        assert len(there.asked()) == asked
        assert here.sessions >= {("t", moves.session)}

    run(main)


def test_an_outage_of_all_is_not_told_or_moves_sessions_about() -> None:
    fleet = Fleet("a:1", "b:1")

    async def main() -> None:
        changes: list[str | None] = []
        fleet.client.on_change = lambda: changes.append(fleet.client.outage)
        one, other = (sessions_of(at, "a:1", "b:1")[0] for at in ("a:1", "b:1"))
        for each in (one, other):
            await fleet.client.append(each, HELLO)
        for guard in fleet.guards.values():
            guard.away = True
        asked = [asyncio.create_task(fleet.client.append(each, MORE)) for each in (one, other)]
        await asyncio.sleep(60)
        assert [reason and "nobody" in reason for reason in changes] == [True]
        assert counted("qwarden_stream_replicas", state="away") == 2
        for guard in fleet.guards.values():
            guard.away = False
            guard.requests.clear()
        await asyncio.gather(*asked)
        assert changes[1:] == [None]
        assert fleet.client.outage is None

    run(main)


def test_what_is_under_way_to_a_replica_that_goes_is_lost() -> None:
    fleet = Fleet("a:1", "b:1")

    async def main() -> None:
        goes, waits = sessions_of("a:1", "a:1", "b:1", count=2)
        await fleet.client.append(goes, HELLO)
        gone = fleet.guards["a:1"]
        release = asyncio.Event()

        async def late(appends: Sequence[Append]) -> None:
            await release.wait()
            raise GuardUnavailable("it has gone", Trouble.FAILED)

        gone.before = late
        asked = [
            asyncio.create_task(fleet.client.append(goes, MORE)),
            asyncio.create_task(fleet.client.append(waits, HELLO)),
        ]
        await asyncio.sleep(0.1)
        fleet.known = frozenset({"b:1"})
        await asyncio.sleep(2)
        assert asked[1].done(), "what waited there waits on"
        assert not asked[0].done()
        release.set()
        heard = await asked[0]
        assert [each.start for each in heard.scored] == [7]
        assert fleet.guards["b:1"].sessions >= {("t", goes.session), ("t", waits.session)}

    run(main)


def test_a_guard_that_is_not_known_yet_is_a_fault() -> None:
    fleet = Fleet()

    async def main() -> None:
        asked = asyncio.create_task(fleet.client.append(Session("t", "s"), HELLO))
        await asyncio.sleep(30)
        assert fleet.client.outage == "no address of the stream guard is known"
        fleet.known = frozenset({"a:1"})
        assert (await asked).scored
        assert fleet.client.outage is None

    run(main)


def test_a_session_without_room_asks_for_it_without_pause_or_in_step_with_others() -> None:
    fleet = Fleet("a:1")

    async def main() -> None:
        first, second = sessions_of("a:1", "a:1", count=2)
        await fleet.client.append(first, HELLO)
        guard = fleet.guards["a:1"]
        guard.room = 1
        full = counted("qwarden_stream_appends_total", result="full")
        asked = asyncio.create_task(fleet.client.append(second, HELLO))
        await asyncio.sleep(10)
        came = [at for at, appends in guard.requests if appends[0].session == second.session]
        waits = [later - sooner - STEP_S for sooner, later in pairwise(came)]
        assert waits[:3] == pytest.approx([0.05, 0.1, 0.2], abs=1e-3)
        assert waits[-1] == pytest.approx(LIMITS.max_backoff_s / 2, abs=1e-3)
        assert counted("qwarden_stream_appends_total", result="full") - full == len(came)
        guard.forget(("t", first.session))
        assert (await asked).scored

    run(main)


def test_what_a_full_guard_did_not_take_is_counted_against_the_rate() -> None:
    fleet = Fleet("a:1")

    async def main() -> None:
        other, *lost = sessions_of("a:1", "a:1", count=8)
        for each in (other, *lost):
            await fleet.client.append(each, [Part("user", "hello " * 200, end=True)])
        guard = fleet.guards["a:1"]
        guard.forget(*[("t", each.session) for each in lost])
        guard.room = 1
        asked = [asyncio.create_task(fleet.client.append(each, MORE)) for each in lost]
        await asyncio.sleep(60)
        # It is known there, and not up to here. Each replay takes the rate 4 s, if it is taken.
        await guard.append([Append("t", other.session, 0, (Part("user", "hello"),))])
        began = time.monotonic()
        await fleet.client.append(other, MORE)
        assert time.monotonic() - began < 2
        guard.room = None
        await asyncio.gather(*asked)
        assert time.monotonic() - began > 6 * 4

    run(main)


def test_an_append_that_nobody_waits_for_is_sent() -> None:
    fleet = Fleet("a:1")

    async def main() -> None:
        first, second = sessions_of("a:1", "a:1", count=2)
        asked = [asyncio.create_task(fleet.client.append(each, HELLO)) for each in (first, second)]
        await asyncio.sleep(STEP_S / 2)
        asked[1].cancel()
        await asked[0]
        await asyncio.sleep(1)
        assert fleet.guards["a:1"].asked() == [first.session]
        assert (await fleet.client.append(second, HELLO)).scored

    run(main)


def test_two_appends_of_a_session_are_under_way() -> None:
    fleet = Fleet("a:1")

    async def main() -> None:
        session = Session("t", "s")
        asked = asyncio.create_task(fleet.client.append(session, HELLO))
        await asyncio.sleep(0)
        with pytest.raises(ValueError, match="join this one to the next"):
            await fleet.client.append(session, MORE)
        await asked

    run(main)


def test_nothing_is_asked_about() -> None:
    fleet = Fleet("a:1")

    async def main() -> None:
        assert (await fleet.client.append(Session("t", "s"), ())).scored == ()
        assert not fleet.guards

    run(main)


def test_a_closed_session_is_asked_about() -> None:
    fleet = Fleet("a:1")
    fleet.guards["a:1"] = guard = Guard()
    guard._context = 4

    async def main() -> None:
        session = Session("t", "s")
        heard = await fleet.client.append(session, [*HELLO, Part("assistant", "three four five")])
        assert heard.closed
        assert len(heard.scored) == 3
        asked = len(guard.requests)
        assert await fleet.client.append(session, MORE) == type(heard)((), True, "memory@0")
        assert len(guard.requests) == asked

    run(main)


def test_what_goes_alone_has_no_more_time_than_what_is_short() -> None:
    fleet = Fleet("a:1")

    async def main() -> None:
        session = Session("t", "s")
        await fleet.client.append(session, [Part("user", "word " * 300, end=True)])
        await fleet.client.append(session, MORE)
        guard = fleet.guards["a:1"]
        guard.forget()
        await fleet.client.append(session, MORE)
        assert guard.timeouts == [70.0, None, None, pytest.approx(60 + 20 * 0.504)]

    run(main)


def test_a_guard_that_cannot_answer_any_more_is_waited_for() -> None:
    fleet = Fleet("a:1")

    async def main() -> None:
        async def fails(appends: Sequence[Append]) -> None:
            raise GuardFailed("start it anew")

        fleet.guard_at("a:1").before = fails
        with pytest.raises(GuardFailed, match="start it anew"):
            await fleet.client.append(Session("t", "s"), HELLO)

    run(main)


def test_an_answer_too_few_is_heard_by_another_session() -> None:
    fleet = Fleet("a:1")

    async def main() -> None:
        guard = fleet.guard_at("a:1")
        whole = guard.append
        short = [True]

        async def one_less(appends: Sequence[Append], *, timeout_s: float | None = None) -> Any:
            answers = await whole(appends, timeout_s=timeout_s)
            return answers[:-1] if short and short.pop() else answers

        guard.append = one_less  # type: ignore[method-assign]
        heard = await asyncio.gather(
            *[fleet.client.append(each, HELLO) for each in sessions_of("a:1", "a:1", count=3)]
        )
        assert [len(each.scored) for each in heard] == [3, 3, 3]

    run(main)


def test_memory_that_is_full_is_taken_for_an_outage_that_goes_on() -> None:
    """The known good append finds no room either, and the guard is there."""
    fleet = Fleet("a:1")

    async def main() -> None:
        session = Session("t", "s")
        await fleet.client.append(session, HELLO)
        guard = fleet.guards["a:1"]
        guard.room, guard.away = 1, True
        asked = asyncio.create_task(fleet.client.append(session, MORE))
        await asyncio.sleep(5)
        guard.away = False
        began = time.monotonic()
        assert (await asked).scored
        assert time.monotonic() - began < LIMITS.max_backoff_s + 3 * STEP_S

    run(main)


def test_a_transcript_grows_with_the_pieces_in_which_it_came() -> None:
    session = Session("t", "s")
    fleet = Fleet("a:1")

    async def main() -> None:
        await fleet.client.append(session, [Part("user", "hel"), Part("user", "lo", end=True)])
        for word in ("one ", "two ", "three"):
            await fleet.client.append(session, [Part("assistant", word)])
        await fleet.client.append(session, [Part("assistant", "", end=True)])
        assert session.parts == (
            Part("user", "hello", end=True),
            Part("assistant", "one two three", end=True),
        )
        assert (session.sent, session.known, session.tokens) == (18, 18, 6)

    run(main)


async def test_a_name_that_stands_for_many_is_taken_for_one() -> None:
    names = {"guard": ["10.0.0.1", "10.0.0.2"], "other": ["10.0.0.3"], "six": ["fd00::1"]}

    async def getaddrinfo(host: str, port: str, **kind: Any) -> list[tuple[Any, ...]]:
        if host not in names:
            raise socket.gaierror(f"{host} is not known")
        four, six = socket.AF_INET, socket.AF_INET6
        return [
            (six if ":" in each else four, 1, 6, "", (each, int(port))) for each in names[host]
        ] + ([(six, 1, 6, "", ("fd00::9", int(port), 0, 0))] if host == "other" else [])

    loop = asyncio.get_running_loop()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "getaddrinfo", getaddrinfo, raising=False)
        look = Addresses(["guard:8001", "other:9001", "six:1"])
        there = {"10.0.0.1:8001", "10.0.0.2:8001", "10.0.0.3:9001", "[fd00::1]:1"}
        assert await look() == there
        names["guard"] = ["10.0.0.2", "10.0.0.4"]
        assert await look() == there - {"10.0.0.1:8001"} | {"10.0.0.4:8001"}
        del names["guard"]
        assert "10.0.0.4:8001" in await look(), "a name server that is away ends all sessions"


async def test_an_address_that_is_a_number_is_not_found() -> None:
    assert await Addresses(["127.0.0.1:8001", "[::1]:8002"])() == {"127.0.0.1:8001", "[::1]:8002"}
    assert await Addresses(["localhost:8001"])() == {"127.0.0.1:8001"}


def test_a_refused_known_good_append_closes_the_breaker() -> None:
    fleet = Fleet("a:1")

    async def main() -> None:
        guard = fleet.guard_at("a:1")
        await fleet.client.append(Session("t", "s"), HELLO)
        whole = guard._answer
        guard.away = True
        asked = asyncio.create_task(fleet.client.append(Session("t", "s2"), HELLO))
        await asyncio.sleep(1)

        def refuses(append: Append) -> Any:
            answer = whole(append)
            return answer if append.tenant else type(answer)("r", Status.REFUSED, "broken")

        guard.away, guard._answer = False, refuses  # type: ignore[method-assign]
        await asyncio.sleep(10)
        assert not asked.done()
        assert "broken" in (fleet.client.outage or "")
        guard._answer = whole  # type: ignore[method-assign]
        assert (await asked).scored

    run(main)
