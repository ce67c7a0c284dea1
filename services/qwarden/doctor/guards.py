"""Whether the replicas of a guard answer, and as one. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from qwarden.doctor.durations import span
from qwarden.doctor.finding import Findings

SLOW_S = 5.0
"""Of one short question. A busy guard takes it between two batches; what takes longer is worth a
look at its queue."""


@dataclass(frozen=True, slots=True)
class ReplicaFacts:
    """One Triton. `revision`: of the guard that answered, None where none did; `took_s`: its answer
    to one short text; `trouble`: why there is none, else empty."""

    address: str
    revision: str | None
    took_s: float
    trouble: str = ""


def judge(found: Findings, replicas: Sequence[ReplicaFacts], *, model: str) -> None:
    """The replicas of one model, at least one of them."""
    for each in replicas:
        about = f"{model} at {each.address}"
        if each.trouble:
            found.away(about, each.trouble)
        elif each.took_s > SLOW_S:
            found.note(
                about,
                f"revision {each.revision}; one short text took {span(each.took_s)}: it is busy, "
                "or too small for its load (docs/runbooks/triton-saturated.md)",
            )
        else:
            found.good(about, f"revision {each.revision}; one short text took {span(each.took_s)}")
    revisions: dict[str, list[str]] = {}
    for each in replicas:
        if each.revision is not None:
            revisions.setdefault(each.revision, []).append(each.address)
    if len(revisions) > 1:
        told = "; ".join(f"{name}: {', '.join(at)}" for name, at in sorted(revisions.items()))
        found.wrong(
            model,
            f"its replicas are {len(revisions)} different guards ({told}): the same content gets "
            "different answers, and the cache is kept for each; let the roll-out end, or set one "
            "model and revision for all",
        )
