"""Any exchange in any pieces is the template's rendering of the whole."""

from __future__ import annotations

import dataclasses
import functools

import msgspec
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from examples import examples
from qwarden.guard.stream import Part, Segment
from qwarden_engine.checkpoint import open_checkpoint
from qwarden_engine.stream.chat import Chat, Fed, Kind, Writer
from unit.engine.checkpoints import ROOT, STAND_IN

_WORDS = (
    "word", " ", "\n", "\n\n", "\r\n", "\t", "hello world, ", "it's", "'", "12", "!?", "...\n", "ß",
    "e\u0301", "d\u0301\u0323", "\u0301", "\u3000", "\u200d", "\u1112\u1161\u11ab", "नमस्ते", "สวัสดี",
    "你好，", "👩‍👩‍👧", "user", "assistant\n", "x" * 200, "\n" * 200,
)  # fmt: skip
_content = st.lists(
    st.one_of(st.sampled_from(_WORDS), st.text(st.characters(exclude_categories=["Cs"]))),
    max_size=8,
).map("".join)


def _exchange(turns: list[Kind], thought: bool, contents: list[str]) -> list[tuple[Kind, str]]:
    kinds = [Kind.USER, *turns, Kind.USER, *([Kind.THOUGHT] if thought else []), Kind.ANSWER]
    return [(kind, contents[at % len(contents)]) for at, kind in enumerate(kinds)]


_exchanges = st.builds(
    _exchange,
    st.lists(st.sampled_from([Kind.USER, Kind.EARLIER]), max_size=3),
    st.booleans(),
    st.lists(_content, min_size=1, max_size=5),
)
_cuts = st.lists(st.integers(0, 400), max_size=4)


@functools.cache
def _chat() -> Chat:
    template = (ROOT / "triton_models/stand_in/stream/chat_template.jinja").read_text()
    return Chat(dataclasses.replace(open_checkpoint(str(STAND_IN)), template=template))


def _parts(texts: list[tuple[Kind, str]], cuts: list[int]) -> list[Part]:
    judged = max(at for at, (kind, _) in enumerate(texts) if kind is Kind.USER)
    parts = []
    for at, (kind, text) in enumerate(texts):
        places = sorted(cut % (len(text) + 1) for cut in cuts)
        for start, end in zip([0, *places], [*places, len(text)], strict=True):
            parts.append(
                Part(
                    "user" if kind is Kind.USER else "assistant",
                    text[start:end],
                    segment=Segment.THINKING if kind is Kind.THOUGHT else Segment.ANSWER,
                    history=at < judged,
                )
            )
        parts[-1] = msgspec.structs.replace(parts[-1], end=True)
    return parts


def _written(parts: list[Part]) -> tuple[list[Fed], int]:
    writer = Writer(_chat())
    return [fed for part in parts for fed in writer.write(part)], writer.cuts


@settings(max_examples=examples(100))
@given(_exchanges, _cuts)
def test_a_session_depends_on_its_pieces(texts: list[tuple[Kind, str]], cuts: list[int]) -> None:
    assert _written(_parts(texts, cuts)) == _written(_parts(texts, []))


@functools.cache
def _markers() -> tuple[str, ...]:
    added = open_checkpoint(str(STAND_IN)).tokenizer.get_added_tokens_decoder()
    return tuple(token.content for token in added.values())


def _is_marked(text: str) -> bool:
    """Typed markers are structure to the whole rendering, and text to a session."""
    return any(marker in text for marker in _markers())


@settings(max_examples=examples(100))
@given(_exchanges, st.integers(1, 7))
def test_a_session_is_not_the_rendering_of_the_whole(
    texts: list[tuple[Kind, str]], length: int
) -> None:
    assume(not any(_is_marked(text) for _, text in texts))
    texts = texts[:length]
    while texts[-1][0] in (Kind.THOUGHT, Kind.EARLIER):  # nothing stands behind these as they are
        texts = texts[:-1]
    fed, cuts = _written(_parts(texts, []))
    if not cuts:
        assert _chat().whole_ids(texts)[: len(fed)] == [each.id for each in fed]


@settings(max_examples=examples(100))
@given(_exchanges, _cuts)
def test_a_character_that_is_judged_has_no_token(
    texts: list[tuple[Kind, str]], cuts: list[int]
) -> None:
    """All but the newlines that the template strips off a thought and before an answer."""
    fed, _ = _written(_parts(texts, cuts))
    judged = {kind: text for kind, text in texts if kind in (Kind.THOUGHT, Kind.ANSWER)}
    for kind, text in judged.items():
        task = _parts([(Kind.USER, ""), (kind, "")], [])[-1].task
        stripped = text.lstrip("\n")
        at = len(text) - len(stripped)
        stripped = stripped.rstrip("\n") if kind is Kind.THOUGHT else stripped
        end = at + len(stripped)
        for each in fed:
            if each.task is task:
                assert each.start <= at < each.end or (each.start < at and each.end == at)
                at = max(at, each.end)
        assert at == end or not stripped
