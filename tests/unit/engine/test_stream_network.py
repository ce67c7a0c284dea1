"""Appends in any pieces, beside any others, give what one full forward of `transformers` gives."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from qwarden_engine import layers
from qwarden_engine.stream.checkpoint import Head, open_stream_checkpoint
from qwarden_engine.stream.network import Logits, StreamNetwork, StreamSpan
from qwarden_engine.stream.slab import STEP, Slab, Slot
from unit.engine.checkpoints import REPLIES, ROOT, TEXTS, tensors_of
from unit.engine.stream_checkpoint import SHAPE_06B, random_stream_checkpoint

pytestmark = pytest.mark.parts  # transformers is slow

TOLERANCE = 1e-4
"""Of logits, in float32: what sums in another order lose."""

CPU = torch.device("cpu")
STREAM_STAND_IN = ROOT / "triton_models/stand_in/stream"


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Others compute on the same cores; threads then wait for each other, at each of many steps."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Both:
    """One checkpoint in this engine and in `transformers`, whose states go through the heads'
    arithmetic here."""

    def __init__(self, directory: Path) -> None:
        from transformers import Qwen3Model

        self.checkpoint = open_stream_checkpoint(str(directory))
        self.config = self.checkpoint.base.config
        self.ours = StreamNetwork(self.checkpoint, CPU, torch.float32, lambda _: None)
        self._backbone: Any = Qwen3Model.from_pretrained(directory, dtype=torch.float32)
        self._tensors = tensors_of(directory / "model.safetensors")
        self._random = torch.Generator().manual_seed(1)

    def ids(self, count: int) -> list[int]:
        size = self.config.vocabulary
        ids: list[int] = torch.randint(size, (count,), generator=self._random).tolist()
        return ids

    def slab(self, tokens: int = 4096) -> Slab:
        return Slab(self.config, tokens, torch.float32, CPU)

    @torch.no_grad()
    def expected(self, ids: Sequence[int]) -> Logits:
        """Both heads at every token of one text, from one forward."""
        states = self._backbone(torch.tensor([list(ids)])).last_hidden_state[0]
        some = [
            self._head(states, head) for head in (self.checkpoint.response, self.checkpoint.query)
        ]
        return Logits(*some[0], *some[1])

    def _head(self, states: Tensor, head: Head) -> tuple[Tensor, Tensor]:
        def of(name: str) -> Tensor:
            tensor: Tensor = self._tensors[head.tensor(name)].float()
            return tensor

        inner = states @ of("risk_level_category_pre").T
        inner = inner / (inner.square().mean(-1, keepdim=True) + self.config.eps).sqrt()
        inner = inner * of("risk_level_category_layernorm")
        risk = inner @ of("risk_level_head").T
        # Safe, Unsafe, Controversial in the file, as published.
        return risk[:, [0, 2, 1]], inner @ of("category_head").T


def all_of(slot: Slot, ids: Sequence[int]) -> StreamSpan:
    """Both heads at every new token."""
    return StreamSpan(slot, ids, range(len(ids)), range(len(ids)))


def pieces(ids: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    for at in range(0, len(ids), size):
        yield ids[at : at + size]


def joined(some: Sequence[Logits]) -> Logits:
    return Logits(
        *(
            torch.cat([getattr(each, name) for each in some])
            for name in ("risk", "categories", "query_risk", "query_categories")
        )
    )


def equal(ours: Logits, theirs: Logits, places: Sequence[int] | None = None) -> None:
    """The logits, and what is made of them: the likeliest."""
    for name in ("risk", "categories", "query_risk", "query_categories"):
        one, other = getattr(ours, name), getattr(theirs, name)
        other = other if places is None else other[list(places)]
        assert one.shape == other.shape
        assert one.dtype is torch.float32
        assert float((one - other).abs().max()) <= TOLERANCE
        assert torch.equal(one.argmax(1), other.argmax(1))


@pytest.fixture(scope="module", params=[1, 2, 3], ids=lambda layers: f"{layers} layers")
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Both:
    """One layer too: of the last one only what is read is computed."""
    folder = tmp_path_factory.mktemp("random")
    layers = request.param
    return Both(random_stream_checkpoint(folder, num_hidden_layers=layers, seed=layers))


def append(both: Both, slab: Slab, slot: Slot, ids: Sequence[int]) -> Logits:
    assert slab.grow(slot, slot.used + len(ids))
    return both.ours.step([all_of(slot, ids)], slab)


def opened(slab: Slab, tokens: int = 1) -> Slot:
    slot = slab.open(tokens)
    assert slot is not None
    return slot


@pytest.mark.parametrize("size", [1, 3, 16, 64, 300])
def test_another_size_of_append_gives_other_logits(both: Both, size: int) -> None:
    ids, slab = both.ids(300), both.slab()
    slot = opened(slab)
    ours = joined([append(both, slab, slot, some) for some in pieces(ids, size)])
    expected = both.expected(ids)
    equal(ours, expected)
    # Else equal verdicts say nothing.
    assert set(expected.risk.argmax(1).tolist()) == {0, 1, 2}


@pytest.mark.parametrize("size", [1, 16, 5000])
def test_another_size_of_append_gives_other_logits_of_the_stand_in(
    stand_in: Both, size: int
) -> None:
    """Exchanges as they are, so that tokens are about what was learnt."""
    tokenizer = stand_in.checkpoint.base.tokenizer
    for at, text in enumerate(TEXTS[:8]):
        said = "".join(REPLIES[(at + n) % 3] + " " for n in range(at))
        chat = f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n{said}<|im_end|>\n"
        ids = tokenizer.encode(chat, add_special_tokens=False).ids
        slab = stand_in.slab(1024)
        slot = opened(slab)
        ours = joined([append(stand_in, slab, slot, some) for some in pieces(ids, size)])
        equal(ours, stand_in.expected(ids))


@pytest.fixture(scope="module")
def stand_in() -> Both:
    return Both(STREAM_STAND_IN)


def test_a_session_beside_others_gets_other_logits(both: Both) -> None:
    """Sessions of many lengths, of which each step has some, by one token or many."""
    slab = both.slab(8192)
    texts = [both.ids(length) for length in (5, 40, 130, 131, 260, 300)]
    slots = [opened(slab) for _ in texts]
    given: list[list[Logits]] = [[] for _ in texts]
    sizes = [1, 7, 64, 2, 130, 1, 33, 16]
    for step in range(1000):
        spans, whose = [], []
        for at, (ids, slot) in enumerate(zip(texts, slots, strict=True)):
            some = ids[slot.used : slot.used + sizes[(step + 3 * at) % len(sizes)]]
            if some and (step + at) % 3:
                assert slab.grow(slot, slot.used + len(some))
                spans.append(all_of(slot, some))
                whose.append(at)
        if not spans:
            if all(slot.used == len(ids) for ids, slot in zip(texts, slots, strict=True)):
                break
            continue
        done = both.ours.step(spans, slab)
        start = 0
        for at, span in zip(whose, spans, strict=True):
            end = start + len(span.ids)
            given[at].append(
                Logits(
                    done.risk[start:end],
                    done.categories[start:end],
                    done.query_risk[start:end],
                    done.query_categories[start:end],
                )
            )
            start = end
    for ids, done_of in zip(texts, given, strict=True):
        equal(joined(done_of), both.expected(ids))


def test_a_replay_or_who_comes_into_its_place_gets_other_logits(both: Both) -> None:
    """The slot of a session that was dropped still has its keys in it."""
    slab = both.slab(3 * STEP)
    old, ids, other = both.ids(300), both.ids(200), both.ids(120)
    slot = opened(slab)
    append(both, slab, slot, old)
    slab.free(slot)
    # Another one comes first, then the session is sent again as a whole, and goes on.
    second = opened(slab)
    equal(append(both, slab, second, other), both.expected(other))
    slot = opened(slab)
    replayed = [append(both, slab, slot, ids[:150])]
    replayed += [append(both, slab, slot, some) for some in pieces(ids[150:], 7)]
    equal(joined(replayed), both.expected(ids))


def test_a_slot_that_was_moved_has_lost_something(both: Both) -> None:
    """Four sessions grow in turns until the slab is full, so that each moves, or is pushed."""
    slab = both.slab(10 * STEP)
    texts = [both.ids(length) for length in (250, 300, 256, 300)]
    slots = [opened(slab) for _ in texts]
    given: list[list[Logits]] = [[] for _ in texts]
    while any(slot.used < len(ids) for ids, slot in zip(texts, slots, strict=True)):
        for at, (ids, slot) in enumerate(zip(texts, slots, strict=True)):
            if some := ids[slot.used : slot.used + 29]:
                given[at].append(append(both, slab, slot, some))
    assert slab.moved > 0
    assert slab.left == 0
    for ids, done_of in zip(texts, given, strict=True):
        equal(joined(done_of), both.expected(ids))


def test_what_is_not_read_changes_what_is(both: Both) -> None:
    """A scaffold that nobody reads, one query, then an answer of which some tokens are read."""
    slab, other = both.slab(), both.ids(50)
    ids = both.ids(90)
    slot, beside = opened(slab, 90), opened(slab, 50)
    nothing = both.ours.step([StreamSpan(slot, ids[:20])], slab)
    assert [len(getattr(nothing, name)) for name in Logits.__slots__] == [0, 0, 0, 0]
    query = both.ours.step([StreamSpan(slot, ids[20:40], (), (19,))], slab)
    spans = [
        StreamSpan(beside, other),
        StreamSpan(slot, ids[40:], (3, 4, 30, 49), (0, 4)),
    ]
    rest = both.ours.step(spans, slab)
    expected = both.expected(ids)
    assert len(query.risk) == 0
    for ours, theirs in (
        (query.query_risk, expected.query_risk[[39]]),
        (query.query_categories, expected.query_categories[[39]]),
        (rest.risk, expected.risk[[43, 44, 70, 89]]),
        (rest.categories, expected.categories[[43, 44, 70, 89]]),
        (rest.query_risk, expected.query_risk[[40, 44]]),
    ):
        assert float((ours - theirs).abs().max()) <= TOLERANCE


def test_a_step_that_failed_cannot_be_taken_again(
    both: Both, monkeypatch: pytest.MonkeyPatch
) -> None:
    slab, ids = both.slab(), both.ids(60)
    slot = opened(slab, 60)
    both.ours.step([all_of(slot, ids[:40])], slab)
    finish = both.ours.finish

    def failing(hidden: Tensor, attended: Tensor, layer: layers.Layer) -> Tensor:
        if layer is both.ours.layers[-1]:
            raise RuntimeError("out of memory")
        return finish(hidden, attended, layer)

    monkeypatch.setattr(both.ours, "finish", failing)
    with pytest.raises(RuntimeError, match="out of memory"):
        both.ours.step([all_of(slot, ids[40:])], slab)
    assert slot.used == 40
    monkeypatch.undo()
    equal(both.ours.step([all_of(slot, ids[40:])], slab), both.expected(ids), range(40, 60))


@pytest.mark.parametrize("count", [0, 129])
def test_a_step_writes_over_the_neighbour(both: Both, count: int) -> None:
    slab = both.slab()
    slot = opened(slab)
    with pytest.raises(ValueError, match="grow it before the step"):
        both.ours.step([all_of(slot, both.ids(count))], slab)


def test_bfloat16_loses_more_than_its_rounding(both: Both) -> None:
    network = StreamNetwork(both.checkpoint, CPU, torch.bfloat16, lambda _: None)
    slab = Slab(both.config, 1024, torch.bfloat16, CPU)
    ids, slot = both.ids(300), opened(slab, 300)
    done = joined([network.step([all_of(slot, some)], slab) for some in pieces(ids, 16)])
    expected = both.expected(ids)
    for ours, theirs in ((done.risk, expected.risk), (done.categories, expected.categories)):
        assert float((ours - theirs).abs().mean()) <= 0.02 * float(theirs.std())


@pytest.mark.parametrize("size", [1, 16, 72])
def test_another_size_of_append_gives_other_logits_at_the_shape_of_06b(
    shape_06b: Callable[[], Both], size: int
) -> None:
    both = shape_06b()
    ids, slab = both.ids(72), both.slab(512)
    slot = opened(slab)
    ours = joined([append(both, slab, slot, some) for some in pieces(ids, size)])
    equal(ours, both.expected(ids))


@pytest.fixture(scope="module")
def shape_06b(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Both]:
    """The sizes of Qwen3-0.6B, but for its vocabulary and 26 of its 28 layers, which are nothing
    to what is compared: in two networks they were 4 GiB, and most of this file's time."""
    made: list[Both] = []

    def make() -> Both:
        if not made:
            sizes = {**SHAPE_06B, "vocab_size": 12_000, "num_hidden_layers": 2}
            folder = tmp_path_factory.mktemp("shape")
            directory = random_stream_checkpoint(folder, inner=512, dtype="bfloat16", **sizes)
            made.append(Both(directory))
        return made[0]

    return make
