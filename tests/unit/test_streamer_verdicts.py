"""What a session's verdicts say of what the guards said."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import pytest

from qwarden.contracts.chunk import Chunk
from qwarden.contracts.verdict import Action, Basis, Verdict
from qwarden.guard.answer import Answer, Failure, Triple
from qwarden.guard.conversation import Task
from qwarden.guard.debounce import Latch
from qwarden.guard.stream import Scored
from qwarden.language.eld import EldDetector
from qwarden.outcomes.source import Source
from qwarden.policy.policy import Policy
from qwarden.policy.sources import BUILT_IN, load
from qwarden.streamer.chunks import Placed
from qwarden.streamer.sessions import Cause, Open, Sessions
from qwarden.streamer.verdicts import (
    Judged,
    causes_of,
    ending_of,
    flag_of,
    tasks_left,
    verdict_of,
    wants_look,
    word_of,
)
from unit.builders import CONTROVERSIAL, KEY, REVISION, SAFE, UNSAFE, assessment, unanswered

STREAM = "stream@1"
RESPONSE = Task.RESPONSE


def session(answer: str = "one two three", *, cause: Cause | None = Cause.END) -> Open[Placed]:
    sessions: Sessions[Placed] = Sessions(
        gap_ms=10, max_age_ms=100, remembered=10, most_bytes=10_000
    )
    for seq, (role, text) in enumerate((("user", "how so?"), ("assistant", answer))):
        chunk = Chunk(session="s", tenant="demo", seq=seq, role=role, text=text, language="en")
        source = Source("content.chunks", 1, 10 + seq, 1_000, None, b"", ())
        found = sessions.take(Placed(source, 0.0, None, chunk=chunk)).session
    assert found is not None
    found.cause = cause
    return found


def latch(*tokens: Triple, policy: Policy = BUILT_IN["default"], task: Task = RESPONSE) -> Latch:
    made = Latch(policy.flags[task])
    for at, logits in enumerate(tokens):
        named = (("Violent", 0.9),) if logits != SAFE else ()
        made.see(Scored(task, 4 * at, 4 * at + 4, logits, named))
    return made


def verdict(
    *tokens: Triple, look: Answer | None = None, cause: str | None = None, **policy: Any
) -> Verdict:
    acting = BUILT_IN["default"]
    judged = Judged(RESPONSE, word_of(latch(*tokens)), STREAM, look, cause)
    return verdict_of(session(**policy), acting, judged, KEY, EldDetector())


def test_a_flag_gives_way_to_what_the_last_token_says() -> None:
    said = verdict(SAFE, UNSAFE, UNSAFE, SAFE)
    assert (said.safety, said.categories, said.action) == ("Unsafe", ["Violent"], Action.BLOCK)
    assert said.guard is not None and said.guard.revision == STREAM
    assert (said.event_id, said.task, said.language, said.edit) == ("s", "response", "en", 0)


def test_the_mildest_of_two_guards_stands() -> None:
    worse = verdict(SAFE, SAFE, look=assessment(UNSAFE, ("PII", 0.8)))
    assert (worse.safety, worse.categories) == ("Unsafe", ["PII"])
    assert worse.guard is not None and worse.guard.revision == REVISION
    flagged = verdict(UNSAFE, UNSAFE, look=assessment(SAFE))
    assert flagged.safety == "Unsafe"
    assert flagged.guard is not None and flagged.guard.revision == STREAM


def test_a_doubt_outlives_the_look_that_settles_it() -> None:
    assert verdict(SAFE, UNSAFE, look=assessment(SAFE)).safety == "Safe"
    assert verdict(SAFE, UNSAFE).safety == "Unsafe", "nobody looked"
    no_answer = verdict(SAFE, UNSAFE, look=unanswered(Failure.NO_ANSWER))
    assert (no_answer.basis, no_answer.action) == (Basis.DEGRADED, Action.REVIEW)


@pytest.mark.parametrize(
    ("failure", "cause"),
    [
        (Failure.TOO_LONG, "too_long"),
        (Failure.NO_ANSWER, "no_answer"),
        (Failure.CRASHED, "no_answer"),
        (Failure.REFUSED, "no_answer"),
    ],
)
def test_a_full_context_that_nobody_could_judge_is_safe(failure: Failure, cause: str) -> None:
    said = verdict(SAFE, SAFE, look=unanswered(failure), cause="too_long")
    assert (said.basis, said.cause, said.action) == (Basis.DEGRADED, cause, Action.REVIEW)
    assert (said.safety, said.scores, said.categories) == (None, None, None)


@pytest.mark.parametrize(
    ("look", "cause"), [(None, "incomplete"), (unanswered(Failure.NO_ANSWER), None)]
)
def test_a_flag_that_the_policy_allows_outweighs_what_nobody_judged(
    look: Answer | None, cause: str | None
) -> None:
    word = word_of(latch(CONTROVERSIAL, CONTROVERSIAL))
    judged = Judged(RESPONSE, word, STREAM, look, cause)
    said = verdict_of(session(), BUILT_IN["loose"], judged, KEY, EldDetector())
    assert (said.basis, said.action) == (Basis.DEGRADED, Action.REVIEW)


def test_a_full_context_is_what_the_stream_said_of_its_beginning() -> None:
    said = verdict(SAFE, UNSAFE, look=assessment(SAFE), cause="too_long")
    assert (said.safety, said.basis) == ("Safe", Basis.GUARD)
    assert verdict(UNSAFE, UNSAFE, look=assessment(SAFE), cause="too_long").safety == "Unsafe"


@pytest.mark.parametrize("cause", ["incomplete", "no_answer"])
def test_what_was_cut_off_is_safe_or_its_flag_is_forgotten(cause: str) -> None:
    said = verdict(SAFE, SAFE, cause=cause)
    assert (said.basis, said.cause, said.safety) == (Basis.DEGRADED, cause, None)
    assert said.action is Action.REVIEW
    doubtful = verdict(SAFE, UNSAFE, cause=cause)
    assert doubtful.basis is Basis.DEGRADED
    flagged = verdict(UNSAFE, UNSAFE, cause=cause)
    assert (flagged.basis, flagged.action) == (Basis.GUARD, Action.BLOCK)


def test_a_text_without_a_token_is_safe() -> None:
    said = verdict()
    assert (said.basis, said.cause) == (Basis.DEGRADED, "no_answer")


def test_two_verdicts_that_differ_have_one_id() -> None:
    ids = [
        verdict(SAFE, SAFE).verdict_id,
        verdict(SAFE, UNSAFE, UNSAFE).verdict_id,
        verdict(UNSAFE, UNSAFE).verdict_id,
        verdict(SAFE, SAFE, look=assessment(SAFE)).verdict_id,
        verdict(SAFE, SAFE, cause="incomplete").verdict_id,
        verdict(SAFE, SAFE, answer="another answer").verdict_id,
    ]
    assert len(set(ids)) == len(ids)
    assert verdict(SAFE, SAFE).verdict_id == ids[0]


def test_a_score_beside_a_number_of_the_policys_gives_one_id_two_actions() -> None:
    text = (
        "name: house\nextends: default\nrules: [{name: x, then: block, ground: law, clause: c,\n"
        "  when: {score: {flagged: {at_least: 0.8}}}}]\n"
    )
    house = load({"house": text}).policies["house"]

    def of(safe: float, look: Answer | None = None) -> Verdict:
        scores = (math.log(safe), math.log(1 - safe), math.log(1e-6))
        judged = Judged(RESPONSE, word_of(latch(scores, scores, policy=house)), STREAM, look)
        return verdict_of(session(), house, judged, KEY, EldDetector())

    below, over = of(0.201), of(0.199)
    assert (below.action, over.action) == (Action.REVIEW, Action.BLOCK)
    assert (below.safety, below.categories) == (over.safety, over.categories)
    assert below.verdict_id != over.verdict_id
    assert of(0.198).verdict_id == over.verdict_id, "no rule tells them apart"
    worse = assessment(UNSAFE)
    assert of(0.201, worse).verdict_id == of(0.199, worse).verdict_id, "the look decides"


def test_two_guards_that_may_each_stand_have_one_id() -> None:
    """Which of two that say Controversial is the worse hangs on a score."""
    look = assessment((0.0, 1.0, -9.0), ("PII", 0.8))
    streams, looks = (verdict((0.0, of, -9.0), (0.0, of, -9.0), look=look) for of in (1.01, 0.99))
    assert (streams.categories, looks.categories) == (["Violent"], ["PII"])
    assert streams.verdict_id != looks.verdict_id


def test_a_prompts_id_changes_with_the_answer_behind_it() -> None:
    def of(given: Open[Placed]) -> str:
        word = word_of(latch(SAFE, task=Task.PROMPT))
        return verdict_of(
            given, BUILT_IN["default"], Judged(Task.PROMPT, word, STREAM), KEY, EldDetector()
        ).verdict_id

    assert of(session("one")) == of(session("another"))


def test_who_is_asked_for_a_look() -> None:
    never, always = (
        load({"p": f"name: p\nextends: default\nfinal_look: {how}\n"}).policies["p"]
        for how in ("never", "always")
    )
    doubt = BUILT_IN["default"]
    sure, unsure = word_of(latch(SAFE, SAFE)), word_of(latch(SAFE, UNSAFE))
    assert [wants_look(each, sure, None) for each in (never, doubt, always)] == [False, False, True]
    assert [wants_look(each, unsure, None) for each in (never, doubt, always)] == [
        False,
        True,
        True,
    ]
    assert wants_look(never, sure, "too_long")
    assert not wants_look(always, None, "incomplete"), "the whole is not there"


def test_a_signal_says_where_to_cut() -> None:
    given = session("abcdefghijkl")
    made = latch(SAFE, CONTROVERSIAL, CONTROVERSIAL)
    assert made.raised is not None
    signal = flag_of(
        given, BUILT_IN["default"], RESPONSE, made.raised, STREAM, detector=EldDetector()
    )
    assert (signal.seq, signal.token, signal.char) == (1, 2, 8)
    assert (signal.safety, signal.action) == ("Controversial", Action.REVIEW)
    ended = ending_of(given, RESPONSE, made, "incomplete", STREAM)
    assert (ended.kind, ended.seq, ended.token, ended.char) == ("incomplete", 2, 3, 12)


def test_a_session_that_was_cut_off_owes_nothing() -> None:
    assert tasks_left(session(), prompt_is_out=True) == (RESPONSE,)
    assert tasks_left(session(), prompt_is_out=False) == (Task.PROMPT, RESPONSE)
    nothing_said = session("")
    assert tasks_left(nothing_said, prompt_is_out=True) == ()
    nothing_said.cause = Cause.GAP
    assert tasks_left(nothing_said, prompt_is_out=True) == (RESPONSE,)


def test_what_a_policys_rule_calls_safe_is_blocked_by_the_likeliest_word() -> None:
    text = (
        "name: calm\nextends: default\nflagging: {response: {rule: threshold, p: 0.99, run: 3}}\n"
    )
    calm = load({"calm": text}).policies["calm"]
    word = word_of(latch(SAFE, (0.0, -9.0, 1.0), policy=calm))
    assert word is not None
    assert (word.safety, word.category, word.in_doubt) == ("Safe", None, False)


def cut(*chunks: tuple[str, str, str], cause: Cause) -> Open[Placed]:
    """A session of these roles, segments and texts, from chunk 1 on where its beginning is gone."""
    sessions: Sessions[Placed] = Sessions(
        gap_ms=10, max_age_ms=100, remembered=10, most_bytes=10_000
    )
    for seq, (role, segment, text) in enumerate(chunks, start=1):
        fields = {"session": "s", "tenant": "demo", "seq": seq, "role": role, "text": text}
        chunk = msgspec.convert({**fields, "segment": segment}, Chunk)
        source = Source("content.chunks", 1, seq, 1_000, None, b"", ())
        found = sessions.take(Placed(source, 0.0, None, chunk=chunk)).session
    assert found is not None
    found.cause = cause
    return found


USER, THOUGHT, ANSWER = (
    ("user", "answer", "q"),
    ("assistant", "thinking", "t"),
    ("assistant", "answer", "a"),
)


@pytest.mark.parametrize(
    ("chunks", "cause", "prompt_is_out", "left"),
    [
        ([USER], Cause.GAP, False, (Task.PROMPT,)),
        ([THOUGHT], Cause.GAP, False, (Task.THINKING,)),
        ([ANSWER], Cause.REFUSED, False, (RESPONSE,)),
        ([ANSWER], Cause.REFUSED, True, (RESPONSE,)),
        ([THOUGHT], Cause.REFUSED, True, (RESPONSE,)),
        ([("system", "answer", "s")], Cause.GAP, False, (Task.PROMPT,)),
        ([THOUGHT, ANSWER], Cause.LOST, False, (RESPONSE, Task.THINKING)),
        ([("system", "answer", "s")], Cause.LOST, False, (Task.PROMPT,)),
        ([USER], Cause.END, False, ()),
    ],
)
def test_a_session_that_was_cut_off_owes_a_verdict_on_what_nobody_said(
    chunks: list[tuple[str, str, str]], cause: Cause, prompt_is_out: bool, left: tuple[Task, ...]
) -> None:
    """Nothing of these was applied: their chunk 0 is not there."""
    assert tasks_left(cut(*chunks, cause=cause), prompt_is_out=prompt_is_out) == left


@pytest.mark.parametrize(
    ("cause", "is_full", "causes"),
    [
        (Cause.END, False, {Task.PROMPT: None, RESPONSE: None}),
        (Cause.AGE, True, {Task.PROMPT: None, RESPONSE: "too_long"}),
        (Cause.GAP, True, {Task.PROMPT: None, RESPONSE: "incomplete"}),
        (Cause.REFUSED, True, {Task.PROMPT: "incomplete", RESPONSE: "incomplete"}),
        (Cause.NO_ANSWER, True, {Task.PROMPT: "no_answer", RESPONSE: "no_answer"}),
    ],
)
def test_a_prompt_that_was_judged_whole_is_called_incomplete_or_its_cut_answer_is_not(
    cause: Cause, is_full: bool, causes: dict[Task, str | None]
) -> None:
    heard = Latch(BUILT_IN["default"].flags[Task.PROMPT])
    heard.see(Scored(Task.PROMPT, 0, len("how so?"), SAFE, ()))
    latches = {Task.PROMPT: heard, RESPONSE: latch(SAFE)}
    found = causes_of(session(cause=cause), latches, is_full=is_full, prompt_is_out=False)
    assert found == causes
