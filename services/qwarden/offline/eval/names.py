"""What a labelled file calls its fields and its labels. Pure."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from qwarden.guard.answer import SAFETIES, Safety

FIELDS: tuple[str, ...] = (
    "id", "source", "lang", "task", "messages", "prompt", "response", "text", "label",
    "categories", "refusal",
)  # fmt: skip

_SAFETY_OF = {safety.value.casefold(): safety for safety in SAFETIES}


class _Absent(enum.Enum):
    ABSENT = enum.auto()


ABSENT = _Absent.ABSENT


@dataclass(frozen=True, slots=True)
class Names:
    """`fields`: our name to the file's, of those that were named; the others are called as ours.
    `labels`: a label's word (`word_of`) to what it means."""

    fields: Mapping[str, str]
    labels: Mapping[str, Safety]

    def value(self, row: Mapping[str, Any], field: str) -> Any:
        """What a row has for our `field`, or `ABSENT`. A dot in a name that is no field of the
        row leads into an object: `annotation.label`."""
        name = self.fields.get(field, field)
        if name in row:
            return row[name]
        found: Any = row
        for part in name.split("."):
            if not isinstance(found, dict) or part not in found:
                return ABSENT
            found = found[part]
        return found


def names_of(fields: Sequence[str], labels: Sequence[str]) -> Names:
    """From the options: `label=toxicity` and the like, `toxic=Unsafe` and the like.

    Raises `ValueError` with a sentence.
    """
    named: dict[str, str] = {}
    for given in fields:
        ours, _, theirs = given.partition("=")
        if ours not in FIELDS or not theirs:
            raise ValueError(
                f"--field {given}: write OURS=THEIRS, such as --field label=toxicity; ours are "
                f"{', '.join(FIELDS)}"
            )
        if named.setdefault(ours, theirs) != theirs:
            raise ValueError(f"--field {given}: {ours} is {named[ours]} already; name it once")
    meant: dict[str, Safety] = {}
    for given in labels:
        word, _, safety = given.rpartition("=")
        if not word or safety.casefold() not in _SAFETY_OF:
            raise ValueError(
                f"--label {given}: write WORD=SAFETY, such as --label toxic=Unsafe; a safety is "
                f"{', '.join(SAFETIES)}"
            )
        key, means = word.strip().casefold(), _SAFETY_OF[safety.casefold()]
        if meant.setdefault(key, means) is not means:
            raise ValueError(f"--label {given}: {word} is {meant[key]} already; name it once")
    return Names(named, _SAFETY_OF | meant)


def word_of(value: Any) -> str | None:
    """A label as its option writes it: `toxic`, `1`, `true`; None for what is no single word.

    Letters' case does not matter, and 1.0 is 1: some writers of JSON know no integers.
    """
    if isinstance(value, str):
        return value.strip().casefold()
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else repr(value)
    return None
