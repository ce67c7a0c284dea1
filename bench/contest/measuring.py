"""Contestants in turn on the same texts: who computes computes alone, and the order goes round."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from contest.child import Worker
from contest.rendering import Messages

Say = Callable[[str], None]


@dataclass(slots=True)
class Entrant:
    """A contestant in one cell. `options`: of its runs. `rounds`: how many it takes part in.

    `rates`: rows a second by round. `answers`, `more`: of each run. `sweep`: rates by batch.
    """

    name: str
    worker: Worker
    options: dict[str, Any]
    rounds: int
    rates: list[float] = field(default_factory=list)
    answers: list[list[dict[str, Any]]] = field(default_factory=list)
    more: list[dict[str, Any]] = field(default_factory=list)
    sweep: dict[int, float] = field(default_factory=dict)

    def find_batch(
        self, batches: Sequence[int], rows: Callable[[], list[Messages]], say: Say
    ) -> None:
        """Tries each size on texts of its own and keeps the fastest."""
        # Not counted: a first run also sets up kernels and, in vLLM, the prefix's blocks.
        self.worker.run(rows()[:2], **{**self.options, "batch": 2})
        for batch in batches:
            some = rows()
            seconds = self.worker.run(some, **{**self.options, "batch": batch})["seconds"]
            self.sweep[batch] = len(some) / seconds
            say(f"{self.name}: {self.sweep[batch]:.2f}/s in batches of {batch}")
        self.options["batch"] = max(self.sweep, key=lambda batch: self.sweep[batch])

    def take_part(self, rows: list[Messages]) -> None:
        """One round."""
        ran = self.worker.run(rows, **self.options)
        self.rates.append(len(rows) / ran["seconds"])
        self.answers.append(ran["answers"])
        self.more.append(ran["more"])

    def summary(self) -> dict[str, Any]:
        """For the results."""
        return {
            "rates": [round(rate, 3) for rate in self.rates],
            "median": round(statistics.median(self.rates), 3),
            **({"batch": self.options["batch"]} if "batch" in self.options else {}),
            **(
                {"sweep": {str(size): round(rate, 3) for size, rate in self.sweep.items()}}
                if self.sweep
                else {}
            ),
        }


def alternate(entrants: Sequence[Entrant], rounds: Sequence[list[Messages]], say: Say) -> None:
    """All rounds; who comes first moves on by one with each."""
    for number, rows in enumerate(rounds):
        first = number % len(entrants)
        for entrant in (*entrants[first:], *entrants[:first]):
            if number < entrant.rounds:
                entrant.take_part(rows)
        now = ", ".join(f"{e.name} {e.rates[number]:.2f}" for e in entrants if number < e.rounds)
        say(f"round {number + 1} of {len(rounds)}: {now} /s")


def ratio(ours: Entrant, peer: Entrant) -> dict[str, float]:
    """How many times as fast as a peer, round by round."""
    ratios = [ours.rates[at] / rate for at, rate in enumerate(peer.rates)]
    return {
        "median": round(statistics.median(ratios), 3),
        "least": round(min(ratios), 3),
        "most": round(max(ratios), 3),
        "rounds": len(ratios),
    }


def difference(ours: Entrant, peer: Entrant) -> dict[str, float | int]:
    """The largest and the mean difference of a score on the same rows, and how many rows have
    another likeliest word."""
    largest, total, rows, other = 0.0, 0.0, 0, 0
    for mine, theirs in zip(ours.answers, peer.answers, strict=False):
        for one, another in zip(mine, theirs, strict=True):
            pairs = list(zip(one["scores"], another["scores"], strict=True))
            apart = max(abs(a - b) for a, b in pairs)
            largest, total, rows = max(largest, apart), total + apart, rows + 1
            other += one["scores"].index(max(one["scores"])) != another["scores"].index(
                max(another["scores"])
            )
    return {"largest": largest, "mean": total / rows, "rows": rows, "another_word": other}
