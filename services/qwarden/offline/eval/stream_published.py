"""Published figures of Qwen3Guard-Stream, to stand beside ours.

Sources: the technical report (arXiv 2510.14276), tables of section 4 (English response
classification, column Think) and its figure of detection latency, made with the script's rule;
what the README of the evaluation says that its commands print for 4B, under the names that the
modes have here (it prints them under each other's).
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType

SIZES: tuple[str, ...] = ("0.6B", "4B", "8B")


@dataclass(frozen=True, slots=True)
class Published:
    """Figures of one split of Qwen3GuardTest by size, None where none is published. `hit`, `soon`:
    see `Latency`; `bins`: rows in the order of `BINS`, empty where it is not published."""

    strict_f1: tuple[float | None, float | None, float | None] = (None, None, None)
    loose_f1: tuple[float | None, float | None, float | None] = (None, None, None)
    hit: tuple[float | None, float | None, float | None] = (None, None, None)
    soon: tuple[float | None, float | None, float | None] = (None, None, None)
    bins: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]] = ((), (), ())


PUBLISHED: MappingProxyType[str, Published] = MappingProxyType(
    {
        "thinking": Published(strict_f1=(0.816, 0.854, 0.836), loose_f1=(0.813, 0.852, 0.835)),
        "thinking_loc": Published(
            strict_f1=(None, 0.8755, None),
            loose_f1=(None, 0.8733, None),
            hit=(0.2091, 0.2162, 0.0470),
            soon=(0.7838, 0.6678, 0.6467),
            bins=(
                (),
                (98, 123, 96, 41, 22, 32, 31, 126),
                (25, 27, 96, 94, 126, 82, 27, 92),
            ),
        ),
        "response_loc": Published(
            strict_f1=(None, 0.9676, None),
            loose_f1=(None, 0.9489, None),
            hit=(0.8352, 0.8598, 0.8536),
            soon=(0.9041, 0.9373, 0.9212),
            bins=((), (39, 699, 21, 2, 1, 0, 0, 51), ()),
        ),
    }
)
"""By the names of the splits. A file is taken for that which it looks like: thoughts or answers
alone, and `_loc` where every row is Unsafe."""


def published_of(split: str) -> Published:
    return PUBLISHED.get(split, Published())


def published_latency_of(task: str) -> Published:
    """What is published of where flags fall, which is of the rows that say where they should."""
    return PUBLISHED[f"{task}_loc"]
