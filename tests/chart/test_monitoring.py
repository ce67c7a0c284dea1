"""What a release gives to the Prometheus operator and to Grafana."""

from __future__ import annotations

import gzip
import json
import tarfile
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from chart.edges import selects
from chart.releases import (
    CHART,
    OWN_GPUS,
    REQUIRED,
    ROOT,
    Release,
    Render,
    Values,
    at,
    component_of,
    merged,
)

LABELS = {"release": "kps"}
MONITORED: Values = {
    "monitoring": {
        "serviceMonitor": {"enabled": True, "labels": LABELS, "interval": "20s"},
        "rules": {"enabled": True, "labels": LABELS},
        "dashboards": {"enabled": True, "labels": {"our_dashboard": "yes"}},
        "otlpEndpoint": "http://collector:4318",
    }
}
PROMETHEUS, GRAFANA = ROOT / "deploy" / "prometheus", ROOT / "deploy" / "grafana"


@pytest.fixture(scope="module")
def release(render: Render) -> Release:
    return render(merged(REQUIRED, OWN_GPUS, MONITORED))


def test_a_pod_that_nobody_scrapes_or_that_two_do(release: Release) -> None:
    scraped = []
    for monitor in release.kind("ServiceMonitor"):
        assert LABELS.items() <= monitor["metadata"]["labels"].items()
        (endpoint,) = monitor["spec"]["endpoints"]
        assert (endpoint["path"], endpoint["interval"]) == ("/metrics", "20s")
        for service in release.kind("Service"):
            if selects(monitor["spec"]["selector"], service["metadata"]["labels"]):
                assert endpoint["port"] in {each["name"] for each in service["spec"]["ports"]}
                scraped.append(component_of(service))
    running = [component_of(each) for each in release.kind("Deployment")]
    assert sorted(scraped) == sorted(running)
    # The annotations are for a Prometheus that looks for them, and would count everything twice.
    for each in release.kind("Deployment"):
        annotations = each["spec"]["template"]["metadata"].get("annotations") or {}
        assert "prometheus.io/scrape" not in annotations


def test_a_release_without_triton_of_its_own_that_looks_for_one(render: Render) -> None:
    elsewhere = {"triton": {"address": "triton.guards.svc:8001"}}
    (monitor,) = render(merged(REQUIRED, elsewhere, MONITORED)).kind("ServiceMonitor")
    assert monitor["metadata"]["name"] == "qwarden-services"


def test_an_alert_that_stays_in_the_checkout(release: Release) -> None:
    made = {each["metadata"]["name"]: each for each in release.kind("PrometheusRule")}
    files = {
        f"qwarden-{path.name.removesuffix('.rules.yaml')}": path
        for path in PROMETHEUS.glob("*.rules.yaml")
    }
    assert files
    assert made.keys() == files.keys()
    for name, path in files.items():
        assert made[name]["spec"] == yaml.safe_load(path.read_text(encoding="utf-8"))
        assert LABELS.items() <= made[name]["metadata"]["labels"].items()


def test_a_dashboard_that_grafana_never_finds(release: Release) -> None:
    made = {
        name: json.loads(text)
        for each in release.kind("ConfigMap")
        if each["metadata"]["labels"].get("our_dashboard") == "yes"
        for name, text in each["data"].items()
    }
    files = {path.name: json.loads(path.read_text("utf-8")) for path in GRAFANA.glob("*.json")}
    assert files
    assert made == files


def test_a_dashboard_too_large_for_a_config_map(release: Release) -> None:
    for each in release.kind("ConfigMap"):
        assert len(json.dumps(each)) < 900_000, each["metadata"]["name"]


def test_a_part_that_nobody_switched_on(render: Render) -> None:
    for part, kind in (
        ("serviceMonitor", "ServiceMonitor"),
        ("rules", "PrometheusRule"),
        ("dashboards", "ConfigMap"),
    ):
        release = render(
            merged(REQUIRED, OWN_GPUS, MONITORED, at(f"monitoring.{part}.enabled", False))
        )
        assert release.kind(kind) == []


def test_a_chart_that_carries_a_copy_of_the_rules() -> None:
    """Two would differ one day. Helm follows the links."""
    for name, folder in (("prometheus", PROMETHEUS), ("grafana", GRAFANA)):
        link = CHART / "files" / name
        assert link.is_symlink()
        assert not Path(link.readlink()).is_absolute()
        assert link.resolve() == folder


@pytest.fixture(scope="module")
def packed(helm: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The chart as it is handed on."""
    return Path(helm.package(CHART, destination=tmp_path_factory.mktemp("packed")))


def test_a_packed_chart_that_has_lost_what_its_links_lead_to(packed: Path) -> None:
    with tarfile.open(packed) as archive:
        names = set(archive.getnames())
    for folder, pattern in ((PROMETHEUS, "*.rules.yaml"), (GRAFANA, "*.json")):
        for path in folder.glob(pattern):
            assert f"qwarden/files/{folder.name}/{path.name}" in names


def test_a_release_that_helm_cannot_keep(release: Release, packed: Path) -> None:
    """Chart and objects, gzipped and in base64, go into one Secret, which holds 1 MiB."""
    objects = yaml.safe_dump_all(release.objects).encode()
    kept = packed.stat().st_size + len(gzip.compress(objects))
    assert kept * 4 / 3 < 0.6 * 1024 * 1024
