"""Assessments in a cluster of Redis 6 or later, or Valkey: each is kept by the owner of its slot.

A cache may forget, so nothing is asked twice: a key that has moved, or whose owner is away, is one
that is not there. What the library's own client of clusters does instead, to try again and to wait
for a new owner, would hold up verdicts longer than judging anew.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import redis.asyncio as redis
from redis.crc import REDIS_CLUSTER_HASH_SLOTS as SLOTS
from redis.crc import key_slot
from redis.exceptions import AskError, MovedError, RedisError, TryAgainError

from qwarden.cache import codec, connecting
from qwarden.cache.outage import Rest
from qwarden.cache.port import CacheUnavailable
from qwarden.guard.answer import Assessment
from qwarden.redis_address import read_address
from qwarden.settings import Certificates

_log = logging.getLogger(__name__)

_LOOK_S = 1.0
"""How often it is asked who owns what while anything is known to have changed. A replica takes its
owner's place after cluster-node-timeout, some seconds."""

_Where = tuple[str, int]


class ClusterCache:
    """One request a batch to each node that owns any of its keys, all at once.

    `timeout_s` bounds each of them, and before the first the wait for who owns what. Keys of a node
    that does not answer are not there, and it is left alone for `pause_s`; the others go on. Raises
    `SettingsError` for certificates that cannot be used.
    """

    def __init__(
        self,
        url: str,
        *,
        ttl_s: int,
        timeout_s: float,
        pause_s: float,
        certificates: Certificates | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        address = read_address(url)
        self._first = address.servers
        self._arguments = {
            **connecting.arguments(address.is_encrypted, timeout_s, certificates),
            # Theirs is one for each reply, and costs more than the reply: 25 µs a key for 9.
            "socket_timeout": None,
            "ssl": address.is_encrypted,
            "username": address.username,
            "password": address.password,
        }
        self._shown_none = connecting.shows_none(url, certificates)
        self._ttl_s = ttl_s
        self._timeout_s = timeout_s
        self._pause_s = pause_s
        self._clock = clock
        self._nodes: dict[_Where, _Node] = {}
        self._owners: list[_Node | None] = []
        """By slot; empty until any node has told them."""
        self._has_changed = False
        self._looked_at = 0.0
        self._looking: asyncio.Task[str | None] | None = None

    async def get_many(self, keys: Sequence[bytes]) -> list[Assessment | None]:
        found: list[Assessment | None] = [None] * len(keys)

        async def read(node: _Node, mine: Sequence[int]) -> None:
            pipe = node.client.pipeline(transaction=False)
            for at in mine:
                pipe.get(codec.PREFIX + keys[at])
            for at, value in zip(mine, await self._said(node.reads, pipe), strict=True):
                if not isinstance(value, Exception):
                    found[at] = codec.decode(value)

        await self._ask(keys, read, lambda node: node.reads)
        return found

    async def put_many(self, entries: Sequence[tuple[bytes, Assessment]]) -> None:
        async def write(node: _Node, mine: Sequence[int]) -> None:
            pipe = node.client.pipeline(transaction=False)
            for at in mine:
                key, assessment = entries[at]
                pipe.set(codec.PREFIX + key, codec.encode(assessment), ex=self._ttl_s)
            await self._said(node.writes, pipe)

        await self._ask([key for key, _ in entries], write, lambda node: node.writes)

    async def close(self) -> None:
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)
        nodes, self._nodes, self._owners = self._nodes, {}, []
        for node in nodes.values():
            await node.client.aclose()

    async def _ask(
        self,
        keys: Sequence[bytes],
        work: Callable[[_Node, Sequence[int]], Any],
        rest_of: Callable[[_Node], Rest],
    ) -> None:
        """Does the work of each owner on the positions of its keys. Raises `CacheUnavailable` where
        no node of the cluster answers."""
        if not keys:
            return
        await self._know_owners()
        shares: dict[_Node, list[int]] = {}
        for at, key in enumerate(keys):
            owner = self._owners[key_slot(codec.PREFIX + key)]
            if owner is not None:
                shares.setdefault(owner, []).append(at)
        asked = [(node, mine) for node, mine in shares.items() if rest_of(node).may_ask()]
        await asyncio.gather(*(work(node, mine) for node, mine in asked))
        if all(rest_of(node).again_at is not None for node in self._nodes.values()):
            self._has_changed = True
            raise CacheUnavailable("no node of the cluster answers")

    async def _said(self, rest: Rest, pipe: Any) -> list[Any]:
        """What a node has answered to each request, an error too; whether it is left alone now."""
        count = len(pipe)
        try:
            async with asyncio.timeout(self._timeout_s):
                answers: list[Any] = await pipe.execute(raise_on_error=False)
        except (RedisError, OSError, TimeoutError) as error:
            self._has_changed = True
            rest.failed(CacheUnavailable(connecting.reason(error, shown_none=self._shown_none)))
            return [error] * count
        elsewhere = (MovedError, AskError, TryAgainError)
        self._has_changed |= any(isinstance(each, MovedError) for each in answers)
        refused = [
            each
            for each in answers
            if isinstance(each, Exception) and not isinstance(each, elsewhere)
        ]
        if refused and len(refused) == len(answers):
            self._has_changed = True
            rest.failed(CacheUnavailable(str(refused[0])))
        else:
            rest.answered()
        return answers

    # Who owns what.

    async def _know_owners(self) -> None:
        """Waits for them only where none are known yet, and no longer than for an answer. Raises
        `CacheUnavailable` where nobody says who owns what."""
        is_due = self._has_changed and self._clock() >= self._looked_at + _LOOK_S
        if (is_due or not self._owners) and (self._looking is None or self._looking.done()):
            self._looking = asyncio.create_task(self._look(), name="cache-owners")
        if not self._owners and self._looking is not None:
            # One look for all that wait; it goes on to the next node when they have given up.
            done, _ = await asyncio.wait({self._looking}, timeout=self._timeout_s)
            if not self._owners:
                said = [each.result() for each in done if not each.cancelled()]
                reason = said[0] if said else f"not within {self._timeout_s} s"
                raise CacheUnavailable(f"Redis does not say who owns what: {reason}")

    async def _look(self) -> str | None:
        """Asks one node after the other; why nobody says who owns what, where nobody does."""
        self._looked_at = self._clock()
        known = list(self._nodes)
        random.shuffle(known)
        reason = None
        for where in dict.fromkeys((*known, *self._first)):
            node = self._nodes.get(where) or self._node(where)
            try:
                client: Any = node.client  # this one of its calls has no types
                async with asyncio.timeout(self._timeout_s):
                    slots = await client.execute_command("CLUSTER", "SLOTS")
                ranges = _ranges(slots, asked=where[0])
            except (RedisError, OSError, TimeoutError, ValueError) as error:
                reason = f"{_name(where)}: {connecting.reason(error, shown_none=self._shown_none)}"
                continue
            finally:
                if self._nodes.get(where) is not node:
                    await node.client.aclose()
            if ranges:
                await self._settle(ranges)
                return None
            reason = f"{_name(where)}: it owns no slots yet and knows nobody who does"
        return reason

    async def _settle(self, ranges: Mapping[tuple[int, int], _Where]) -> None:
        owners: list[_Node | None] = [None] * SLOTS
        nodes: dict[_Where, _Node] = {}
        for (begin, end), where in ranges.items():
            node = nodes.setdefault(where, self._nodes.get(where) or self._node(where))
            owners[begin : end + 1] = [node] * (end + 1 - begin)
        gone = [node for where, node in self._nodes.items() if where not in nodes]
        if nodes.keys() != self._nodes.keys():
            _log.info("the cache is at %s", ", ".join(sorted(map(_name, nodes))))
        self._nodes, self._owners = nodes, owners
        # One that was met while it forms owns not all of its slots yet.
        self._has_changed = None in owners or any(
            rest.again_at is not None
            for node in nodes.values()
            for rest in (node.reads, node.writes)
        )
        for node in gone:
            await node.client.aclose()

    def _node(self, where: _Where) -> _Node:
        return _Node(where, self._arguments, self._pause_s, self._clock)


class _Node:
    """An owner of slots, and when it may be asked."""

    def __init__(
        self,
        where: _Where,
        arguments: Mapping[str, Any],
        pause_s: float,
        clock: Callable[[], float],
    ) -> None:
        host, port = where
        self.client = redis.Redis(host=host, port=port, **arguments)
        self.reads = Rest(f"reads at {_name(where)}", pause_s, clock)
        self.writes = Rest(f"writes at {_name(where)}", pause_s, clock)


def _ranges(slots: Any, *, asked: str) -> dict[tuple[int, int], _Where]:
    """Owners by their first and last slot, from the answer to CLUSTER SLOTS: ranges, each with its
    owner and then its replicas. `asked`: the host of who answers, which may not know its own name.

    Raises `ValueError` for another answer.
    """
    ranges = {}
    try:
        for begin, end, owner, *_ in slots:
            host = owner[0].decode() if owner[0] else asked
            if host != "?":  # of a node whose name is not known yet
                ranges[int(begin), int(end)] = (host, int(owner[1]))
    except (TypeError, AttributeError, IndexError, UnicodeDecodeError) as error:
        raise ValueError(f"an answer to CLUSTER SLOTS that is none: {error}") from None
    return ranges


def _name(where: _Where) -> str:
    return f"{where[0]}:{where[1]}"
