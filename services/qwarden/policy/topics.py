"""Topics that are read beside the fleet's own, or otherwise than they say: `topics/NAME.yaml`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo, model_validator

from qwarden.contracts import topics
from qwarden.contracts.mapping import FIELDS, Expression, Topic
from qwarden.contracts.refusal import listed
from qwarden.policy.document import Document, DocumentError, as_its_file, parse
from qwarden.policy.tenants import Tenants

_TOPIC_NAME = re.compile(r"[a-zA-Z0-9._-]{1,249}")
"""What Kafka takes."""
_OWN = frozenset((*topics.ALL, topics.DECISIONS)) - {topics.CONTENT}
"""The fleet's own topics, less the one that producers write events to."""


def _readable(name: str) -> str:
    if name in _OWN:
        raise ValueError(f"{name} is the fleet's own; only others', and content.events, are mapped")
    if not _TOPIC_NAME.fullmatch(name):
        raise ValueError(f"Kafka has no topic {name!r}; it takes letters, digits, '.', '_' and '-'")
    return name


def _field(name: str) -> str:
    if name not in FIELDS:
        raise ValueError(f"an event has no field {name!r}; it has {listed(FIELDS)}")
    return name


def _expression(text: object) -> str:
    if not isinstance(text, str):
        raise ValueError(f"{text!r} is not text; put the expression in quotes")
    Expression(text)
    return text


def _known(tenant: str, info: ValidationInfo) -> str:
    tenants: Tenants | None = (info.context or {}).get("tenants")
    if tenants is not None and tenants.strict and tenant not in tenants.known:
        raise ValueError(f"no tenant is called {tenant!r}; known are {listed(tenants.known)}")
    return tenant


class TopicFile(Document):
    """The file `topics/NAME.yaml`: a topic that the moderator reads, and how."""

    name: Annotated[str, AfterValidator(as_its_file), AfterValidator(_readable)]
    tenant: Annotated[str, Field(min_length=1, max_length=256), AfterValidator(_known)] | None = (
        None
    )
    """Whose content all of it is, whatever a record says."""
    key_is_event_id: bool = False
    """A record's key is the event's id. With a tenant, a record without a value then withdraws."""
    decoder: Literal["json", "confluent"] = "json"
    """How values are written: JSON, or in the Confluent wire format (Avro, Protobuf, JSON Schema),
    for which QWARDEN_REGISTRY__URL says where the schemas are."""
    mapping: dict[
        Annotated[str, AfterValidator(_field)], Annotated[str, BeforeValidator(_expression)]
    ] = Field(default={})
    """Of each field of the event, where it stands in a record's value: an expression in JMESPath.
    Without any, the values are events."""

    @model_validator(mode="after")
    def _gives_events(self) -> TopicFile:
        if self.mapping and not self.mapping.keys() & {"text", "messages"}:
            raise ValueError("mapping has neither text nor messages, so that nothing is judged")
        if self.mapping and self.tenant is None and "tenant" not in self.mapping:
            raise ValueError("nothing says whose content it is; add tenant, or mapping.tenant")
        if self.key_is_event_id and "event_id" in self.mapping:
            raise ValueError("both key_is_event_id and mapping.event_id give the id; remove one")
        return self

    def topic(self) -> Topic:
        return Topic(
            name=self.name,
            tenant=self.tenant,
            key_is_event_id=self.key_is_event_id,
            mapping={field: Expression(text) for field, text in self.mapping.items()},
            is_confluent=self.decoder == "confluent",
        )


def read_topics(texts: Mapping[str, str], tenants: Tenants) -> dict[str, Topic]:
    """The topics that have a file, by name; `texts` from a file's name without `.yaml` to its text.

    Raises `DocumentError` with a line for everything that is wrong in any of the files.
    """
    read: dict[str, Topic] = {}
    errors: list[str] = []
    for name, text in sorted(texts.items()):
        context = {"name": name, "tenants": tenants}
        try:
            document = parse(text, file=f"topics/{name}.yaml", kind=TopicFile, context=context)
        except DocumentError as error:
            errors.append(str(error))
        else:
            read[name] = document.topic()
    if errors:
        raise DocumentError("\n".join(errors))
    return read
