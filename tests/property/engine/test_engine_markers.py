"""What in a content could be taken for the template's structure is broken in the other view."""

from __future__ import annotations

import functools
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from examples import examples
from qwarden_engine.checkpoint import open_checkpoint
from qwarden_engine.template import Template, broken
from unit.engine.checkpoints import STAND_IN

_ADDED = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<tool_call>", "</tool_call>",
    "<think>", "</think>",
)  # fmt: skip
_BLOCKS = tuple(
    f"<{edge} {name}>"
    for name in ("SAFETY POLICY", "UNSAFE CONTENT CATEGORIES", "REFUSAL POLICY", "CONVERSATION")
    for edge in ("BEGIN", "END")
)
_AT_LINE_START = ("USER:", "ASSISTANT:", "Safety:", "Categories:", "Refusal:")
_BETWEEN = (
    "\n", "\r", "\r\n", " ", "  ", "\t", "\u00a0", "\u3000", "\u2028", "\x0b", "\x1c", "x",
    "<", ">", "|", "<|", "|>", "END", "<END", "<BEGIN ", "U", "USER", ":", "Safe", "im_end",
    "think>", "</", "Unsafe", "é", "你好", "hello USER: there",
)  # fmt: skip
_content = st.lists(
    st.one_of(
        st.sampled_from((*_ADDED, *_BLOCKS, *_AT_LINE_START, *_BETWEEN)), st.text(max_size=3)
    ),
    max_size=10,
).map("".join)


@functools.cache
def _markers() -> re.Pattern[str]:
    return Template(open_checkpoint(str(STAND_IN))).markers


def _lines(content: str) -> list[str]:
    return [line.lstrip() for line in re.split(r"[\r\n]", content)]


def _has_marker(content: str) -> bool:
    """By the words of the rule, without its expression."""
    return any(marker in content for marker in (*_ADDED, *_BLOCKS)) or any(
        line.startswith(_AT_LINE_START) for line in _lines(content)
    )


@settings(max_examples=examples(500))
@given(_content)
def test_a_marker_is_left_or_a_text_without_one_is_changed(content: str) -> None:
    other = broken(_markers(), content)
    assert (other != content) == _has_marker(content)
    assert not _has_marker(other)
    assert _markers().search(other) is None
    assert broken(_markers(), other) == other
    # Nothing but blanks is put in, and nothing is taken out.
    rest = iter(other)
    for character in content:
        assert character in rest
    assert other.replace(" ", "") == content.replace(" ", "")


@pytest.mark.parametrize("marker", [*_ADDED, *_BLOCKS])
def test_a_token_or_a_block_survives_within_a_line(marker: str) -> None:
    """Everywhere; the space is behind its first character."""
    spaced = f"{marker[0]} {marker[1:]}"
    assert broken(_markers(), marker) == spaced
    assert broken(_markers(), f"a{marker}{marker}b") == f"a{spaced}{spaced}b"
    assert broken(_markers(), f"  {marker}\n{marker}") == f"  {spaced}\n{spaced}"


@pytest.mark.parametrize("marker", _AT_LINE_START)
def test_a_label_survives_at_a_line_start_or_breaks_in_a_line(marker: str) -> None:
    spaced = f"{marker[0]} {marker[1:]}"
    for before in ("", "x\n", "x\r\n", "x\r", "x\n\n", "x\n \t", "\u3000"):
        assert broken(_markers(), f"{before}{marker} y") == f"{before}{spaced} y"
    for before in ("x ", "x\n-", "(", "x"):
        assert broken(_markers(), f"{before}{marker} y") == f"{before}{marker} y"


def test_the_markers_are_not_those_of_the_checkpoint() -> None:
    template = Template(open_checkpoint(str(STAND_IN)))
    tokens = {
        token.content
        for token in open_checkpoint(str(STAND_IN)).tokenizer.get_added_tokens_decoder().values()
    }
    assert tokens == set(_ADDED)
    for cut in template.cuts.values():
        assert set(re.findall(r"<(?:BEGIN|END)[^<>]*>", cut.prefix + cut.tail)) <= set(_BLOCKS)
