"""YAML documents that people write: read with the line of every field, so that errors name it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, ValidationInfo

Line = int
Path = tuple[str, ...]


_NAMES = frozenset({"tag:yaml.org,2002:str", "tag:yaml.org,2002:merge"})
"""The YAML types of a field's name: text, and `<<`. An unquoted `yes` or `1` is neither."""


class DocumentError(ValueError):
    """A file that cannot be used: each line of the message is `file:line: field: reason`."""


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


def parse(text: str, *, file: str, kind: type[D], context: dict[str, Any] | None = None) -> D:
    """Reads one YAML mapping as `kind`. Raises `DocumentError` naming file, line and field.

    `context` is what validators of `kind` may ask beyond the file itself.
    """
    fields = _Fields(file)
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        if not isinstance(node, yaml.MappingNode):
            raise DocumentError(
                f"{file}:1: the file must hold one mapping of fields, such as name: …"
            )
        fields.note(node, ())
        if fields.errors:
            raise DocumentError("\n".join(fields.errors))
        data: Any = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        line = mark.line + 1 if mark else 1
        raise DocumentError(f"{file}:{line}: not YAML: {error.problem}") from None
    except yaml.YAMLError as error:
        raise DocumentError(f"{file}:1: not YAML: {error}") from None
    except RecursionError:
        raise DocumentError(f"{file}:1: not YAML: nested too deeply") from None
    try:
        return kind.model_validate(data, context=context)
    except ValidationError as error:
        raise DocumentError("\n".join(map(fields.sentence, error.errors()))) from None


@dataclass(slots=True)
class _Fields:
    """The line of every field of a file, and what is wrong with it before it has a meaning."""

    file: str
    lines: dict[Path, Line] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)
    _seen: set[yaml.Node] = field(default_factory=set)

    def note(self, node: yaml.Node, path: Path) -> None:
        """Notes the lines below a node, and each key that stands twice: YAML would take the last
        one."""
        self.lines.setdefault(path, node.start_mark.line + 1)
        if isinstance(node, yaml.ScalarNode):
            self._check_scalar(node, path)
        elif node in self._seen:
            return  # an alias leads to a node again, and it may lead to itself
        elif isinstance(node, yaml.MappingNode):
            self._seen.add(node)
            for key, value in node.value:
                self._note_field(key, value, path)
        elif isinstance(node, yaml.SequenceNode):
            self._seen.add(node)
            for index, value in enumerate(node.value):
                self.note(value, (*path, str(index)))

    def _note_field(self, key: yaml.Node, value: yaml.Node, path: Path) -> None:
        line = key.start_mark.line + 1
        if key.tag not in _NAMES:
            self.errors.append(
                f"{self.file}:{line}: {_dotted(path)}: a field's name must be text; "
                "put it in quotes"
            )
            return
        here = (*path, key.value)
        if here in self.lines:
            self.errors.append(
                f"{self.file}:{line}: {_dotted(here)}: stands twice, first on line "
                f"{self.lines[here]}; remove one"
            )
            return
        self.lines[here] = line
        self.note(value, here)

    def _check_scalar(self, node: yaml.ScalarNode, path: Path) -> None:
        """Notes what YAML takes for a date or a number and what is none, such as 2024-13-45."""
        try:
            yaml.SafeLoader("").construct_object(node)
        except (ValueError, AttributeError, KeyError):  # PyYAML's own, by type of the value
            line, kind = node.start_mark.line + 1, node.tag.rsplit(":", 1)[-1]
            self.errors.append(
                f"{self.file}:{line}: {_dotted(path)}: {node.value!r} is no {kind}; "
                "put it in quotes"
            )

    def sentence(self, error: Any) -> str:
        """One error of pydantic's, at the line of its field or of the nearest one around it."""
        path: Path = tuple(str(part) for part in error["loc"] if part != "[key]")
        known = path
        while known not in self.lines:
            known = known[:-1]
        reason = {
            "extra_forbidden": "unknown field; remove it or correct its name",
            "missing": "is missing",
        }.get(error["type"], error["msg"].removeprefix("Value error, "))
        return f"{self.file}:{self.lines[known]}: {_dotted(path)}: {reason}"


def _dotted(path: Path) -> str:
    return ".".join(path) or "(file)"
