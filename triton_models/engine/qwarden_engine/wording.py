"""What of a checkpoint is text: its template, the words of its answers, and the room they leave."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from qwarden.guard.conversation import Task
from qwarden_engine.checkpoint import Checkpoint, CheckpointError
from qwarden_engine.template import Template
from qwarden_engine.words import Ids, Words, words_of


@dataclass(frozen=True, slots=True)
class Wording:
    """`limits`: tokens that a conversation may have, by task: the context less template and
    answer."""

    checkpoint: Checkpoint
    template: Template
    words: Mapping[Task, Words]
    limits: Mapping[Task, int]

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> Self:
        """Reads and checks it. Raises `CheckpointError`."""
        template = Template(checkpoint)
        words = {task: words_of(checkpoint, template, task) for task in Task}
        limits = {task: _limit(checkpoint, template, words[task], task) for task in Task}
        return cls(checkpoint, template, words, limits)

    @property
    def read(self) -> Ids:
        """Every id whose logit is read for any task, each once."""
        return tuple(dict.fromkeys(i for task in Task for i in self.words[task].read))

    def prefix(self, task: Task) -> Ids:
        """The ids of what stands before each conversation of a task."""
        return self.template.cuts[task].prefix_ids


def _limit(checkpoint: Checkpoint, template: Template, words: Words, task: Task) -> int:
    cut = template.cuts[task]
    fixed = len(cut.prefix_ids) + len(cut.tail_ids) + len(template.plain_ids(cut.joined))
    fixed += len(words.forced) + words.room
    limit = checkpoint.config.context - fixed
    if limit < 1:
        raise CheckpointError(
            f"{checkpoint.config_file}: expected max_position_embeddings above the {fixed} tokens "
            f"that template and answer take, not {checkpoint.config.context}"
        )
    return limit
