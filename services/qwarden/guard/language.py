"""The language of content: its tag, as BCP 47 writes it, and how sure of it we are."""

from __future__ import annotations

import re
from dataclasses import dataclass

UNDETERMINED = "und"
"""The tag of content of which nobody can tell the language (BCP 47, ISO 639-2)."""

_TAG = re.compile(r"(?P<language>[a-z]{2,3})(?P<rest>(?:-[a-z0-9]{1,8})*)")

_RENAMED = {"in": "id", "iw": "he", "ji": "yi", "mo": "ro"}
"""Tags that old software still writes (IANA's Language Subtag Registry, `Preferred-Value`)."""

_SHORTER = {
    "afr": "af", "amh": "am", "ara": "ar", "aze": "az", "bel": "be", "ben": "bn", "bos": "bs",
    "bul": "bg", "cat": "ca", "ces": "cs", "cze": "cs", "chi": "zh", "zho": "zh", "cym": "cy",
    "wel": "cy", "dan": "da", "deu": "de", "ger": "de", "ell": "el", "gre": "el", "eng": "en",
    "est": "et", "eus": "eu", "baq": "eu", "fas": "fa", "per": "fa", "fin": "fi", "fra": "fr",
    "fre": "fr", "gle": "ga", "glg": "gl", "guj": "gu", "heb": "he", "hin": "hi", "hrv": "hr",
    "hun": "hu", "hye": "hy", "arm": "hy", "ind": "id", "isl": "is", "ice": "is", "ita": "it",
    "jpn": "ja", "kan": "kn", "kat": "ka", "geo": "ka", "kaz": "kk", "khm": "km", "kor": "ko",
    "lao": "lo", "lav": "lv", "lit": "lt", "mal": "ml", "mar": "mr", "mkd": "mk", "mac": "mk",
    "mon": "mn", "msa": "ms", "may": "ms", "mya": "my", "bur": "my", "nep": "ne", "nld": "nl",
    "dut": "nl", "nor": "no", "pan": "pa", "pol": "pl", "por": "pt", "ron": "ro", "rum": "ro",
    "rus": "ru", "sin": "si", "slk": "sk", "slo": "sk", "slv": "sl", "som": "so", "spa": "es",
    "sqi": "sq", "alb": "sq", "srp": "sr", "swa": "sw", "swe": "sv", "tam": "ta", "tel": "te",
    "tha": "th", "tgl": "tl", "tur": "tr", "ukr": "uk", "urd": "ur", "uzb": "uz", "vie": "vi",
    "yid": "yi", "yor": "yo", "zul": "zu",
}  # fmt: skip
"""Three letters for what BCP 47 writes with two (ISO 639-2 and 639-1), both kinds of them: for the
languages that the detector knows, and others that many write."""

COMMON = frozenset(_SHORTER.values())
"""Languages that the detector knows, and others that many write."""

_ISO_639_1 = """
aa ab ae af ak am an ar as av ay az ba be bg bh bi bm bn bo br bs ca ce ch co cr cs cu cv cy da
de dv dz ee el en eo es et eu fa ff fi fj fo fr fy ga gd gl gn gu gv ha he hi ho hr ht hu hy hz
ia id ie ig ii ik io is it iu ja jv ka kg ki kj kk kl km kn ko kr ks ku kv kw ky la lb lg li ln
lo lt lu lv mg mh mi mk ml mn mr ms mt my na nb nd ne ng nl nn no nr nv ny oc oj om or os pa pi
pl ps pt qu rm rn ro ru rw sa sc sd se sg sh si sk sl sm sn so sq sr ss st su sv sw ta te tg th
ti tk tl tn to tr ts tt tw ty ug uk ur uz ve vi vo wa wo xh yi yo za zh zu
"""

_TWO_LETTERS = frozenset(_ISO_639_1.split())

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
    language = _SHORTER.get(found["language"], found["language"])
    language = _RENAMED.get(language, language)
    if language == UNDETERMINED:
        return None
    return "-".join([language, *_cased(found["rest"].split("-")[1:])])


def is_known(tag: str) -> bool:
    """Whether a canonical tag's language is one that content can have: two letters of ISO 639-1, or
    three for a language that has no two."""
    language = tag.partition("-")[0]
    return language in _TWO_LETTERS or (len(language) == 3 and language not in _SHORTER)


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
