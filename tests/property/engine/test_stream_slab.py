"""Sessions open, grow and end in any order: each keeps what it holds, and what is free is found."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from examples import examples
from qwarden_engine.checkpoint import Config
from qwarden_engine.stream.slab import STEP, Slab, Slot

CONFIG = Config(
    layers=2,
    hidden=8,
    heads=2,
    kv_heads=2,
    head_dim=3,
    intermediate=8,
    vocabulary=8,
    context=4096,
    eps=1e-6,
    rope_theta=1e4,
    tied=True,
)

_acts = st.lists(
    st.tuples(st.sampled_from(("open", "grow", "free")), st.integers(0, 30), st.integers(1, 700)),
    max_size=60,
)


@dataclass(eq=False)
class _Held:
    """A slot and what its tokens were written with."""

    slot: Slot
    marks: list[float] = field(default_factory=list)


class _Sessions:
    def __init__(self, tokens: int) -> None:
        self.slab = Slab(CONFIG, tokens, torch.float32, torch.device("cpu"))
        self.slab.keys.fill_(-1.0)
        self.slab.values.fill_(-1.0)
        self.held: list[_Held] = []
        self._mark = 0.0

    def write(self, each: _Held, tokens: int) -> None:
        """Fills a slot up to so many tokens, each with a number of its own."""
        slot = each.slot
        for token in range(slot.used, tokens):
            self._mark += 1
            self.slab.keys[:, :, slot.start + token] = self._mark
            self.slab.values[:, :, slot.start + token] = -self._mark
            each.marks.append(self._mark)
        slot.used = tokens

    def check(self) -> None:
        slab = self.slab
        slots = sorted((each.slot for each in self.held), key=lambda slot: slot.start)
        assert all(slot.start % STEP == 0 == slot.room % STEP for slot in slots)
        assert all(one.end <= other.start for one, other in pairwise(slots))
        assert not slots or (slots[0].start >= 0 and slots[-1].end <= slab.total)
        assert slab.taken == sum(slot.room for slot in slots)
        assert slab.left == slab.total - slab.taken
        for each in self.held:
            assert each.slot.used == len(each.marks) <= each.slot.room
            marks = torch.tensor(each.marks)
            some = slice(each.slot.start, each.slot.start + each.slot.used)
            assert torch.equal(slab.keys[:, :, some], marks[:, None].expand(2, 2, -1, 3))
            assert torch.equal(slab.values[:, :, some], -marks[:, None].expand(2, 2, -1, 3))


@settings(max_examples=examples(150))
@given(_acts, st.sampled_from((5 * STEP, 12 * STEP + 17, 20 * STEP)))
def test_a_session_reads_what_another_has_written(
    acts: list[tuple[str, int, int]], tokens: int
) -> None:
    """Also refused only where there is not enough in all, wherever the gaps are."""
    sessions = _Sessions(tokens)
    for act, which, count in acts:
        each = sessions.held[which % len(sessions.held)] if sessions.held else None
        if act == "open":
            left = sessions.slab.left
            slot = sessions.slab.open(count)
            assert (slot is None) == (-(-count // STEP) * STEP > left)
            if slot is not None:
                assert slot.room >= count
                sessions.held.append(_Held(slot))
                sessions.write(sessions.held[-1], count)
        elif each is None:
            continue
        elif act == "grow":
            wanted = each.slot.used + count
            left, room = sessions.slab.left, each.slot.room
            grown = sessions.slab.grow(each.slot, wanted)
            assert grown == (-(-wanted // STEP) * STEP - room <= left)
            if grown:
                sessions.write(each, wanted)
        else:
            sessions.slab.free(each.slot)
            sessions.held.remove(each)
        sessions.check()


def test_more_neighbours_move_than_are_in_the_way() -> None:
    """One step is free behind the third of many slots: growing the second moves the third alone."""
    slab = Slab(CONFIG, 10 * STEP, torch.float32, torch.device("cpu"))
    slots = [slab.open(STEP) for _ in range(10)]
    for slot in slots:
        assert slot is not None
        slot.used = STEP
    fourth, second = slots[3], slots[1]
    assert fourth is not None
    assert second is not None
    slab.free(fourth)
    assert slab.grow(second, STEP + 1)
    assert slab.moved == STEP
    assert [slot.start for slot in slots if slot is not None and slot.room] == [
        at * STEP for at in (0, 1, 3, 4, 5, 6, 7, 8, 9)
    ]
