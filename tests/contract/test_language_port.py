"""One contract for every detector of languages."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwarden.guard.language import UNDETERMINED, canonical, is_of
from qwarden.language.eld import EldDetector
from qwarden.language.port import Detector
from unit.short_texts import NO_LANGUAGE, TEXTS, lines

DETECTORS: dict[str, Detector] = {"eld": EldDetector()}
# Hindi and Marathi share most words of a short text; the detector is not sure of every one.
TOLD_AT_LEAST = {"hi": 5}

each_detector = pytest.mark.parametrize("detector", DETECTORS.values(), ids=DETECTORS)
_any_text = st.text(st.characters(exclude_categories=()), max_size=300)


@each_detector
@pytest.mark.parametrize("tag", TEXTS)
def test_a_short_text_is_not_said_to_be_in_another_language(detector: Detector, tag: str) -> None:
    texts = TEXTS[tag].splitlines()
    said = [language.tag for language in detector.detect(texts)]
    told = [each for each in said if each != UNDETERMINED]
    assert all(is_of(each, tag) for each in told), list(zip(texts, said, strict=True))
    assert len(texts) == 10 and len(told) >= TOLD_AT_LEAST.get(tag, 9)


@each_detector
@pytest.mark.parametrize("text", NO_LANGUAGE)
def test_what_is_in_no_language_is_not_guessed(detector: Detector, text: str) -> None:
    (language,) = detector.detect([text])
    assert (language.tag, language.confidence) == (UNDETERMINED, 0.0)


@each_detector
@pytest.mark.parametrize(
    "text",
    ["Habari ya asubuhi rafiki yangu", "Bore da, sut wyt ti heddiw?", "សួស្တី តើអ្នកសុខសប្បាយទេ",
     "Sawubona, unjani namhlanje", "asdkjh qwe zxmnb qpwoei"],
)  # fmt: skip
def test_a_language_that_the_detector_does_not_know_is_not_guessed(
    detector: Detector, text: str
) -> None:
    assert detector.detect([text])[0].tag == UNDETERMINED


@each_detector
def test_an_address_does_not_make_a_text_english(detector: Detector) -> None:
    german = "Wo ist die Apotheke?"
    (alone,) = detector.detect([german])
    behind = detector.detect([f"https://example.com/the/weather @some_name {german}"])
    assert [language.tag for language in (alone, *behind)] == ["de", "de"]


@each_detector
def test_a_nul_does_not_hide_what_stands_behind_it(detector: Detector) -> None:
    assert detector.detect(["x\0Where is the nearest pharmacy?"])[0].tag == "en"


@each_detector
@settings(deadline=None)
@given(texts=st.lists(_any_text, max_size=5))
def test_no_text_ends_the_detector(detector: Detector, texts: list[str]) -> None:
    languages = detector.detect(texts)
    assert len(languages) == len(texts)
    for language in languages:
        assert language.confidence is not None and 0 <= language.confidence <= 1
        assert language.tag == UNDETERMINED or canonical(language.tag) == language.tag
        assert (language.tag == UNDETERMINED) == (language.confidence == 0)


@each_detector
def test_a_text_does_not_get_another_language_by_its_neighbours(detector: Detector) -> None:
    texts = [text for _, text in lines()]
    alone = [detector.detect([text])[0] for text in texts]
    order = list(range(len(texts)))
    random.Random(9).shuffle(order)
    assert detector.detect([texts[at] for at in order]) == [alone[at] for at in order]


def test_threads_do_not_mix_up_their_texts() -> None:
    texts = [text for _, text in lines()]
    alone = EldDetector().detect(texts)
    shared = EldDetector()
    with ThreadPoolExecutor(4) as pool:
        for said in pool.map(lambda _: shared.detect(texts), range(8)):
            assert said == alone


@each_detector
def test_a_long_text_is_not_read_to_its_end(detector: Detector) -> None:
    start = "Where is the nearest pharmacy? " * 40
    assert detector.detect([start]) == detector.detect([start + "Где аптека? " * 10_000])
