"""Jobs through the network: one forward for a micro-batch, and little more where it is wanted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from qwarden.guard.conversation import Task
from qwarden_engine.grammar import Draft, Grammar
from qwarden_engine.jobs import Job
from qwarden_engine.memory import COPIES
from qwarden_engine.model import Past, Prefix, Qwen3, Span
from qwarden_engine.packing import Sliced, blocks


@dataclass(frozen=True, slots=True)
class Part:
    """What is constant for one task: its grammar, its prefix's keys and values, its limit."""

    grammar: Grammar
    prefix: Prefix
    limit: int


class Judge:
    """Runs jobs. Holds the keys and values of the one row that is sliced.

    `padding`: slots that the last micro-batch's blocks had for rows that went on behind `Safety:`
    and that held no token in the end.
    """

    def __init__(self, model: Qwen3, parts: Mapping[Task, Part]) -> None:
        self._model = model
        self._parts = parts
        self._past: tuple[Job, Past] | None = None
        self.padding = 0

    def together(self, jobs: Sequence[Job], budget: int = 0) -> list[Draft]:
        """Drafts of a micro-batch, in the order of the jobs. `budget`: tokens that memory is
        counted for, where they are more than the jobs'."""
        order = sorted(range(len(jobs)), key=lambda at: (jobs[at].task, jobs[at].length))
        spans = [self._span(jobs[at]) for at in order]
        forwarded = self._model.forward(spans)
        self.padding = 0
        drafts: list[Draft] = [Draft()] * len(jobs)
        read = row = 0
        for task, group in groupby(order, key=lambda at: jobs[at].task):
            some = list(group)
            part = self._parts[task]
            end = read + len(some) * len(part.grammar.reads)
            made = part.grammar.drafts(forwarded.read[read:end])
            wanted = [at for at, draft in enumerate(made) if part.grammar.wants_categories(draft)]
            room = part.grammar.room
            lengths = [jobs[some[at]].length - part.grammar.guessed for at in wanted]
            most = COPIES * max(budget, forwarded.kept.length)
            for block in blocks([length + room for length in lengths], most) if wanted else ():
                cache = self._model.cache(
                    forwarded,
                    part.prefix,
                    [row + wanted[at] for at in block],
                    [lengths[at] for at in block],
                    room,
                )
                part.grammar.decode(cache, [made[wanted[at]] for at in block])
                self.padding += cache.padding
                del cache  # or it would stand beside the next block, which `need` does not count
            for at, draft in zip(some, made, strict=True):
                drafts[at] = draft
            read = end
            row += len(some)
        return drafts

    def slice(self, sliced: Sliced[Job]) -> Draft | None:
        """Runs the next slice; the draft behind the last one, else None. One that raised may be
        run again, from the same start."""
        job = sliced.job
        part = self._parts[job.task]
        if sliced.start == 0:
            self._past = None  # of a row that nobody waited for to its end
            self._past = (job, self._model.past(job.length + part.grammar.room))
        assert self._past is not None and self._past[0] is job
        past = self._past[1]
        past.length = sliced.start
        at_end = sliced.end == job.length
        grammar = part.grammar
        reads = tuple(sliced.end - sliced.start + read for read in grammar.reads)
        forwarded = self._model.forward(
            [Span(job.ids[sliced.start : sliced.end], part.prefix, reads if at_end else ())], past
        )
        if not at_end:
            return None
        [draft] = grammar.drafts(forwarded.read)
        if grammar.wants_categories(draft):
            cache = self._model.cache_of(past, part.prefix, job.length - grammar.guessed)
            grammar.decode(cache, [draft])
        self._past = None
        return draft

    @property
    def on_cuda(self) -> bool:
        return self._model.device.type == "cuda"

    def forget(self) -> None:
        """Drops what is held of a sliced row."""
        self._past = None

    def _span(self, job: Job) -> Span:
        part = self._parts[job.task]
        reads = tuple(job.length + read for read in part.grammar.reads)
        return Span(job.ids, part.prefix, reads)
