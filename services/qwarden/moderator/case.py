"""A case: one record, read and sorted out before anything is asked. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import msgspec

from qwarden.contracts.escalation import Content, content_of
from qwarden.contracts.event import Event, decode_event
from qwarden.contracts.headers import event_attributes
from qwarden.contracts.judged import conversations_of
from qwarden.contracts.keys import ContentKey
from qwarden.contracts.refusal import ErrorClass, Refused
from qwarden.contracts.verdict import encode
from qwarden.guard.conversation import Conversation, Task
from qwarden.outcomes.source import Source
from qwarden.policy.policy import Policy
from qwarden.policy.tenants import Tenant, Tenants, policy_of


class Question(msgspec.Struct, frozen=True):
    """What the guard is asked for one task of a case: `row` is the conversation with the policy's
    views; `content_hash` is of the conversation alone."""

    conversation: Conversation
    row: bytes
    content_hash: bytes

    @property
    def task(self) -> Task:
        return self.conversation.task


class Case(msgspec.Struct, frozen=True):
    """One event with all that is known of it before the guard is asked.

    A deletion is not judged: it has no `policy` and no `questions`; every other has one a task.
    """

    source: Source
    event: Event
    tenant: Tenant
    policy: Policy | None = None
    questions: tuple[Question, ...] = ()
    dropped: tuple[str, ...] = ()

    def content(self) -> Content:
        """What people are shown of it."""
        return content_of(self.event)

    def is_expired(self, now: datetime) -> bool:
        return self.event.deadline is not None and self.event.deadline <= now


@dataclass(frozen=True, slots=True)
class Admission:
    """What decides whether a record is taken: the tenants, the content key, the byte limit."""

    tenants: Tenants
    keys: ContentKey
    max_event_bytes: int

    def admit(self, source: Source) -> Case:
        """Reads one record. Raises `Refused` with a sentence that names the fix."""
        source.check_envelope()
        event = decode_event(
            source.value,
            max_bytes=self.max_event_bytes,
            headers=event_attributes(source.headers),
            tenants=self.tenants.known,
        )
        tenant = self.tenants.of(event.tenant, event_id=event.event_id)
        if event.deleted:
            return Case(source, event, tenant)
        policy = policy_of(tenant, event.policy, event_id=event.event_id)
        conversations, dropped = conversations_of(event)
        self._check_written_size(source, event, dropped)
        questions = tuple([self._question(each, policy) for each in conversations])
        return Case(source, event, tenant, policy, questions, dropped)

    def _question(self, conversation: Conversation, policy: Policy) -> Question:
        written = conversation.to_json()
        row = written[:-1] + policy.row_tail
        return Question(conversation, row, self.keys.content_hash(written))

    def _check_written_size(self, source: Source, event: Event, dropped: tuple[str, ...]) -> None:
        """Refuses what outgrows the limit where it is written again, as evidence: no topic would
        take it, and the record would never be done."""
        # Nothing grows fourfold (1e15 becomes 1000000000000000.0): most events need no look.
        if len(source.value or b"") * 4 <= self.max_event_bytes:
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
