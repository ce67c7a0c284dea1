"""The language of what is judged: the producer's word, else the detector's."""

from __future__ import annotations

from qwarden.guard.conversation import Conversation
from qwarden.guard.language import Language, canonical
from qwarden.guard.normaliser import VERSION as NORMALISER
from qwarden.guard.normaliser import normalised
from qwarden.language.port import CHARACTERS, Detector


def language_of(given: str | None, conversation: Conversation, detector: Detector) -> Language:
    """The given tag, where it names a language; else that of the conversation's last turn, which is
    what is judged: an answer may be in another language than its question. Words that hide from the
    guard hide from no rule of their language: it is told of the normalised text."""
    tag = canonical(given) if given is not None else None
    if tag is not None:
        return Language(tag)
    return detector.detect([normalised(conversation.turns[-1].content[:CHARACTERS])])[0]


def detector_version(language: Language, detector: Detector) -> str:
    """What a verdict's id holds of the detector: nothing where the tag was given."""
    return "" if language.confidence is None else f"{detector.version}/{NORMALISER}"
