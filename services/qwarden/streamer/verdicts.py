"""From a session and what the guards said of it to its verdicts and signals. Pure: the same in, the
same out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import msgspec

from qwarden.contracts.keys import ContentKey
from qwarden.contracts.signal import Signal, SignalKind
from qwarden.contracts.verdict import SEVERITY, Basis, Verdict
from qwarden.guard.answer import SAFETIES, Answer, Assessment, Failure, Safety, Triple, Unanswered
from qwarden.guard.conversation import Task
from qwarden.guard.debounce import Latch, Raised
from qwarden.guard.language import UNKNOWN, Language
from qwarden.language.port import Detector
from qwarden.language.telling import detector_version, language_of
from qwarden.outcomes.said import (
    NOTHING,
    Said,
    facts_of,
    guard_of,
    policy_used,
    reading_of,
    said_of,
    scores_of,
    verdict_saying,
)
from qwarden.policy.policy import Decided, Policy
from qwarden.policy.reading import Circumstances, Reading
from qwarden.policy.reading import reading_of as read
from qwarden.streamer.chunks import Placed
from qwarden.streamer.sessions import Cause, Open

INCOMPLETE = "incomplete"
TOO_LONG = Failure.TOO_LONG.value
NO_ANSWER = Failure.NO_ANSWER.value


@dataclass(frozen=True, slots=True)
class Word:
    """What the stream guard says of one task: at the token that it flagged, else at the last one.
    `in_doubt`: the text ended on tokens that are not Safe, and too few for a flag."""

    safety: Safety
    scores: Triple
    category: str | None
    token: int
    is_flag: bool
    in_doubt: bool


def word_of(latch: Latch) -> Word | None:
    """What a task's tokens come to; None where there was none."""
    raised = latch.raised
    if raised is not None:
        return Word(raised.safety, raised.scores, raised.category, raised.token, True, False)
    last, safety = latch.last, latch.last_safety
    if last is None or safety is None:
        return None
    is_named = last.categories and safety is not Safety.SAFE
    category = last.categories[0][0] if is_named else None
    return Word(safety, last.scores, category, latch.tokens - 1, False, latch.ends_in_doubt)


@dataclass(frozen=True, slots=True)
class Judged:
    """One task of a session, as far as it is judged. `revision`: of the stream guard. `look`: what
    the guard that judges whole texts says, where it was asked. `cause`: why the session was not
    judged to its end, or None."""

    task: Task
    word: Word | None
    revision: str
    look: Answer | None = None
    cause: str | None = None


def wants_look(policy: Policy, word: Word | None, cause: str | None) -> bool:
    """Whether a task's whole text is shown to the other guard before its verdict."""
    if cause is not None:
        return cause == TOO_LONG
    if policy.final_look == "never":
        return False
    return policy.final_look == "always" or word is None or word.in_doubt


def verdict_of(
    session: Open[Placed],
    policy: Policy,
    judged: Judged,
    keys: ContentKey,
    detector: Detector,
) -> Verdict:
    """The verdict on one task.

    - Where the other guard looked, the worse of the two stands; in doubt, where the stream guard
      has no word of its own, and where its context was full, the other one's.
    - Where nobody has judged the whole, or the other guard was asked and has no answer, it is
      degraded; but what was flagged stays so, unless the policy does less about it than about
      what is not judged.
    """
    word, look = judged.word, judged.look
    revision = judged.revision
    basis, cause = Basis.GUARD, None
    language = _language(session, judged.task, detector)
    about = _about(session, judged.task, language)
    said, decided, answered_by = NOTHING, policy.unjudged(about), revision
    of_word: Decided | None = None
    if isinstance(look, Assessment):
        revision = f"{revision} {look.revision}".strip()
    stands = _standing(policy, about, judged)
    if isinstance(look, Assessment) and _look_stands(stands, look):
        said = said_of(look, look.safety)
        decided = policy.decide(reading_of(about, look))
        answered_by = look.revision
    elif stands is not None:
        decided = of_word = _decided_by(policy, about, stands)
        said = _said_by(stands)
    else:
        basis = Basis.DEGRADED
        cause = judged.cause or NO_ANSWER
        if isinstance(look, Unanswered):
            # What it refuses or dies of is no poison here: no record carries the whole.
            cause = TOO_LONG if look.failure is Failure.TOO_LONG else NO_ANSWER
    chunk = (session.beginning or session.first).chunk
    conversation = session.transcript.conversation(judged.task)
    written = conversation.to_json() if conversation.turns else None
    return verdict_saying(
        tenant=chunk.tenant,
        event_id=chunk.session,
        task=judged.task,
        key_id=keys.id,
        value=_value(session, judged.task, word, of_word),
        language=language.tag,
        confidence=language.confidence,
        detector=detector_version(language, detector),
        content_hash=keys.content_hash(written) if written else None,
        facts=facts_of(about),
        said=said,
        revision=revision,
        answered_by=answered_by,
        basis=basis,
        cause=cause,
        decided=decided,
        used=policy_used(policy, decided),
        dropped=session.transcript.dropped(judged.task),
    )


def flag_of(
    session: Open[Placed],
    policy: Policy,
    task: Task,
    raised: Raised,
    revision: str,
    *,
    detector: Detector,
) -> Signal:
    """The signal of a flag or its rise."""
    about = _about(session, task, _language(session, task, detector))
    decided = policy.decide(_reading(about, raised.safety, raised.scores, raised.category))
    tenant, name = session.key
    return Signal(
        tenant=tenant,
        session=name,
        task=str(task),
        kind=SignalKind(raised.kind),
        seq=session.transcript.seq_at(task, raised.end),
        token=raised.token,
        char=raised.start,
        safety=str(raised.safety),
        category=raised.category,
        cause=None,
        action=decided.action,
        guard=guard_of(revision),
        policy=policy_used(policy, decided),
    )


def ending_of(session: Open[Placed], task: Task, latch: Latch, cause: str, revision: str) -> Signal:
    """The signal that a task is not judged token by token any more."""
    closed = cause == TOO_LONG
    tenant, name = session.key
    last = latch.last
    char = last.end if last is not None else 0
    seq = session.expected
    if closed and session.transcript.length(task):
        seq = session.transcript.seq_at(task, char + 1)
    return Signal(
        tenant=tenant,
        session=name,
        task=str(task),
        kind=SignalKind.CLOSED if closed else SignalKind.INCOMPLETE,
        seq=seq,
        token=latch.tokens,
        char=char,
        safety=None,
        category=None,
        cause=cause,
        action=None,
        guard=guard_of(revision) if revision else None,
        policy=None,
    )


def causes_of(
    session: Open[Placed], latches: Mapping[Task, Latch], *, is_full: bool, prompt_is_out: bool
) -> dict[Task, str | None]:
    """The tasks whose verdicts a session owes when it is over, and why each was not judged to its
    end, or None. `is_full`: whether the stream guard's context is."""
    why, spares = None, False
    if session.cause is Cause.NO_ANSWER:
        why = NO_ANSWER
    elif session.cause is not None and not session.cause.is_complete:
        why, spares = INCOMPLETE, session.cause is Cause.GAP
    elif is_full:
        why, spares = TOO_LONG, True
    causes: dict[Task, str | None] = {}
    for task in tasks_left(session, prompt_is_out=prompt_is_out):
        heard = latches[task].last if task in latches else None
        is_whole = (
            heard is not None
            and heard.end == session.transcript.length(task)
            and session.transcript.has_ended(task)
        )
        causes[task] = None if spares and is_whole else why
    if session.cause is Cause.GAP and None in causes.values():
        causes[Task.RESPONSE] = INCOMPLETE  # what stood behind the gap
    return causes


def tasks_left(session: Open[Placed], *, prompt_is_out: bool) -> tuple[Task, ...]:
    """The tasks whose verdicts a session owes when it is over. One that was cut off has at least
    one: of what it was about to say."""
    left = tuple(t for t in session.transcript.tasks if not (t is Task.PROMPT and prompt_is_out))
    if left or session.cause is None or session.cause.is_complete:
        return left
    if session.cause is Cause.LOST and session.tasks_sent:
        return tuple(task for task in Task if task in session.tasks_sent)
    if prompt_is_out:
        return (Task.RESPONSE,)
    first = session.first.chunk
    if first.role != "assistant":
        return (Task.PROMPT,)
    return (Task.THINKING if first.segment == "thinking" else Task.RESPONSE,)


def _standing(policy: Policy, about: Circumstances, judged: Judged) -> Word | None:
    """The stream guard's word, where there is one that counts."""
    word, look = judged.word, judged.look
    if word is None:
        return None
    is_judged = judged.cause is None and not isinstance(look, Unanswered)
    if is_judged or not word.is_flag:
        return word if is_judged else None
    if isinstance(look, Assessment):
        return word
    flagged, unjudged = _decided_by(policy, about, word), policy.unjudged(about)
    return word if SEVERITY[flagged.action] >= SEVERITY[unjudged.action] else None


def _decided_by(policy: Policy, about: Circumstances, word: Word) -> Decided:
    return policy.decide(_reading(about, word.safety, word.scores, word.category))


def _look_stands(word: Word | None, look: Assessment) -> bool:
    if word is None or word.in_doubt:
        return True
    return _rank(look.safety, look.scores) > _rank(word.safety, word.scores)


def _rank(safety: Safety, scores: Triple) -> tuple[int, float]:
    return SAFETIES.index(safety), -scores[0]


def _language(session: Open[Placed], task: Task, detector: Detector) -> Language:
    """The session's own word, else what can be told of the task's text so far."""
    given = session.beginning.chunk.language if session.beginning else None
    conversation = session.transcript.conversation(task)
    if not conversation.turns:
        return UNKNOWN if given is None else Language(given)
    return language_of(given, conversation, detector)


def _about(session: Open[Placed], task: Task, language: Language) -> Circumstances:
    return Circumstances(session.key[0], task.value, language.tag)


def _reading(about: Circumstances, safety: Safety, scores: Triple, category: str | None) -> Reading:
    # The heads of the stream guard name a category whatever the score.
    named = () if category is None else (category,)
    return replace(read(about, safety, scores, named), categories=named)


def _said_by(word: Word) -> Said:
    is_named = word.safety is not Safety.SAFE and word.category is not None
    categories = [word.category] if is_named and word.category else []
    return Said(str(word.safety), scores_of(word.scores), categories)


def _value(session: Open[Placed], task: Task, word: Word | None, decided: Decided | None) -> bytes:
    """What an id holds of a session. `decided`: by the word's scores, where they were read: beside
    a number of the policy's a rebuild may put them on its other side."""
    latched: tuple[str | int | None, ...] | None = None
    if word is not None:
        latched = (str(word.safety), word.category, word.token)
        if decided is not None:
            latched = (*latched, decided.rule, str(decided.action))
    return msgspec.json.encode((session.transcript.value(task), latched))
