from __future__ import annotations

import unicodedata
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from qwarden.contracts.escalation import Content
from qwarden.contracts.event import Message, Part, Report
from qwarden.review.masking import MASK, masked, masked_text, shown

TEXTS = st.text(max_size=60)
METADATA = st.dictionaries(
    st.sampled_from(["room", "author", "kind"]),
    st.recursive(
        st.none() | st.booleans() | st.integers() | TEXTS,
        lambda inner: (
            st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "b"]), inner)
        ),
        max_leaves=6,
    ),
)
CONTENTS = st.builds(
    Content,
    messages=st.lists(
        st.builds(
            Message,
            role=st.sampled_from(["user", "assistant", "system"]),
            content=TEXTS
            | st.lists(st.builds(Part, type=st.just("text"), text=st.none() | TEXTS), max_size=3),
            reasoning=st.none() | TEXTS,
        ),
        max_size=3,
    ),
    context=st.none() | TEXTS,
    link=st.none() | TEXTS,
    reports=st.lists(st.builds(Report, reason=TEXTS, at=st.none()), max_size=2),
    metadata=METADATA,
)


def leaves(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [leaf for each in value.values() for leaf in leaves(each)]
    if isinstance(value, list):
        return [leaf for each in value for leaf in leaves(each)]
    return [] if value is None or isinstance(value, bool) else [str(value)]


def texts_of(content: Any) -> list[str]:
    texts = [each.content for each in content.messages]
    texts += [each.reasoning for each in content.messages if each.reasoning is not None]
    texts += [each for each in (content.context, content.link) if each is not None]
    return texts + [each.reason for each in content.reports] + leaves(content.metadata)


@given(TEXTS)
def test_a_letter_or_digit_shows_through_the_mask(text: str) -> None:
    hidden = masked_text(text)
    assert len(hidden) == len(text)
    for was, now in zip(text, hidden, strict=True):
        assert now in (was, MASK)
        assert now == MASK or not (was.isalnum() or unicodedata.category(was)[0] in "LMNS")


@given(TEXTS)
def test_a_masked_text_loses_its_lines_and_spaces(text: str) -> None:
    hidden = masked_text(text)
    assert [each.isspace() for each in text] == [each.isspace() for each in hidden]


@given(CONTENTS)
def test_some_field_of_content_is_shown_unmasked(content: Content) -> None:
    whole, hidden = shown(content), masked(content)
    assert hidden.is_masked and not whole.is_masked
    assert texts_of(hidden) == [masked_text(each) for each in texts_of(whole)]
    assert [each.role for each in hidden.messages] == [each.role for each in whole.messages]


def test_marks_and_joiners_show_the_shape_of_a_text() -> None:
    assert masked_text("हिन्दी, 👩‍👩‍👧! 12%") == "••••••, •••••! ••%"
