"""What the API server has against an object of a kind that is not Kubernetes's own."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import jsonschema
import yaml

from chart import go_modules


@dataclass(frozen=True, slots=True)
class Source:
    """Where a project keeps the definition of a kind: its Go module, and the file in it."""

    module: str
    file: str


_OPERATOR: Final = "example/prometheus-operator-crd/monitoring.coreos.com_{}.yaml"

SOURCES: Final = {
    "ScaledObject": Source(go_modules.KEDA, "config/crd/bases/keda.sh_scaledobjects.yaml"),
    "ExternalSecret": Source(
        go_modules.EXTERNAL_SECRETS, "config/crds/bases/external-secrets.io_externalsecrets.yaml"
    ),
    **{
        kind: Source(go_modules.PROMETHEUS_OPERATOR, _OPERATOR.format(kind.lower() + "s"))
        for kind in ("ServiceMonitor", "PrometheusRule")
    },
}

UNCHECKED: Final = frozenset({"KafkaTopic"})
"""Kinds that the chart may render and no schema judges: Strimzi publishes no Go module."""


def fault(manifest: dict[str, Any]) -> str:
    """What is wrong with an object of a kind in SOURCES, by the schema of its version; else empty.

    A field that the schema does not have is a fault too: the API server would drop it in silence.
    Rules in CEL (`x-kubernetes-validations`) are not evaluated.
    """
    validator = _validator(manifest["kind"], manifest["apiVersion"])
    error = jsonschema.exceptions.best_match(validator.iter_errors(manifest))
    return f"{'.'.join(map(str, error.path))}: {error.message}" if error else ""


@functools.cache
def _validator(kind: str, api_version: str) -> jsonschema.Draft4Validator:
    source = SOURCES[kind]
    text = Path(go_modules.folder(source.module), source.file).read_text(encoding="utf-8")
    definition = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))["spec"]
    served = {
        f"{definition['group']}/{version['name']}": version["schema"]["openAPIV3Schema"]
        for version in definition["versions"]
        if version["served"]
    }
    assert definition["names"]["kind"] == kind
    # OpenAPI 3.0's schemas are JSON Schema's draft 4, but for what `_closed` does.
    return jsonschema.Draft4Validator(_closed(served[api_version]))


def _closed(schema: dict[str, Any]) -> dict[str, Any]:
    """The same schema without room for unknown fields, and with `nullable` understood."""
    closed = dict(schema)
    if "properties" in schema:
        closed["properties"] = {name: _closed(each) for name, each in schema["properties"].items()}
        if not schema.get("x-kubernetes-preserve-unknown-fields"):
            closed.setdefault("additionalProperties", False)
    if isinstance(schema.get("additionalProperties"), dict):
        closed["additionalProperties"] = _closed(schema["additionalProperties"])
    if isinstance(schema.get("items"), dict):
        closed["items"] = _closed(schema["items"])
    if schema.get("nullable"):
        return {"anyOf": [closed, {"type": "null"}]}
    return closed
