"""What the stream guard is asked and answers, on its way: nothing is lost or read wrongly."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwarden.guard.answer import Safety
from qwarden.guard.conversation import Task
from qwarden.guard.stream import Append, Appended, Part, Scored, Segment, Status

counts = st.integers(0, 2**31)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
parts = st.builds(
    Part,
    role=st.sampled_from(("user", "assistant")),
    text=texts,
    segment=st.sampled_from(Segment),
    end=st.booleans(),
    history=st.booleans(),
)
logits = st.tuples(*[st.floats(-50, 50, width=32)] * 3)
scored = st.builds(
    Scored,
    task=st.sampled_from(Task),
    start=counts,
    end=counts,
    logits=logits,
    categories=st.lists(st.tuples(texts, st.floats(0, 1)), max_size=2).map(tuple),
)


@given(
    st.builds(
        Append,
        tenant=texts,
        session=texts,
        offset=counts,
        parts=st.lists(parts, max_size=3).map(tuple),
        since=counts,
    )
)
def test_more_of_a_session_is_read_otherwise_than_it_was_sent(append: Append) -> None:
    assert Append.from_json(append.to_json()) == append


@given(
    st.builds(
        Appended,
        revision=texts,
        status=st.sampled_from(Status),
        reason=texts,
        scored=st.lists(scored, max_size=3).map(tuple),
        held=counts,
    )
)
def test_an_answer_is_read_otherwise_than_it_was_given(answer: Appended) -> None:
    assert Appended.from_json(answer.to_json()) == answer


@given(scored)
def test_the_likeliest_safety_has_not_the_highest_score(one: Scored) -> None:
    assert one.scores[tuple(Safety).index(one.safety)] == max(one.scores)
    assert sum(one.scores) == pytest.approx(1)


@pytest.mark.parametrize(
    ("part", "task"),
    [
        (Part("user", "a"), Task.PROMPT),
        (Part("user", "a", Segment.THINKING), Task.PROMPT),
        (Part("assistant", "a"), Task.RESPONSE),
        (Part("assistant", "a", Segment.THINKING), Task.THINKING),
        (Part("assistant", "a", Segment.THINKING, history=True), None),
        (Part("user", "a", history=True), None),
    ],
)
def test_a_text_is_judged_as_another_task(part: Part, task: Task | None) -> None:
    assert part.task is task


@pytest.mark.parametrize(
    ("append", "why"),
    [
        (Append("t", "s", -1, ()), "offset and since are counts"),
        (Append("t", "s", 0, (), since=-1), "offset and since are counts"),
        (Append("t", "s", 0, (Part("system", "a"),)), "the guard has no role 'system'"),
    ],
)
def test_an_append_that_is_none_is_judged(append: Append, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        Append.from_json(append.to_json())


def test_half_a_surrogate_pair_ends_the_engine() -> None:
    sent = b'{"tenant":"t","session":"s","offset":0,"parts":[{"role":"user","text":"\\ud800 a"}]}'
    with pytest.raises(ValueError, match="surrogate"):
        Append.from_json(sent)


@pytest.mark.parametrize("data", [b"", b"7", b"{}", b"\xff", b'{"revision":7}'])
def test_bytes_that_are_no_answer_are_read_as_one(data: bytes) -> None:
    for read in (Append.from_json, Appended.from_json):
        with pytest.raises(ValueError):
            read(data)
