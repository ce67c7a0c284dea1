"""The fields of a record that its struct did not take, and why a value is no JSON object: for the
reason of a refusal."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from qwarden.contracts.refusal import ErrorClass, Refused

# A \u escape of a high surrogate that no low one follows, not itself behind an escaped backslash.
_LONE_SURROGATE = re.compile(rb"(?<!\\)(?:\\\\)*\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])")

_JSON_KINDS = {list: "array", str: "string", bool: "boolean", type(None): "null"}


def fields_of(value: bytes, *, what: str, error_class: ErrorClass) -> dict[str, Any]:
    """The value as a JSON object. Raises `Refused` where it is none: `what` it should have been
    (with its article), and the class of a JSON value of another kind."""
    try:
        fields = msgspec.json.decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError) as broken:
        raise Refused(ErrorClass.NOT_JSON, _not_json(value, broken)) from None
    if not isinstance(fields, dict):
        kind = _JSON_KINDS.get(type(fields), "number")
        raise Refused(error_class, f"the value is a JSON {kind}; {what} is a JSON object")
    return fields


def text_of(fields: Mapping[str, Any], name: str) -> str:
    """A field as far as a dead letter names it; empty where it is no text."""
    value = fields.get(name)
    return value[:256] if isinstance(value, str) else ""


def _not_json(value: bytes, error: Exception) -> str:
    try:
        value.decode()
    except UnicodeDecodeError as broken:
        return f"the value is not UTF-8 (byte {broken.start}); send one JSON object in UTF-8"
    if _LONE_SURROGATE.search(value) or "surrogate" in str(error):
        return (
            "the value holds half of a surrogate pair, such as \\ud800 alone, which is not "
            "Unicode; repair the text before it is sent"
        )
    return f"the value is not JSON ({error}); send one JSON object in UTF-8"
