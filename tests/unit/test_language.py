"""Tags of languages, and whose word counts."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwarden.guard.conversation import Conversation, Task, Turn
from qwarden.guard.language import Language, canonical, is_of
from qwarden.guard.normaliser import VERSION
from qwarden.language.eld import EldDetector
from qwarden.language.telling import detector_version, language_of


@pytest.mark.parametrize(
    ("given_tag", "written"),
    [
        ("en", "en"),
        ("EN", "en"),
        ("pt-br", "pt-BR"),
        ("pt_BR", "pt-BR"),
        (" de ", "de"),
        ("ZH-HANS-cn", "zh-Hans-CN"),
        ("es-419", "es-419"),
        ("iw", "he"),
        ("in-ID", "id-ID"),
        ("de-CH-1901", "de-CH-1901"),
        ("en-x-us-home", "en-x-us-home"),
        ("zxx", "zxx"),
    ],
)
def test_one_language_is_not_written_in_two_ways(given_tag: str, written: str) -> None:
    assert canonical(given_tag) == written


@pytest.mark.parametrize(
    "tag",
    ["", "und", "UND-Latn", "English", "e", "de--AT", "d3", "pt-", "русский", "\u0130n", "en\n-"],
)
def test_what_names_no_language_is_not_taken_for_one(tag: str) -> None:
    assert canonical(tag) is None


@given(st.from_regex(r"[a-zA-Z]{2,3}([-_][a-zA-Z0-9]{1,8}){0,4}", fullmatch=True))
def test_a_tag_that_is_written_well_is_not_rewritten(tag: str) -> None:
    written = canonical(tag)
    assert written is None or canonical(written) == written


@pytest.mark.parametrize(
    ("asked", "tag", "holds"),
    [
        ("pt", "pt-BR", True),
        ("pt-BR", "pt-BR", True),
        ("pt-br", "pt-BR", True),
        ("pt-BR", "pt", False),
        ("pt-BR", "pt-PT", False),
        ("pt", "pt", True),
        ("p", "pt", False),
        ("en", "eno", False),
        ("ms", "id", True),
        ("ms", "id-ID", True),
        ("ms-Latn", "id-Latn-ID", True),
        ("id", "ms", False),
        ("no", "nb-NO", True),
        ("zh", "yue-HK", True),
        ("zh", "zh-Hans", True),
        ("und", "und", True),
        ("en", "und", False),
    ],
)
def test_a_rule_for_a_language_does_not_miss_its_kinds_or_take_others(
    asked: str, tag: str, holds: bool
) -> None:
    assert is_of(asked, tag) is holds


class _Counting:
    """Knows one word, and which texts it was asked for."""

    version = "counting-1"

    def __init__(self) -> None:
        self.asked: list[str] = []

    def detect(self, texts: Sequence[str]) -> list[Language]:
        self.asked += texts
        return [
            Language("fr", 0.9) if "bonjour" in text else Language("und", 0.0) for text in texts
        ]


_ANSWERED = Conversation(
    Task.RESPONSE, (Turn("user", "How do you greet in French?"), Turn("assistant", "bonjour"))
)


@pytest.mark.parametrize("tag", ["pt-BR", "pt_br"])
def test_a_given_language_is_not_detected_again(tag: str) -> None:
    detector = _Counting()
    language = language_of(tag, _ANSWERED, detector)
    assert language == Language("pt-BR", None)
    assert detector.asked == []
    assert detector_version(language, detector) == ""


@pytest.mark.parametrize("tag", [None, "", "und", "English"])
def test_a_given_word_that_is_no_language_does_not_leave_it_unknown(tag: str | None) -> None:
    detector = _Counting()
    language = language_of(tag, _ANSWERED, detector)
    assert language == Language("fr", 0.9)
    assert detector_version(language, detector) == f"counting-1/{VERSION}"


def test_the_language_of_an_answer_is_not_that_of_its_question() -> None:
    detector = _Counting()
    language_of(None, _ANSWERED, detector)
    assert detector.asked == ["bonjour"]


def test_an_undetermined_language_does_not_hide_which_detector_said_so() -> None:
    detector = _Counting()
    conversation = Conversation(Task.PROMPT, (Turn("user", "12345"),))
    language = language_of(None, conversation, detector)
    assert language == Language("und", 0.0)
    assert detector_version(language, detector) == f"counting-1/{VERSION}"


@pytest.mark.parametrize(
    "hidden", ["wh\u200bere do y\u200bou l\u200bive n\u200bow", "whеrе dо yоu livе nоw"]
)
def test_words_that_hide_from_the_guard_hide_from_rules_of_their_language(hidden: str) -> None:
    conversation = Conversation(Task.PROMPT, (Turn("user", hidden),))
    assert language_of(None, conversation, EldDetector()).tag == "en"
