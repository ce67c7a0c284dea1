"""A case: one record, read and sorted out before anything is asked. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import msgspec

from qwarden.contracts import confluent, topics
from qwarden.contracts.confluent import Reader
from qwarden.contracts.escalation import Content, content_of
from qwarden.contracts.event import Event, decode_event
from qwarden.contracts.headers import ORIGIN, event_attributes, header, parsed_origin
from qwarden.contracts.judged import conversations_of
from qwarden.contracts.keys import ContentKey
from qwarden.contracts.mapping import Mapped, Topic, json_document
from qwarden.contracts.refusal import ErrorClass, Refused
from qwarden.contracts.verdict import encode
from qwarden.control.overrides import Overridden
from qwarden.guard.conversation import Conversation, Task
from qwarden.guard.language import Language
from qwarden.language.port import Detector
from qwarden.language.telling import detector_version, language_of
from qwarden.outcomes.source import Source
from qwarden.policy.policy import Policy
from qwarden.policy.reading import NO_METADATA, Circumstances, plain_of
from qwarden.policy.tenants import Tenant, Tenants, policy_of


class Question(msgspec.Struct, frozen=True):
    """What the guard is asked for one task of a case: `row` is the conversation with the policy's
    views; `content_hash` is of the conversation alone. `language`: of the turn that is judged."""

    conversation: Conversation
    row: bytes
    content_hash: bytes
    language: Language
    detector: str
    """Which version of what has told the language; empty where it was given."""

    @property
    def task(self) -> Task:
        return self.conversation.task


class Case(msgspec.Struct, frozen=True):
    """One event with all that is known of it before the guard is asked.

    A deletion is not judged: it has no `policy` and no `questions`; every other has one a task.
    `value`: the event's, after decoding and mapping. `displaced_tenant`: the one that the record
    named, where its topic's settings name another. `overrides`: what people decided of content
    equal to that of each question; empty where of none.
    """

    source: Source
    value: bytes
    event: Event
    tenant: Tenant
    policy: Policy | None = None
    questions: tuple[Question, ...] = ()
    dropped: tuple[str, ...] = ()
    displaced_tenant: str | None = None
    overrides: tuple[Overridden | None, ...] = ()

    def override_of(self, question: Question) -> Overridden | None:
        """What a person decided of content equal to that of one of its questions."""
        return self.overrides[self.questions.index(question)] if self.overrides else None

    def content(self) -> Content:
        """What people are shown of it."""
        return content_of(self.event)

    def about(self, question: Question) -> Circumstances:
        """What rules may read of one of its tasks before anybody has judged it."""
        event = self.event
        names = self.policy.metadata if self.policy else ()
        return Circumstances(
            tenant=event.tenant,
            task=question.task.value,
            language=question.language.tag,
            origin=event.origin,
            reach=event.reach,
            metadata=plain_of(event.metadata, names) if names else NO_METADATA,
        )

    def is_expired(self, now: datetime) -> bool:
        return self.event.deadline is not None and self.event.deadline <= now


@dataclass(frozen=True, slots=True)
class Admission:
    """What decides whether a record is taken: the tenants, the content key, the byte limit; what
    tells languages; how the records of each topic are read that has settings of its own; and what
    reads the values of the schemas that are known by now."""

    tenants: Tenants
    keys: ContentKey
    max_event_bytes: int
    detector: Detector
    topics: Mapping[str, Topic] = field(default_factory=dict)
    readers: Mapping[int, Reader] = field(default_factory=dict)

    def unknown_schema(self, source: Source) -> int | None:
        """The id of a schema that must be learned before this record can be read."""
        topic = self.topics.get(source.topic)
        if topic is None or not topic.is_confluent or source.value is None:
            return None
        identity = confluent.schema_id(source.value)
        return None if identity in self.readers else identity

    def admit(self, source: Source, *, missing: Collection[int] = ()) -> Case:
        """Reads one record. Raises `Refused` with a sentence that names the fix.

        `missing`: schemas that the registry does not hold.
        """
        source.check_envelope()
        topic = self.topics.get(source.topic)
        if topic is not None:
            mapped = self._mapped(source, topic, missing)
        elif _is_of_others(source):
            raise Refused(
                ErrorClass.NOT_AN_EVENT,
                f"its topic {source.topic} has no topics/{source.topic}.yaml here, so that nothing "
                "says what its fields mean; add it, then replay this record",
            )
        else:
            mapped = self._plain(source)
        event, value = mapped.event, mapped.value
        tenant = self.tenants.of(event.tenant, event_id=event.event_id)
        displaced = mapped.displaced_tenant
        if event.deleted:
            return Case(source, value, event, tenant, displaced_tenant=displaced)
        policy = policy_of(tenant, event.policy, event_id=event.event_id)
        conversations, dropped = conversations_of(event)
        self._check_written_size(value, event, dropped)
        questions = tuple([self._question(each, policy, event) for each in conversations])
        return Case(source, value, event, tenant, policy, questions, dropped, displaced)

    def _plain(self, source: Source) -> Mapped:
        event = decode_event(
            source.value,
            max_bytes=self.max_event_bytes,
            headers=event_attributes(source.headers),
            tenants=self.tenants.known,
        )
        return Mapped(event, source.value or b"")

    def _mapped(self, source: Source, topic: Topic, missing: Collection[int]) -> Mapped:
        value = source.value
        if value is None:
            return topic.withdrawal(source.key)
        if len(value) > self.max_event_bytes:
            raise Refused(
                ErrorClass.TOO_LARGE,
                f"the record has {len(value):,} bytes and the limit is {self.max_event_bytes:,}; "
                "send less, or raise moderator.max_event_bytes and the topics' max.message.bytes",
                tenant=topic.tenant or "",
            )
        try:
            return topic.event(
                self._document(value, topic, missing),
                source.key,
                max_bytes=self.max_event_bytes,
                headers=event_attributes(source.headers),
                tenants=self.tenants.known,
            )
        except Refused as refused:
            refused.tenant = refused.tenant or topic.tenant or ""
            raise

    def _document(self, value: bytes, topic: Topic, missing: Collection[int]) -> Any:
        if not topic.is_confluent:
            return json_document(value)
        identity = confluent.schema_id(value)
        if identity is None:
            raise confluent.not_framed(value)
        if identity in missing and identity not in self.readers:
            raise confluent.unknown_schema(identity)
        return self.readers[identity](value)

    def _question(self, conversation: Conversation, policy: Policy, event: Event) -> Question:
        written = conversation.to_json()
        row = written[:-1] + policy.row_tail
        language = language_of(event.language, conversation, self.detector)
        detector = detector_version(language, self.detector)
        return Question(conversation, row, self.keys.content_hash(written), language, detector)

    def _check_written_size(self, value: bytes, event: Event, dropped: tuple[str, ...]) -> None:
        """Refuses what outgrows the limit where it is written again, as evidence: no topic would
        take it, and the record would never be done."""
        # Nothing grows fourfold (1e15 becomes 1000000000000000.0): most events need no look.
        if len(value) * 4 <= self.max_event_bytes:
            return
        written = len(encode(content_of(event))) + len(msgspec.json.encode(dropped))
        if written > self.max_event_bytes:
            raise Refused(
                ErrorClass.TOO_LARGE,
                f"the event has {written:,} bytes when its numbers are written out and its dropped "
                f"turns are named, and the limit is {self.max_event_bytes:,}; send less metadata "
                "and fewer turns",
                event_id=event.event_id,
                tenant=event.tenant,
            )


def _is_of_others(source: Source) -> bool:
    """Whether a record that came by the backlog stood first in a topic of others. A line of a file
    has its file's name for a topic, and no origin."""
    if source.topic in (topics.CONTENT, topics.BACKLOG):
        return False
    origin = parsed_origin(header(source.headers, ORIGIN))
    return origin is not None and origin[0] == source.topic
