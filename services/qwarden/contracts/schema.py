"""JSON Schemas (2020-12) of the records, from the structs that read and write them.

They stand as files in `schemas/`, so that others can use them without this package. After a change:
`python -m qwarden.contracts.schema`.
"""

from __future__ import annotations

import ast
import enum
import inspect
import json
import textwrap
from importlib.resources import as_file, files
from typing import Any

import msgspec

from qwarden.contracts import (
    chunk,
    control,
    dead_letter,
    decision,
    escalation,
    event,
    signal,
    statement,
    verdict,
)
from qwarden.contracts.chunk import Chunk
from qwarden.contracts.control import Freeze, Halt, InForce, LossAccepted, Override, PolicyBody
from qwarden.contracts.dead_letter import DeadLetter, Mark
from qwarden.contracts.decision import Decision
from qwarden.contracts.escalation import Escalation, Evidence
from qwarden.contracts.event import Event
from qwarden.contracts.signal import Signal
from qwarden.contracts.statement import Statement
from qwarden.contracts.verdict import Verdict

Schema = dict[str, Any]

COMMAND = "python -m qwarden.contracts.schema"

RECORDS: dict[str, type[msgspec.Struct]] = {
    "event": Event,
    "chunk": Chunk,
    "signal": Signal,
    "verdict": Verdict,
    "escalation": Escalation,
    "evidence": Evidence,
    "decision": Decision,
    "statement": Statement,
    "dead-letter": DeadLetter,
    "dead-letter-mark": Mark,
    "halt": Halt,
    "loss-accepted": LossAccepted,
    "policy": PolicyBody,
    "in-force": InForce,
    "freeze": Freeze,
    "override": Override,
}
"""Each kind of record by the name of its schema."""

_VERSION = 1
"""Of the contracts: another one is another `$id`, beside this one's."""

# What a struct cannot say: an event without any of these has nothing to judge or to withdraw.
_EVENT_HAS = [
    {"required": ["messages"]},
    {"required": ["text"]},
    {"required": ["deleted"], "properties": {"deleted": {"const": True}}},
]

_CLASSES: dict[str, type] = {
    name: found
    for module in (
        event,
        chunk,
        signal,
        verdict,
        escalation,
        dead_letter,
        decision,
        statement,
        control,
    )
    for name, found in vars(module).items()
    if isinstance(found, type) and found.__module__ == module.__name__
}


def schema_of(name: str) -> Schema:
    """The schema of one kind of record, by its name in `RECORDS`."""
    record = RECORDS[name]
    definitions: dict[str, Schema] = msgspec.json.schema(record)["$defs"]
    for title, definition in definitions.items():
        _describe(definition, _CLASSES[title])
    body = definitions.pop(record.__name__)
    if record is Event:
        body["anyOf"] = _EVENT_HAS
    head = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:qwarden:{name}:{_VERSION}",
    }
    schema: Schema = head | body | {"$defs": dict(sorted(definitions.items()))}
    return schema


def schema_files() -> dict[str, str]:
    """The text of each file in `schemas/`, by its name."""
    return {
        f"{name}.schema.json": json.dumps(schema_of(name), indent=2, ensure_ascii=False) + "\n"
        for name in RECORDS
    }


def _describe(definition: Schema, described: type) -> None:
    """Puts the docstrings of a class and of its fields where readers of the schema see them."""
    definition["description"] = _flowing(described.__doc__ or "")
    if issubclass(described, enum.Enum):
        # In the order in which they are defined, which means something, not by name.
        definition["enum"] = [member.value for member in described]
    for field, text in _field_docstrings(described).items():
        definition["properties"][field]["description"] = _flowing(text)


def _field_docstrings(described: type) -> dict[str, str]:
    """The string that stands below each field: Python itself keeps none of them."""
    (parsed,) = ast.parse(textwrap.dedent(inspect.getsource(described))).body
    assert isinstance(parsed, ast.ClassDef)
    found = {}
    for field, text in zip(parsed.body, parsed.body[1:], strict=False):
        if (
            isinstance(field, ast.AnnAssign)
            and isinstance(field.target, ast.Name)
            and isinstance(text, ast.Expr)
            and isinstance(text.value, ast.Constant)
        ):
            found[field.target.id] = str(text.value.value)
    return found


def _flowing(docstring: str) -> str:
    """Paragraphs on one line each, without the marks of code."""
    paragraphs = inspect.cleandoc(docstring).split("\n\n")
    return "\n".join(" ".join(paragraph.split()) for paragraph in paragraphs).replace("`", "")


def main() -> None:
    """Writes every file of `schemas/`."""
    with as_file(files("qwarden.contracts").joinpath("schemas")) as folder:
        folder.mkdir(exist_ok=True)
        for name, text in schema_files().items():
            (folder / name).write_text(text, encoding="utf-8")
            print(folder / name)


if __name__ == "__main__":
    main()
