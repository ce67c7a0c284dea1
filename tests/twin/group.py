"""A consumer group, as Kafka's coordinator keeps it for the classic protocol.

Every rebalance asks all members to join again; the leader, which is a member, assigns. A member
that does not join in time, does not send heartbeats, or leaves, is out, and its commits with it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from aiokafka import TopicPartition
from aiokafka.errors import (
    IllegalGenerationError,
    MemberIdRequired,
    NoError,
    RebalanceInProgressError,
    UnknownMemberIdError,
)

Code = int
OK: Code = NoError.errno
NEEDS_ID: Code = MemberIdRequired.errno
UNKNOWN: Code = UnknownMemberIdError.errno
OLD_GENERATION: Code = IllegalGenerationError.errno
REBALANCING: Code = RebalanceInProgressError.errno

Answer = asyncio.Future[Any]
Reply = Callable[..., Any]
"""Makes the response of a request's version from its fields."""


class Phase(Enum):
    EMPTY = "empty"
    PREPARING = "waits for all members to join"
    COMPLETING = "waits for the leader's assignment"
    STABLE = "stable"


@dataclass(slots=True)
class Member:
    """A consumer in the group. `join` and `sync`: its requests that wait for an answer."""

    id: str
    protocols: list[tuple[str, bytes]]
    session_s: float
    rebalance_s: float
    assignment: bytes = b""
    join: tuple[Answer, Reply] | None = None
    sync: tuple[Answer, Reply] | None = None
    session: asyncio.TimerHandle | None = None


@dataclass(slots=True)
class Group:
    """One group and its committed offsets."""

    name: str
    loop: asyncio.AbstractEventLoop
    phase: Phase = Phase.EMPTY
    generation: int = 0
    leader: str = ""
    protocol: str = ""
    members: dict[str, Member] = field(default_factory=dict)
    committed: dict[TopicPartition, int] = field(default_factory=dict)
    metadata: dict[TopicPartition, str] = field(default_factory=dict)
    """What stands beside each commit."""
    _promised: dict[str, asyncio.TimerHandle] = field(default_factory=dict)
    """Ids that were given out and have not joined: a rebalance waits for them too."""
    _named: int = 0
    _deadline: asyncio.TimerHandle | None = None

    # Joining.

    def join(self, request: Any, reply: Reply) -> Answer:
        answer = self.loop.create_future()
        session_s, rebalance_s = request.session_timeout / 1000, request.rebalance_timeout / 1000
        protocols = [(name, bytes(metadata)) for name, metadata in request.group_protocols]
        if not request.member_id:
            self._named += 1
            name = f"{self.name}-{self._named}"
            self._promised[name] = self.loop.call_later(session_s, self._forget, name)
            answer.set_result(reply(NEEDS_ID, -1, "", "", name, []))
            return answer
        promised = self._promised.pop(request.member_id, None)
        if promised is not None:
            promised.cancel()
            self.members[request.member_id] = Member(
                request.member_id, protocols, session_s, rebalance_s
            )
        member = self.members.get(request.member_id)
        if member is None:
            answer.set_result(reply(UNKNOWN, -1, "", "", request.member_id, []))
            return answer
        unchanged = promised is None and member.protocols == protocols
        member.protocols = protocols
        if unchanged and (
            self.phase is Phase.COMPLETING
            or (self.phase is Phase.STABLE and member.id != self.leader)
        ):
            answer.set_result(self._joined(member, reply))
            return answer
        member.join = (answer, reply)
        self._stop_session(member)
        self._prepare()
        return answer

    def _prepare(self) -> None:
        """A rebalance begins, or goes on."""
        if self.phase is not Phase.PREPARING:
            for member in self.members.values():
                self._answer_sync(member, REBALANCING)
            self.phase = Phase.PREPARING
            longest = max((each.rebalance_s for each in self.members.values()), default=0.0)
            self._deadline = self.loop.call_later(longest, self._complete)
        if not self._promised and all(each.join for each in self.members.values()):
            self._complete()

    def _complete(self) -> None:
        """Who has joined is the new generation; who has not is out."""
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        for member in [each for each in self.members.values() if each.join is None]:
            self._stop_session(member)
            del self.members[member.id]
        self.generation += 1
        if not self.members:
            self.phase = Phase.EMPTY
            return
        self.phase = Phase.COMPLETING
        if self.leader not in self.members:
            self.leader = next(iter(self.members))
        common = set.intersection(
            *({name for name, _ in m.protocols} for m in self.members.values())
        )
        self.protocol = next(n for n, _ in self.members[self.leader].protocols if n in common)
        for member in self.members.values():
            assert member.join is not None
            answer, reply = member.join
            member.join = None
            self._start_session(member)
            if not answer.done():
                answer.set_result(self._joined(member, reply))

    def _joined(self, member: Member, reply: Reply) -> Any:
        metadata = [
            (each.id, None, dict(each.protocols)[self.protocol]) for each in self.members.values()
        ]
        return reply(
            OK,
            self.generation,
            self.protocol,
            self.leader,
            member.id,
            metadata if member.id == self.leader else [],
        )

    def sync(self, request: Any, reply: Reply) -> Answer:
        answer = self.loop.create_future()
        refused = self._refuses(request.member_id, request.generation_id)
        if refused is None and self.phase is Phase.PREPARING:
            refused = REBALANCING
        if refused is not None:
            answer.set_result(reply(refused, b""))
            return answer
        member = self.members[request.member_id]
        self._start_session(member)
        if self.phase is Phase.STABLE:
            answer.set_result(reply(OK, member.assignment))
            return answer
        member.sync = (answer, reply)
        if member.id == self.leader:
            assignments = {name: bytes(data) for name, data in request.group_assignment}
            self.phase = Phase.STABLE
            for each in self.members.values():
                each.assignment = assignments.get(each.id, b"")
                self._answer_sync(each, OK)
        return answer

    def _answer_sync(self, member: Member, code: Code) -> None:
        if member.sync is not None:
            answer, reply = member.sync
            member.sync = None
            if not answer.done():
                answer.set_result(reply(code, b"" if code else member.assignment))

    # Staying and leaving.

    def heartbeat(self, member_id: str, generation: int) -> Code:
        refused = self._refuses(member_id, generation)
        if refused is not None:
            return refused
        if self.members[member_id].join is None:
            self._start_session(self.members[member_id])
        return REBALANCING if self.phase is Phase.PREPARING else OK

    def leave(self, member_id: str) -> Code:
        if member_id in self._promised:
            self._promised.pop(member_id).cancel()
            return OK
        if member_id not in self.members:
            return UNKNOWN
        self._expel(member_id)
        return OK

    def stop(self) -> None:
        """With its broker, which keeps members, generation and offsets, and no timer."""
        for member in self.members.values():
            self._stop_session(member)
            member.join = member.sync = None
        for promised in self._promised.values():
            promised.cancel()
        self._promised.clear()
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def start(self) -> None:
        """Sessions begin anew; a rebalance that was on its way begins again."""
        for member in self.members.values():
            self._start_session(member)
        if self.members and self.phase is not Phase.STABLE:
            self.phase = Phase.STABLE
            self._prepare()

    def _refuses(self, member_id: str, generation: int) -> Code | None:
        if member_id not in self.members:
            return UNKNOWN
        return None if generation == self.generation else OLD_GENERATION

    def _start_session(self, member: Member) -> None:
        self._stop_session(member)
        member.session = self.loop.call_later(member.session_s, self._expel, member.id)

    def _stop_session(self, member: Member) -> None:
        if member.session is not None:
            member.session.cancel()
            member.session = None

    def _forget(self, promised: str) -> None:
        del self._promised[promised]
        if self.phase is Phase.PREPARING:
            self._prepare()

    def _expel(self, member_id: str) -> None:
        member = self.members.pop(member_id)
        self._stop_session(member)
        self._answer_sync(member, UNKNOWN)
        self._prepare()

    # Offsets.

    def commit(
        self,
        member_id: str,
        generation: int,
        offsets: Sequence[tuple[TopicPartition, int]],
        metadata: Sequence[str],
    ) -> Code:
        """Checks who commits, and never which partitions it owns: that is the client's work."""
        outsider = generation < 0 and not member_id
        if outsider and self.members:
            return UNKNOWN
        if not outsider:
            refused = self._refuses(member_id, generation)
            if refused is not None:
                return refused
            self._start_session(self.members[member_id])
            if self.phase is Phase.COMPLETING:
                return REBALANCING
        self.committed.update(offsets)
        self.metadata.update(zip((each for each, _ in offsets), metadata, strict=True))
        return OK
