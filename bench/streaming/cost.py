"""What an append costs at a place of a session: in the engine's network, in a bare loop of the same
matmuls, and where the whole is forwarded again."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.nn import functional

from qwarden_engine.attention import of_slab
from qwarden_engine.device import keep_memory
from qwarden_engine.stream import network as network_module
from qwarden_engine.stream.checkpoint import StreamCheckpoint
from qwarden_engine.stream.network import StreamNetwork, StreamSpan
from qwarden_engine.stream.slab import Slab, Slot


@dataclass(frozen=True, slots=True)
class Cost:
    """Seconds of one step: all of it, and attention's part with the masks that it needs."""

    whole: float
    attention: float

    @property
    def rest(self) -> float:
        return self.whole - self.attention


class Watch:
    """Puts a stopwatch around the attention of a step; some 30 readings a step cost nothing."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def of_slab(self, *given: Any) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
        began = time.perf_counter()
        attend = of_slab(*given)
        self.seconds += time.perf_counter() - began

        def timed(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
            began = time.perf_counter()
            out = attend(queries, keys, values)
            self.seconds += time.perf_counter() - began
            return out

        return timed


class Subject:
    """The network of a checkpoint in float32, set up as the engine does it, on so many threads of
    the CPU; and a slab with room for so many tokens, which is full of random numbers."""

    def __init__(self, checkpoint: StreamCheckpoint, tokens: int, threads: int) -> None:
        torch.set_num_threads(threads)
        keep_memory()
        cpu = torch.device("cpu")
        self.network = StreamNetwork(checkpoint, cpu, torch.float32, lambda _: None)
        self.slab = Slab(self.network.config, tokens, torch.float32, cpu)
        self._random = torch.Generator().manual_seed(0)
        for store in (self.slab.keys, self.slab.values):
            for layer in store:
                layer.normal_(generator=self._random)

    def ids(self, count: int) -> list[int]:
        size = (count,)
        ids = torch.randint(self.network.config.vocabulary, size, generator=self._random)
        return [int(each) for each in ids]

    def slots(self, count: int, position: int, room: int) -> list[Slot]:
        """Sessions that hold `position` tokens, with room for so many more."""
        slots = []
        for _ in range(count):
            slot = self.slab.open(position + room)
            assert slot is not None
            slot.used = position
            slots.append(slot)
        return slots

    def step(self, slots: Sequence[Slot], tokens: int, *, last: bool = False) -> Cost:
        """Appends so many tokens to each, all of them read, or the last one alone; then takes them
        back."""
        used = [slot.used for slot in slots]
        reads = (tokens - 1,) if last else range(tokens)
        spans = [StreamSpan(slot, self.ids(tokens), reads) for slot in slots]
        watch = Watch()
        with mock.patch.object(network_module, "of_slab", watch.of_slab):
            began = time.perf_counter()
            self.network.step(spans, self.slab)
            whole = time.perf_counter() - began
        for slot, held in zip(slots, used, strict=True):
            slot.used = held
        return Cost(whole, watch.seconds)

    def again(self, position: int) -> Cost:
        """The shipped way to one more token: all tokens up to it forwarded again, in one forward
        that keeps nothing. It goes through the engine's own layers, which is kind to it."""
        [slot] = self.slots(1, 0, position + 1)
        try:
            return self.step([slot], position + 1, last=True)
        finally:
            self.slab.free(slot)


class Bare:
    """A loop that is nothing but the same matmuls, each with the same packed weight, and one call
    of torch's attention over preallocated keys and values, which are the slab's own memory.
    """

    def __init__(self, subject: Subject, position: int, tokens: int) -> None:
        config = subject.network.config
        self._layers = subject.network.layers
        end = position + tokens
        self._kept = [
            (keys[None, :, :end], values[None, :, :end])
            for keys, values in zip(subject.slab.keys, subject.slab.values, strict=True)
        ]
        self._hidden = torch.randn(tokens, config.hidden)
        self._heads = (tokens, config.heads, config.head_dim)
        self._bias = None
        if tokens > 1:
            unseen = torch.ones(tokens, end, dtype=torch.bool).triu_(position + 1)
            self._bias = torch.zeros(tokens, end).masked_fill_(unseen, -torch.inf)

    @torch.inference_mode()
    def step(self) -> float:
        began = time.perf_counter()
        for layer, (keys, values) in zip(self._layers, self._kept, strict=True):
            queries = layer.query(self._hidden).view(self._heads).transpose(0, 1)[None]
            layer.key_value(self._hidden)
            attended = functional.scaled_dot_product_attention(
                queries, keys, values, attn_mask=self._bias, enable_gqa=True
            )
            layer.out(attended[0].transpose(0, 1).flatten(1))
            layer.gate(self._hidden)
            layer.down(layer.up(self._hidden))
        return time.perf_counter() - began


class Matmuls:
    """The matmuls alone: what the cores do of them at most."""

    def __init__(self, subject: Subject, tokens: int) -> None:
        config = subject.network.config
        self._layers = subject.network.layers
        self._hidden = torch.randn(tokens, config.hidden)
        self._attended = torch.randn(tokens, config.heads * config.head_dim)

    @torch.inference_mode()
    def step(self) -> float:
        began = time.perf_counter()
        for layer in self._layers:
            layer.query(self._hidden)
            layer.key_value(self._hidden)
            layer.out(self._attended)
            layer.gate(self._hidden)
            layer.down(layer.up(self._hidden))
        return time.perf_counter() - began
