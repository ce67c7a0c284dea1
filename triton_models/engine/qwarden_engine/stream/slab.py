"""Where the keys and values of all sessions lie: one block of memory, a stretch of it a session.

Slots begin and end at steps of 128 tokens, so that every gap is of use to somebody. A slot that
grows stays where it is if the gap behind it is wide enough, else it moves into the first gap that
is; where there is none, its neighbours are pushed together, as few of them as it takes.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from qwarden_engine.checkpoint import Config

STEP = 128
"""Tokens by which slots grow. At 0.6B 14 MiB in bfloat16; more is memory that waits for tokens,
less is more moves."""


@dataclass(slots=True, eq=False)
class Slot:
    """A stretch of the slab: `room` tokens from `start`, of which the first `used` are held. The
    slab alone changes `start` and `room`; `used` grows by what is computed."""

    start: int
    room: int
    used: int = 0

    @property
    def end(self) -> int:
        return self.start + self.room


class Slab:
    """Room for the keys and values of at most so many tokens: a whole number of steps.

    `keys`, `values`: [layers, K, total, D]. A head's tokens lie together, since attention reads
    one head after the other. `taken`: tokens of the rooms of all slots. `moved`: tokens that were
    copied because a slot moved, so far.
    """

    def __init__(
        self, config: Config, tokens: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        self.total = tokens // STEP * STEP
        shape = (config.layers, config.kv_heads, self.total, config.head_dim)
        self.keys = torch.empty(shape, dtype=dtype, device=device)
        self.values = torch.empty(shape, dtype=dtype, device=device)
        self.bytes_a_token = config.kv_numbers * dtype.itemsize
        self.taken = 0
        self.moved = 0
        self._slots: list[Slot] = []

    @property
    def left(self) -> int:
        """Tokens that no slot has."""
        return self.total - self.taken

    def open(self, tokens: int) -> Slot | None:
        """A slot for so many tokens; None where they are not free."""
        room = _steps(tokens)
        if room > self.left:
            return None
        start = self._gap(room)
        slot = Slot(self.total if start is None else start, 0)
        self._insert(slot)
        self._widen(slot, room)
        return slot

    def grow(self, slot: Slot, tokens: int) -> bool:
        """Room for so many tokens in all; False, and nothing changed, where they are not free."""
        room = _steps(tokens)
        if room <= slot.room:
            return True
        if room - slot.room > self.left:
            return False
        at = self._slots.index(slot)
        behind = self._slots[at + 1].start if at + 1 < len(self._slots) else self.total
        if slot.start + room > behind and (start := self._gap(room)) is not None:
            del self._slots[at]
            self._move(slot, start)
            self._insert(slot)
        self._widen(slot, room)
        return True

    def free(self, slot: Slot) -> None:
        """Gives up what a slot has; it must not be used again."""
        self._slots.remove(slot)
        self.taken -= slot.room
        slot.room = slot.used = 0

    def _gap(self, room: int) -> int | None:
        """Where the first gap of that width begins."""
        end = 0
        for slot in self._slots:
            if slot.start - end >= room:
                return end
            end = slot.end
        return end if self.total - end >= room else None

    def _insert(self, slot: Slot) -> None:
        insort(self._slots, slot, key=lambda each: (each.start, each.room))

    def _widen(self, slot: Slot, room: int) -> None:
        """Gives a slot its room, which must be free in all; pushes neighbours where it is not free
        beside it: those behind it as far as they go, then those before it."""
        at = self._slots.index(slot)
        before, behind = self._slots[:at], self._slots[at + 1 :]
        free_behind = self.total - slot.end - sum(each.room for each in behind)
        added = room - slot.room
        start = slot.start - max(0, added - free_behind)
        for each, to in _pushed_down(before, start):
            self._move(each, to)
        for each, to in _pushed_up(behind, start + room):
            self._move(each, to)
        self._move(slot, start)
        slot.room = room
        self.taken += added

    def _move(self, slot: Slot, to: int) -> None:
        if to != slot.start and slot.used:
            self.moved += slot.used
            for store in (self.keys, self.values):
                for layer in store:
                    # A copy between, as the two stretches may overlap.
                    held = layer[:, slot.start : slot.start + slot.used].clone()
                    layer[:, to : to + slot.used] = held
        slot.start = to


def _pushed_down(slots: Sequence[Slot], limit: int) -> list[tuple[Slot, int]]:
    """Which of the slots before a limit must begin where, to end before it: the first one first,
    so that each moves into what is free by then."""
    moves: list[tuple[Slot, int]] = []
    for slot in reversed(slots):
        if slot.end <= limit:
            break
        limit -= slot.room
        moves.append((slot, limit))
    return moves[::-1]


def _pushed_up(slots: Sequence[Slot], limit: int) -> list[tuple[Slot, int]]:
    """Likewise of the slots behind a limit, to begin behind it: the last one first."""
    moves: list[tuple[Slot, int]] = []
    for slot in slots:
        if slot.start >= limit:
            break
        moves.append((slot, limit))
        limit += slot.room
    return moves[::-1]


def _steps(tokens: int) -> int:
    return -(-max(1, tokens) // STEP) * STEP
