"""YAML documents that people write: read with line and column of every field, so that errors name
them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, ValidationInfo

Path = tuple[str, ...]
"""The names that lead to a field; an item of a list has its number from 0."""
Mark = tuple[int, int]
"""Line and column of a field, from 1."""


_NAMES = frozenset({"tag:yaml.org,2002:str", "tag:yaml.org,2002:merge"})
"""The YAML types of a field's name: text, and `<<`. An unquoted `yes` or `1` is neither."""


class DocumentError(ValueError):
    """A file that cannot be used: each line of the message is `file:line:column: field: reason`."""


class Document(BaseModel):
    """The base of what is read from YAML: unknown keys are refused, values are frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True)


D = TypeVar("D", bound=Document)


def as_its_file(name: str, info: ValidationInfo) -> str:
    """Refuses a name that differs from `name` of the context, the file's own without `.yaml`."""
    expected = (info.context or {}).get("name", name)
    if name != expected:
        raise ValueError(f"the file is called {expected}.yaml; give both one name, not {name!r}")
    return name


@dataclass(frozen=True, slots=True)
class Marks:
    """Where the fields of a document stand. Without a file there are no lines: a document that was
    not read from YAML names its fields alone."""

    file: str
    by_path: Mapping[Path, Mark] = field(default_factory=dict)

    def at(self, path: Path) -> str:
        """`file:line:column` of a field, or of the nearest one around it."""
        if not self.by_path:
            return self.file
        while path not in self.by_path:
            path = path[:-1]
        line, column = self.by_path[path]
        return f"{self.file}:{line}:{column}"

    def sentence(self, path: Path, reason: str) -> str:
        return f"{self.at(path)}: {_dotted(path)}: {reason}"


def parse(text: str, *, file: str, kind: type[D], context: dict[str, Any] | None = None) -> D:
    """Reads one YAML mapping as `kind`. Raises `DocumentError` naming file, line and field."""
    return parse_marked(text, file=file, kind=kind, context=context)[0]


def parse_marked(
    text: str, *, file: str, kind: type[D], context: dict[str, Any] | None = None
) -> tuple[D, Marks]:
    """Reads one YAML mapping as `kind`, and where its fields stand. Raises `DocumentError` naming
    file, line and field.

    `context` is what validators of `kind` may ask beyond the file itself.
    """
    fields = _Fields(file)
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        if not isinstance(node, yaml.MappingNode):
            raise DocumentError(
                f"{file}:1:1: the file must hold one mapping of fields, such as name: …"
            )
        fields.note(node, ())
        if fields.errors:
            raise DocumentError("\n".join(fields.errors))
        data: Any = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        raise DocumentError(f"{file}:{line}:{column}: not YAML: {error.problem}") from None
    except yaml.YAMLError as error:
        raise DocumentError(f"{file}:1:1: not YAML: {error}") from None
    except RecursionError:
        raise DocumentError(f"{file}:1:1: not YAML: nested too deeply") from None
    marks = Marks(file, fields.marks)
    return valid(data, marks, kind=kind, context=context), marks


def valid(data: Any, marks: Marks, *, kind: type[D], context: dict[str, Any] | None = None) -> D:
    """`data` as `kind`; raises `DocumentError` with a line for each field that is wrong."""
    try:
        return kind.model_validate(data, context=context)
    except ValidationError as error:
        raise DocumentError("\n".join(_sentence(marks, each) for each in error.errors())) from None


@dataclass(slots=True)
class _Fields:
    """Where every field of a file stands, and what is wrong with it before it has a meaning."""

    file: str
    marks: dict[Path, Mark] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)
    _seen: set[yaml.Node] = field(default_factory=set)

    def note(self, node: yaml.Node, path: Path) -> None:
        """Notes the fields below a node, and each key that stands twice: YAML would take the last
        one."""
        self.marks.setdefault(path, _mark(node))
        if isinstance(node, yaml.ScalarNode):
            self._check_scalar(node, path)
        elif node in self._seen:
            return  # an alias leads to a node again, and it may lead to itself
        elif isinstance(node, yaml.MappingNode):
            self._seen.add(node)
            for key, value in node.value:
                self._note_field(key, value, path)
        else:  # a sequence
            self._seen.add(node)
            for index, value in enumerate(node.value):
                self.note(value, (*path, str(index)))

    def _note_field(self, key: yaml.Node, value: yaml.Node, path: Path) -> None:
        mark = _mark(key)
        if key.tag not in _NAMES:
            self.errors.append(
                f"{_at(self.file, mark)}: {_dotted(path)}: a field's name must be text; "
                "put it in quotes"
            )
            return
        here = (*path, key.value)
        if here in self.marks:
            self.errors.append(
                f"{_at(self.file, mark)}: {_dotted(here)}: stands twice, first on line "
                f"{self.marks[here][0]}; remove one"
            )
            return
        self.marks[here] = mark
        self.note(value, here)

    def _check_scalar(self, node: yaml.ScalarNode, path: Path) -> None:
        """Notes what YAML takes for a date or a number and what is none, such as 2024-13-45."""
        if any("\ud800" <= each <= "\udfff" for each in node.value):
            self.errors.append(
                f"{_at(self.file, _mark(node))}: {_dotted(path)}: holds half a surrogate pair, "
                "which no text can be written with; remove it"
            )
            return
        try:
            yaml.SafeLoader("").construct_object(node)
        except (ValueError, AttributeError, KeyError):  # PyYAML's own, by type of the value
            kind = node.tag.rsplit(":", 1)[-1]
            self.errors.append(
                f"{_at(self.file, _mark(node))}: {_dotted(path)}: {node.value!r} is no {kind}; "
                "put it in quotes"
            )


def _sentence(marks: Marks, error: Any) -> str:
    """One error of pydantic's, at its field or the nearest one around it."""
    # Of what pydantic says only the file's own fields, and what is missing behind them: it counts
    # items also where one stands alone.
    path: Path = ()
    parts = [str(part) for part in error["loc"] if part != "[key]"]
    for at, part in enumerate(parts):
        is_missing = at == len(parts) - 1 and error["type"] == "missing"
        if (*path, part) in marks.by_path or is_missing or not marks.by_path:
            path = (*path, part)
    reason = {
        "extra_forbidden": "unknown field; remove it or correct its name",
        "missing": "is missing",
    }.get(error["type"], error["msg"].removeprefix("Value error, "))
    return marks.sentence(path, reason)


def _mark(node: yaml.Node) -> Mark:
    return node.start_mark.line + 1, node.start_mark.column + 1


def _at(file: str, mark: Mark) -> str:
    return f"{file}:{mark[0]}:{mark[1]}"


def _dotted(path: Path) -> str:
    return ".".join(path) or "(file)"
