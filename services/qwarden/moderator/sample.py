"""What a sample record of a topic becomes: for the person who writes its mapping."""

from __future__ import annotations

import msgspec

from qwarden.contracts import topics
from qwarden.contracts.refusal import listed
from qwarden.moderator.case import Admission, Case
from qwarden.outcomes.source import Source
from qwarden.registry.schemas import Schemas


class UnknownTopic(ValueError):
    """The topic has no file; the message names those that have."""


async def case_of_sample(
    admission: Admission,
    schemas: Schemas | None,
    *,
    topic: str,
    value: bytes | None,
    key: bytes | None,
    within_s: float,
) -> Case:
    """The case that the moderator would make of this record. Raises `Refused` as it would,
    `UnknownTopic`, and `RegistryAway` where the registry does not answer `within_s` seconds."""
    if topic not in admission.topics and topic != topics.CONTENT:
        raise UnknownTopic(
            f"there is no topics/{topic}.yaml in QWARDEN_POLICY__PATH; there are "
            f"{listed(admission.topics)}"
        )
    source = Source(topic, 0, 0, 0, key, value, ())
    identity = admission.unknown_schema(source)
    if identity is None or schemas is None:
        return admission.admit(source)
    missing = await schemas.learn_within({identity}, within_s)
    return admission.admit(source, missing=missing)


def told(case: Case) -> dict[str, object]:
    """The event, the tasks that it is judged as (none: it withdraws its content), and the tenant
    that the record names where its topic's stands instead."""
    return {
        "event": msgspec.json.decode(case.value),
        "judged_as": [question.task for question in case.questions],
        "displaced_tenant": case.displaced_tenant,
    }


def described(case: Case) -> str:
    """The same for people: the event as JSON, and a line that says what becomes of it."""
    event = msgspec.json.format(case.value, indent=2).decode()
    tasks = ", ".join(question.task for question in case.questions)
    lines = [event, f"It is judged as {tasks}." if tasks else "It withdraws this content."]
    if case.displaced_tenant is not None:
        lines.append(
            f"The record names the tenant {case.displaced_tenant!r}; its topic's, "
            f"{case.event.tenant!r}, stands."
        )
    return "\n".join(lines)
