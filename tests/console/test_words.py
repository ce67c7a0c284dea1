"""What the console says, and what it is made of, as files: no browser is needed to see it."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

import qwarden.review

CONSOLE = Path(qwarden.review.__file__).parent / "console"
SCRIPTS = {str(path.relative_to(CONSOLE)): path.read_text() for path in CONSOLE.rglob("*.js")}
PAGES = sorted(CONSOLE.glob("*.html"))
STRINGS = {
    path.stem: json.loads(path.read_text()) for path in sorted((CONSOLE / "strings").glob("*.json"))
}
OUR_NAME = "Qwarden"
FORMS = ("zero", "one", "two", "few", "many", "other")
_LITERAL = re.compile(r'"([a-z_]+(?:\.[a-z_A-Z]+)+)"')
_BEGINNING = re.compile(r"`([a-z_]+\.[a-z_]*)\$\{")
_GROUP = re.compile(r'\bterm\(\s*"([a-z_]+)"')


PLURAL = {key.removesuffix(".one") for key in STRINGS["en"] if key.endswith(".one")}


def _stem(key: str) -> str:
    """The key as scripts name it: without the form of a number."""
    before, _, form = key.rpartition(".")
    return before if before in PLURAL and form in FORMS else key


def _used() -> tuple[set[str], set[str]]:
    """Keys that scripts name, and beginnings of those that they put together."""
    keys: set[str] = set()
    beginnings: set[str] = set()
    for script in SCRIPTS.values():
        keys.update(_LITERAL.findall(script))
        beginnings.update(f"{group}." for group in _GROUP.findall(script))
        beginnings.update(_BEGINNING.findall(script))
    return keys, beginnings


def _dynamic() -> set[str]:
    """Groups whose keys end in what `${act}.done` and the like put behind a variable."""
    return {"skip.", "urgent.", "handover.", "release."}


@pytest.mark.parametrize("language", sorted(STRINGS))
def test_a_string_that_a_language_lacks(language: str) -> None:
    said = STRINGS[language]
    missing = {key for key in STRINGS["en"] if _stem(key) not in PLURAL} - said.keys()
    assert not missing
    assert all(f"{key}.other" in said for key in PLURAL)
    assert {_stem(key) for key in said} == {_stem(key) for key in STRINGS["en"]}
    assert all(value.strip() for value in said.values())


@pytest.mark.parametrize("language", sorted(STRINGS))
def test_a_value_that_a_translation_drops(language: str) -> None:
    for key, english in STRINGS["en"].items():
        names = set(re.findall(r"\{(\w+)\}", english))
        assert set(re.findall(r"\{(\w+)\}", STRINGS[language][key])) == names, key


def test_a_string_that_the_page_asks_for_and_nobody_wrote() -> None:
    known = {_stem(key) for key in STRINGS["en"]}
    groups = {key.split(".")[0] for key in known}
    keys, beginnings = _used()
    asked = {key for key in keys if key.split(".")[0] in groups}
    assert len(asked) > 150
    assert not asked - known
    assert not {each for each in beginnings if not any(key.startswith(each) for key in known)}


def test_a_string_that_nobody_says_any_more() -> None:
    keys, beginnings = _used()
    put_together = tuple(beginnings | _dynamic())
    unused = {
        key for key in STRINGS["en"]
        if _stem(key) not in keys and not key.startswith(put_together)
    }  # fmt: skip
    assert not unused


class _Words(HTMLParser):
    """The words of a page, and what its content security policy would stop."""

    def __init__(self) -> None:
        super().__init__()
        self.words: list[str] = []
        self.stopped: list[str] = []
        self._in: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._in.append(tag)
        for name, value in attrs:
            if name.startswith("on") or name == "style":
                self.stopped.append(f"{tag} {name}")
            if name in {"alt", "title", "aria-label", "placeholder"} and value:
                self.words.append(value)
            if name in {"src", "href"} and value and not value.startswith(("/", "#")):
                self.stopped.append(value)
        if tag == "style" or (tag == "script" and "src" not in dict(attrs)):
            self.stopped.append(tag)

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.words.append(data.strip())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_words_or_scripts_in_a_page_itself(page: Path) -> None:
    found = _Words()
    found.feed(page.read_text())
    assert set(found.words) <= {OUR_NAME}
    assert not found.stopped


@pytest.mark.parametrize("name", sorted(SCRIPTS))
def test_markup_made_of_text(name: str) -> None:
    """Nothing in the console can turn text into elements, styles or code."""
    for way in (
        "innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "Function(",
        "DOMParser", "createContextualFragment", "setHTMLUnsafe", "srcdoc", "javascript:",
        '"style"', "cssText", "importScripts",
    ):  # fmt: skip
        assert way not in SCRIPTS[name], way


@pytest.mark.parametrize("name", sorted(SCRIPTS))
def test_a_script_from_somewhere_else(name: str) -> None:
    for address in re.findall(r"https?://[^\s\"'`]+", SCRIPTS[name]):
        assert address == "http://www.w3.org/2000/svg"
    for module in re.findall(r'(?:\bfrom |\bimport\(|\bimport )["`]([^"`]+)["`]', SCRIPTS[name]):
        assert module.startswith(("./", "../"))
