"""What is measured: how many texts, how often, in which batches, and the bars."""

from __future__ import annotations

from dataclasses import dataclass

SMALL = ("stand-in", "tiny")
NAMES = (*SMALL, "0.6B")

PEERS = {
    "scores": ("transformers forced", "vLLM forced"),
    "whole": ("transformers generate", "vLLM as documented"),
}
"""Whom the engine is compared with: reading scores only, and giving a whole answer."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One comparison. `rows` a round; `rounds` of the engine and the peer with a bar; the other
    peer takes part in the first `fewer` alone. `batches`: what the sweep of a peer tries, on
    `swept` rows."""

    rows: int
    rounds: int
    fewer: int
    batches: tuple[int, ...]
    swept: int


@dataclass(frozen=True, slots=True)
class Bar:
    """The engine is to be at least `least` times as fast as `peer`."""

    peer: str
    least: float


def cell(shape: str, texts: str, kind: str) -> Cell:
    """Small enough that all cells take about half an hour on two cores."""
    if shape in SMALL:
        if texts == "long":
            return Cell(10, 5 if kind == "scores" else 2, 2, (1, 5, 10), 10)
        return Cell(100, 5, 3, (16, 64, 100), 100) if kind == "scores" else _SMALL_WHOLE
    if texts == "long":
        return Cell(2, 4, 1, (1, 2), 2) if kind == "scores" else Cell(5, 1, 1, (5,), 2)
    if kind == "scores":
        return Cell(8, 10, 2, (2, 8), 8)
    return Cell(5, 3, 3, (2, 5), 5)


_SMALL_WHOLE = Cell(100, 3, 3, (16, 64, 100), 50)


def bars(shape: str, texts: str, kind: str) -> list[Bar]:
    """What the engine must reach, beside whom."""
    small = shape in SMALL
    if kind == "scores":
        if texts == "long":
            return [Bar("vLLM forced", 1.0 if small else 0.97)]
        return [Bar("vLLM forced", 1.2 if small else 0.97)]
    if texts == "long":
        return []
    return [
        Bar("transformers generate", 5.0 if small else 2.8),
        Bar("vLLM as documented", 3.0 if small else 1.8),
    ]


AGREEMENT = 1e-3
"""The most that a score of the engine may differ from a forced peer's, of one."""

THROUGH_TRITON = 0.95
"""Of the engine's own throughput, at saturation."""
