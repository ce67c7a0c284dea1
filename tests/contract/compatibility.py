"""Whether a changed schema still serves those who were built on the one before.

Direction matters. Others write events: whatever was an event must stay one. Others read verdicts:
whatever is written must be what they know. Fields that a schema does not name are ignored on both
sides, so a new optional field breaks nobody.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

Schema = dict[str, Any]

_LOWER_BOUNDS = frozenset({"minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties"})
_UPPER_BOUNDS = frozenset({"maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties"})
_COMPARED_APART = frozenset(
    {"type", "enum", "const", "properties", "required", "default", "items", "prefixItems"}
)
_SAY_NOTHING = frozenset(
    {"$schema", "$id", "$defs", "$comment", "title", "description", "examples"}
)


def breaking_changes(old: Schema, new: Schema, *, written_by: Literal["others", "us"]) -> list[str]:
    """One sentence for each change from `old` to `new` that would break somebody.

    `written_by`: who writes such records. A keyword that is not known here counts as broken when
    it differs, since nobody can tell.
    """
    comparison = _Comparison(old, new, written_by == "others")
    return list(dict.fromkeys(comparison.node("$", old, new)))


@dataclass(frozen=True, slots=True)
class _Comparison:
    """Two documents. Where `others` write, all of `old` must be in `new`, else the reverse."""

    old: Schema
    new: Schema
    others: bool

    def node(self, path: str, old: Schema, new: Schema) -> Iterator[str]:
        olds = _branches(old, self.old)
        news = _branches(new, self.new)
        wide, narrow = (news, olds) if self.others else (olds, news)
        for branch in narrow:
            alike = [other for other in wide if _kind(branch) in _kinds_taken(other)]
            if not alike:
                kind = _kind(branch)
                yield f"{path}: {'no longer takes' if self.others else 'may now be'} {kind}"
                continue
            tries = [list(self._pair(path, branch, other)) for other in alike]
            if all(tries):
                yield from min(tries, key=len)
        if "default" in old and old["default"] != new.get("default"):
            yield f"{path}: its default was {old['default']!r} and is {new.get('default')!r}"

    def _pair(self, path: str, narrow: Schema, wide: Schema) -> Iterator[str]:
        """What is in `narrow` and not in `wide`, each without alternatives."""
        old, new = (narrow, wide) if self.others else (wide, narrow)
        yield from self._words(path, old, new)
        yield from self._keywords(path, old, new)
        yield from self._fields(path, old, new)
        if "items" in old and "items" in new and old["items"] and new["items"]:
            yield from self.node(f"{path}[]", old["items"], new["items"])
        elif old.get("items") != new.get("items"):
            yield f"{path}: what its items are has changed"
        olds, news = old.get("prefixItems", []), new.get("prefixItems", [])
        if len(olds) != len(news):
            yield f"{path}: the number of its items has changed"
        for index, (before, after) in enumerate(zip(olds, news, strict=False)):
            yield from self.node(f"{path}[{index}]", before, after)

    def _words(self, path: str, old: Schema, new: Schema) -> Iterator[str]:
        olds, news = _words(old), _words(new)
        if olds is None and news is None:
            return
        if olds is None or news is None:
            # A free text that becomes a list of words refuses what producers send; a list that
            # becomes free text gives readers what they do not know.
            if (news is None) is not self.others:
                yield f"{path}: {'allows only' if olds is None else 'is no longer only'} some words"
            return
        for word in sorted(olds - news, key=repr):
            yield f"{path}: {word} is gone"
        if not self.others:
            for word in sorted(news - olds, key=repr):
                yield f"{path}: {word} is new, and readers do not know it"

    def _keywords(self, path: str, old: Schema, new: Schema) -> Iterator[str]:
        for keyword in sorted((old.keys() | new.keys()) - _COMPARED_APART - _SAY_NOTHING):
            before, after = old.get(keyword), new.get(keyword)
            narrow, wide = (before, after) if self.others else (after, before)
            if narrow == wide:
                continue
            if keyword in _LOWER_BOUNDS | _UPPER_BOUNDS:
                if wide is None:
                    continue
                if narrow is not None and (narrow > wide) == (keyword in _LOWER_BOUNDS):
                    continue
            yield f"{path}: {keyword} was {before!r} and is {after!r}"

    def _fields(self, path: str, old: Schema, new: Schema) -> Iterator[str]:
        olds, news = old.get("properties", {}), new.get("properties", {})
        for name in sorted(olds.keys() - news.keys()):
            yield f"{path}.{name}: was removed"
        for name in sorted(olds.keys() & news.keys()):
            yield from self.node(f"{path}.{name}", olds[name], news[name])
        before, after = set(old.get("required", [])), set(new.get("required", []))
        if self.others:
            for name in sorted(after - before):
                yield f"{path}.{name}: is required now"
        else:
            for name in sorted((before - after) & news.keys()):
                yield f"{path}.{name}: may be absent now"


def _branches(node: Schema, document: Schema) -> list[Schema]:
    """The alternatives of a node, references followed, each of one type."""
    node = _resolved(node, document)
    if "anyOf" in node and "type" not in node:
        return [found for each in node["anyOf"] for found in _branches(each, document)]
    if isinstance(node.get("type"), list):
        return [node | {"type": each} for each in node["type"]]
    return [node]


def _resolved(node: Schema, document: Schema) -> Schema:
    while "$ref" in node:
        beside = {key: value for key, value in node.items() if key not in ("$ref", "default")}
        node = document["$defs"][node["$ref"].removeprefix("#/$defs/")] | beside
    return node


def _words(node: Schema) -> set[str] | None:
    """The words that a node allows, as JSON-like text so that 1 and True differ; None: any."""
    if "const" in node:
        return {repr(node["const"])}
    return {repr(word) for word in node["enum"]} if "enum" in node else None


def _kind(node: Schema) -> str:
    """The type of one alternative. A list of words without a type has that of its words."""
    if "type" in node:
        return str(node["type"])
    words = [node["const"]] if "const" in node else node.get("enum", [])
    for kind, types in (("string", str), ("boolean", bool), ("integer", int), ("number", float)):
        if words and isinstance(words[0], types):
            return kind
    return "anything"


def _kinds_taken(node: Schema) -> set[str]:
    kind = _kind(node)
    return {"number", "integer"} if kind == "number" else {kind}
