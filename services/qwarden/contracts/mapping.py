"""What a record of somebody else's topic means: which of its fields are those of an event. Pure.

Each field has an expression in JMESPath over the record's value. Beside the functions of JMESPath
there are `time_of_s` and `time_of_ms`, which make a time of seconds or milliseconds since 1970.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import jmespath
import msgspec
from jmespath.exceptions import JMESPathError
from jmespath.functions import Functions, signature
from jmespath.visitor import TreeInterpreter

from qwarden.contracts.event import MAX_DEPTH, Event, decode_event
from qwarden.contracts.fields import fields_of, text_of
from qwarden.contracts.refusal import ErrorClass, Refused, listed

FIELDS: Mapping[str, Any] = {
    each.name: each.type for each in msgspec.structs.fields(Event) if each.name != "schema_version"
}
"""The fields of an event that a mapping may give, with their types."""

_NAMES = frozenset({"event_id", "tenant", "subject"})
"""Where a whole number is taken as its digits: others' ids are often numbers, and JMESPath's own
to_string makes a text of nothing too."""
_MEANT_EMPTY = frozenset({"text"})
"""Where an empty text is said, and not left out: such content is refused by its own reason."""
_EXPRESSION_TOO_DEEP = (
    f"the expression is nested too deeply; write it in at most {MAX_DEPTH} levels of brackets and "
    "operators"
)
_TOO_DEEP = f"the value is nested too deeply; send at most {MAX_DEPTH} levels of lists and objects"
_UNWRITABLE = (TypeError, ValueError, OverflowError, RecursionError)
"""What msgspec raises for what JSON does not hold, or Python does not write: whole numbers end at
4,300 digits."""
_SHOWN_CHARACTERS = 80
"""Of a value that a reason quotes: a line."""
_NOTHING: Mapping[str, Any] = {}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class _Functions(Functions):
    @signature({"types": ["number", "string", "null"]})
    def _func_time_of_s(self, seconds: float | str | None) -> str | None:
        return _time(seconds, 1.0)

    @signature({"types": ["number", "string", "null"]})
    def _func_time_of_ms(self, milliseconds: float | str | None) -> str | None:
        return _time(milliseconds, 1000.0)


def _time(number: float | str | None, a_second: float) -> str | None:
    if number is None:
        return None
    return (_EPOCH + timedelta(seconds=float(number) / a_second)).isoformat()


_INTERPRETER = TreeInterpreter(jmespath.Options(custom_functions=_Functions()))
"""One for all: a search by JMESPath's own `search` makes a new one, at two to five times the
cost."""


@dataclass(frozen=True, slots=True)
class Expression:
    """A JMESPath expression. Raises `ValueError` with a sentence for what is none, calls a function
    that is not there, or gives what no JSON holds."""

    text: str
    _parsed: Any = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        try:
            parsed = jmespath.compile(self.text).parsed
            _check(parsed)
            msgspec.json.encode(parsed)  # its literals and names are text
        except JMESPathError as error:
            raise ValueError(f"{self.text!r} is not JMESPath: {_one_line(error)}") from None
        except RecursionError:
            raise ValueError(_EXPRESSION_TOO_DEEP) from None
        except UnicodeEncodeError:
            raise ValueError(
                f"{self.text!r} holds half a surrogate pair, which no text can be written with; "
                "remove it"
            ) from None
        object.__setattr__(self, "_parsed", parsed)

    def of(self, document: Any) -> Any:
        """What it gives of a document. Raises `ValueError` with the reason."""
        try:
            return _INTERPRETER.visit(self._parsed, document)
        except Exception as error:  # of anybody's data: JMESPath raises more than its own
            raise ValueError(_one_line(error)) from None


def _check(node: Mapping[str, Any], *, level: int = 1, is_for_function: bool = False) -> None:
    """`is_for_function`: a function takes this node, and takes an expression there."""
    if level > MAX_DEPTH:
        raise ValueError(_EXPRESSION_TOO_DEEP)
    if node["type"] == "expref" and not is_for_function:
        raise ValueError("'&' gives no value; only functions such as sort_by and map take one")
    children = node["children"]
    takes = [False] * len(children)
    if node["type"] == "function_expression":
        takes = _takes_expression(node["value"], len(children))
    for child, taken in zip(children, takes, strict=True):
        if isinstance(child, dict):
            _check(child, level=level + 1, is_for_function=taken)


def _takes_expression(name: str, arguments: int) -> list[bool]:
    """Whether a function takes an expression, for each argument of a call."""
    known = _Functions.FUNCTION_TABLE
    if name not in known:
        raise ValueError(f"JMESPath has no function {name!r}; known are {listed(known)}")
    wanted = known[name]["signature"]
    is_variadic = bool(wanted) and wanted[-1].get("variadic", False)
    if arguments < len(wanted) or (arguments > len(wanted) and not is_variadic):
        least = "at least " if is_variadic else ""
        raise ValueError(f"{name} takes {least}{len(wanted)} arguments, and has {arguments}")
    takes = ["expref" in each["types"] for each in wanted]
    return takes + takes[-1:] * (arguments - len(wanted))


def json_document(value: bytes) -> dict[str, Any]:
    """A value that is a JSON object. Raises `Refused`."""
    try:
        return fields_of(value, what="a record of this topic", error_class=ErrorClass.NOT_AN_EVENT)
    except RecursionError:
        raise Refused(ErrorClass.NOT_AN_EVENT, _TOO_DEEP) from None


class Mapped(msgspec.Struct, frozen=True):
    """An event, its value as the plain JSON of an event (so that equal records have equal ones),
    and the tenant that the record named where the topic's own has taken its place."""

    event: Event
    value: bytes
    displaced_tenant: str | None = None


@dataclass(frozen=True, slots=True)
class Topic:
    """How the records of one topic are read; the topic may be the fleet's own.

    `tenant`: whose content it is, whatever its records say. `key_is_event_id`: a record's key is
    the event's id, and with a `tenant` a record without a value is a withdrawal. `mapping`: by the
    event's field; without one the records are events. `is_confluent`: the values are in the
    Confluent wire format, else JSON.
    """

    name: str
    tenant: str | None = None
    key_is_event_id: bool = False
    mapping: Mapping[str, Expression] = field(default_factory=dict)
    is_confluent: bool = False

    def withdrawal(self, key: bytes | None) -> Mapped:
        """What a record without a value says. Raises `Refused`."""
        if self.tenant is None or not self.key_is_event_id:
            raise Refused(
                ErrorClass.NOT_AN_EVENT,
                'the record has no value; to withdraw content send "deleted": true, or say in '
                f"topics/{self.name}.yaml that its key is the event's id (key_is_event_id: true) "
                "and whose it is (tenant)",
                tenant=self.tenant or "",
            )
        fields = {"event_id": self._id_of(key), "tenant": self.tenant, "deleted": True}
        return Mapped(msgspec.convert(fields, Event), _encoded(fields))

    def event(
        self,
        document: Any,
        key: bytes | None,
        *,
        max_bytes: int,
        headers: Mapping[str, str],
        tenants: Collection[str],
    ) -> Mapped:
        """The event that a record is. Raises `Refused` with a sentence that names the field and
        its expression.

        `document`: its value, decoded. The rest as of `decode_event`.
        """
        fields = self._fields(document)
        if self.key_is_event_id:
            fields["event_id"] = self._id_of(key)
        displaced = None
        if self.tenant is not None:
            said, fields["tenant"] = fields.get("tenant"), self.tenant
            displaced = said if isinstance(said, str) and said not in ("", self.tenant) else None
        try:
            value = _encoded(fields)
            event = decode_event(value, max_bytes=max_bytes, headers=headers, tenants=tenants)
        except Refused as refused:
            raise self._second_look(fields, refused) from None
        except RecursionError:
            raise self._refused(_TOO_DEEP, fields) from None
        except _UNWRITABLE as error:
            raise self._unwritable(fields, error) from None
        if self.mapping and not event.deleted and event.text is None and not event.messages:
            name = "text" if "text" in self.mapping else "messages"
            raise self._refused(f"{self._place(name)} gives nothing for this record", fields)
        return Mapped(event, value, displaced)

    def _fields(self, document: Any) -> dict[str, Any]:
        if not self.mapping:
            if isinstance(document, dict):
                return {**document}
            raise self._refused(
                f"the value is no object with fields ({_shown(document)}), so that it is no event; "
                f"map its fields in topics/{self.name}.yaml"
            )
        fields: dict[str, Any] = {}
        for name, expression in self.mapping.items():
            try:
                given = expression.of(document)
                if name in _NAMES and type(given) is int:
                    given = str(given)
            except ValueError as error:
                raise self._refused(
                    f"{self._place(name)} fails on this record: {error}", fields
                ) from None
            if given is not None and (given != "" or name in _MEANT_EMPTY):
                fields[name] = given
        return fields

    def _id_of(self, key: bytes | None) -> str:
        reason = ""
        text = ""
        try:
            text = (key or b"").decode()
        except UnicodeDecodeError:
            reason = "its key is not UTF-8"
        if not reason and not text:
            reason = "it has no key"
        elif "\0" in text:
            reason = "its key is not text: it holds a zero byte"
        elif len(text) > 256:
            reason = f"its key has {len(text)} characters, and an event's id at most 256"
        if reason:
            raise self._refused(
                f"the key of a record of {self.name} is the event's id (key_is_event_id), and "
                f"{reason}; send the id as plain text, or map event_id instead"
            )
        return text

    def _second_look(self, fields: Mapping[str, Any], refused: Refused) -> Refused:
        """The same refusal, by the field and its expression where one of them is to blame."""
        if refused.error_class is ErrorClass.TOO_LARGE or not self.mapping:
            return refused
        for name, given in fields.items():
            try:
                msgspec.convert(given, FIELDS[name])
            except msgspec.ValidationError as error:
                return self._refused(f"{self._place(name)} gives {_shown(given)}: {error}", fields)
        for name in ("event_id", "tenant"):
            if name not in fields:
                return self._refused(f"{self._place(name)} gives nothing for this record", fields)
        return refused

    def _unwritable(self, fields: Mapping[str, Any], error: Exception) -> Refused:
        name = next((name for name, given in fields.items() if not _is_writable(given)), None)
        if name is None:
            what = "a field's name"
        else:
            what = self._place(name) if name in self.mapping else f"the field {name!r}"
        reason = _one_line(error).partition(";")[0]
        return self._refused(
            f"{what} gives what cannot be written as JSON ({reason}); send a number of fewer "
            "digits, or leave it out",
            fields,
        )

    def _place(self, name: str) -> str:
        """Where a person looks for what gives a field."""
        expression = self.mapping.get(name)
        text = "there is none" if expression is None else expression.text
        return f"topics/{self.name}.yaml: mapping.{name} ({text})"

    def _refused(self, reason: str, fields: Mapping[str, Any] = _NOTHING) -> Refused:
        return Refused(
            ErrorClass.NOT_AN_EVENT,
            reason,
            event_id=text_of(fields, "event_id"),
            tenant=self.tenant or text_of(fields, "tenant"),
        )


def _encoded(fields: Mapping[str, Any]) -> bytes:
    return msgspec.json.encode(fields, order="deterministic")


def _is_writable(given: Any) -> bool:
    try:
        msgspec.json.encode(given)
    except _UNWRITABLE:
        return False
    return True


def _shown(given: Any) -> str:
    try:
        shown = msgspec.json.encode(given).decode()
    except _UNWRITABLE:
        return f"a value of type {type(given).__name__}"
    return shown if len(shown) <= _SHOWN_CHARACTERS else f"{shown[: _SHOWN_CHARACTERS - 2]} …"


def _one_line(error: Exception) -> str:
    """JMESPath draws where it is wrong, over several lines."""
    return " ".join(str(error).split()) or type(error).__name__
