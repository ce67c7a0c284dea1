"""Every object that the chart renders, by the schemas of those who will read it."""

from __future__ import annotations

import functools
import importlib
import json
from collections.abc import Callable
from typing import Final

import pytest
import yaml

from chart import custom_kinds
from chart.releases import CHART, KUBERNETES, Manifest, Release, Render, at, merged
from chart.rows import ROWS

GROUPS_OF_OTHERS: Final = (
    "keda.sh/",
    "monitoring.coreos.com/",
    "external-secrets.io/",
    "kafka.strimzi.io/",
)


@functools.cache
def fault_to_kubernetes(manifest: str, version: str) -> str:
    """What this version of Kubernetes has against an object; empty where it takes it."""
    validate = importlib.import_module("kubernetes_validate")
    try:
        validate.validate(json.loads(manifest), version, strict=True)
    except validate.ValidationError as error:
        return f"{'.'.join(map(str, error.path))}: {error.message}"
    return ""


@functools.cache
def fault_to_its_project(manifest: str) -> str:
    return custom_kinds.fault(json.loads(manifest))


@pytest.fixture(scope="session", autouse=True)
def schemas_read_once() -> None:
    """kubernetes-validate reads 2 MB of schema for each object; the files do not change."""
    utils = importlib.import_module("kubernetes_validate.utils")
    utils.schema_contents = functools.cache(utils.schema_contents)  # type: ignore[attr-defined]


@pytest.fixture(scope="session")
def rendered(render: Render) -> Callable[[str], Release]:
    """A row's release, rendered once."""
    return functools.cache(lambda row: render(ROWS[row]))


def is_of_kubernetes(manifest: Manifest) -> bool:
    return not manifest["apiVersion"].startswith(GROUPS_OF_OTHERS)


@pytest.mark.parts  # 200 releases by the schemas of four versions: ten seconds
@pytest.mark.parametrize("version", KUBERNETES)
@pytest.mark.parametrize("row", ROWS)
def test_an_object_that_kubernetes_would_refuse(
    rendered: Callable[[str], Release], row: str, version: str
) -> None:
    judged = [each for each in rendered(row).objects if is_of_kubernetes(each)]
    assert judged
    for each in judged:
        text = json.dumps(each, sort_keys=True)
        assert fault_to_kubernetes(text, version) == "", each["metadata"]["name"]


def test_a_kubernetes_version_promised_but_not_checked() -> None:
    promised = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))["kubeVersion"]
    assert promised == f">={KUBERNETES[0]}.0-0"
    newest = importlib.import_module("kubernetes_validate").latest_version()
    assert newest.startswith(f"{KUBERNETES[-1]}.")


@pytest.mark.parametrize("row", ROWS)
def test_an_object_that_keda_prometheus_or_external_secrets_would_refuse(
    rendered: Callable[[str], Release], row: str
) -> None:
    for each in rendered(row).objects:
        if each["kind"] in custom_kinds.SOURCES:
            fault = fault_to_its_project(json.dumps(each, sort_keys=True))
            assert fault == "", each["metadata"]["name"]


def test_a_kind_that_no_schema_judges(rendered: Callable[[str], Release]) -> None:
    others = {
        each["kind"] for row in ROWS for each in rendered(row).objects if not is_of_kubernetes(each)
    }
    assert others - custom_kinds.SOURCES.keys() == custom_kinds.UNCHECKED
    # And no schema is kept for what the chart never renders.
    assert others >= {"ScaledObject", "ServiceMonitor", "PrometheusRule", "ExternalSecret"}
    assert custom_kinds.SOURCES.keys() <= others


@pytest.mark.parametrize(
    ("row", "kind", "broken"),
    [
        ("scaled", "ScaledObject", at("spec.minReplicas", 1)),
        ("scaled", "ScaledObject", at("spec.maxReplicaCount", "4")),
        ("monitored", "ServiceMonitor", at("spec.endpoints", [{"port": "http", "interval": "x"}])),
        ("monitored", "PrometheusRule", at("spec.tests", [])),
        ("external-secrets", "ExternalSecret", at("spec.refreshInterval", 5)),
    ],
)
def test_a_schema_that_takes_anything(
    rendered: Callable[[str], Release], row: str, kind: str, broken: Manifest
) -> None:
    taken = rendered(row).kind(kind)[0]
    assert custom_kinds.fault(taken) == ""
    assert custom_kinds.fault(merged(taken, broken)) != ""
