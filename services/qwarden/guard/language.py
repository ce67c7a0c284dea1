"""The language of content: its tag, as BCP 47 writes it, and how sure of it we are."""

from __future__ import annotations

import re
from dataclasses import dataclass

UNDETERMINED = "und"
"""The tag of content of which nobody can tell the language (BCP 47, ISO 639-2)."""

_TAG = re.compile(r"(?P<language>[a-z]{2,3})(?P<rest>(?:-[a-z0-9]{1,8})*)")

_RENAMED = {"in": "id", "iw": "he", "ji": "yi", "mo": "ro"}
"""Tags that old software still writes (IANA's Language Subtag Registry, `Preferred-Value`)."""

_WITHIN = {"id": "ms", "nb": "no", "nn": "no", "cmn": "zh", "yue": "zh"}
"""Languages that are also within a wider one, which people and detectors name instead (the same
registry, `Macrolanguage`): Indonesian in Malay, both written Norwegians, Mandarin, Cantonese."""


@dataclass(frozen=True, slots=True)
class Language:
    """`tag`: a language, or `und`. `confidence`: how far it is ahead of the next likely one, from 0
    to 1, and 0 for `und`; None where the tag was given."""

    tag: str
    confidence: float | None = None


UNKNOWN = Language(UNDETERMINED, 0.0)


def canonical(tag: str) -> str | None:
    """A tag as BCP 47 recommends to write it: `pt_br` is `pt-BR`, `iw` is `he`. None for what names
    no language: `English`, `und`, the empty text."""
    found = _TAG.fullmatch(tag.strip().replace("_", "-").lower())
    if found is None:
        return None
    language = _RENAMED.get(found["language"], found["language"])
    if language == UNDETERMINED:
        return None
    return "-".join([language, *_cased(found["rest"].split("-")[1:])])


def _cased(subtags: list[str]) -> list[str]:
    """Scripts as `Hans`, regions as `BR`; what stands behind a single letter is small."""
    cased: list[str] = []
    for at, subtag in enumerate(subtags):
        if len(subtag) == 1:
            return cased + subtags[at:]
        if len(subtag) == 4 and subtag.isalpha():
            cased.append(subtag.title())
        else:
            cased.append(subtag.upper() if len(subtag) == 2 else subtag)
    return cased


def is_of(asked: str, tag: str) -> bool:
    """Whether content with this tag is of the asked language: `pt` asks for `pt-BR` too, and `ms`
    for `id`, which is within it; neither the other way."""
    asked, tag = asked.lower(), tag.lower()
    language, _, rest = tag.partition("-")
    wider = _WITHIN.get(language)
    return f"{tag}-".startswith(f"{asked}-") or (
        wider is not None and f"{wider}-{rest}-".startswith(f"{asked}-")
    )
