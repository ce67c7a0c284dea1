"""The records of the topics that have a file, read again as the moderator read them."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from qwarden.contracts.refusal import Refused
from qwarden.moderator.case import Admission
from qwarden.outcomes.source import Source
from qwarden.registry.schemas import Schemas


@dataclass(frozen=True, slots=True)
class Theirs:
    """What reads them. `schemas`: of the topics whose values are in the Confluent wire format.
    `within_s`: how long a registry may take for those of one poll; a person waits for it."""

    admission: Admission
    schemas: Schemas | None
    within_s: float = 30.0

    @property
    def topics(self) -> Collection[str]:
        return self.admission.topics.keys()

    async def learn(self, sources: Iterable[Source]) -> frozenset[int]:
        """Learns the schemas of these records; those that the registry does not hold. Raises
        `RegistryAway`."""
        found = {self.admission.unknown_schema(source) for source in sources}
        ids = [identity for identity in found if identity is not None]
        if self.schemas is None or not ids:
            return frozenset()
        return await self.schemas.learn_within(ids, self.within_s)

    def tasks_of(self, source: Source, missing: Collection[int]) -> tuple[str, ...]:
        """The tasks on which a record must get verdicts; none where its outcome is of the whole.
        `missing`: schemas that the registry does not hold."""
        try:
            case = self.admission.admit(source, missing=missing)
        except Refused:
            return ()
        return tuple(question.task.value for question in case.questions)
