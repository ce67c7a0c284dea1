"""What a release gives to the Prometheus operator and to Grafana."""

from __future__ import annotations

import copy
import gzip
import json
import subprocess
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
from prometheuses import PROMTOOL, needs_promtool

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
    assert made.keys() == files.keys() | {"qwarden-deployed"}
    for name, path in files.items():
        assert made[name]["spec"] == yaml.safe_load(path.read_text(encoding="utf-8"))
        assert LABELS.items() <= made[name]["metadata"]["labels"].items()


def _facts(release: Release) -> dict[str, set[tuple[str, ...]]]:
    """The labels of each fact that the release tells the rules."""
    (made,) = [
        each
        for each in release.kind("PrometheusRule")
        if each["metadata"]["name"].endswith("-deployed")
    ]
    found: dict[str, set[tuple[str, ...]]] = {
        "qwarden:deployed": set(),
        "qwarden:autoscaled": set(),
    }
    for group in made["spec"]["groups"]:
        for rule in group["rules"]:
            assert rule["expr"] == "vector(1)"
            assert rule["labels"].pop("namespace") == "moderation"
            found[rule["record"]].add(tuple(rule["labels"].values()))
    return found


def test_a_workload_that_nobody_misses_or_that_was_taken_out_and_is_missed(render: Render) -> None:
    every = merged(REQUIRED, OWN_GPUS, MONITORED)
    for values in (
        every,
        merged(every, at("review.enabled", False)),
        merged(REQUIRED, MONITORED, {"triton": {"address": "triton.guards.svc:8001"}}),
    ):
        release = render(values)
        running = {each["metadata"]["name"] for each in release.kind("Deployment")}
        told = _facts(copy.deepcopy(release))["qwarden:deployed"]
        assert {job for job, _ in told} == running
        assert all((part == "triton") == ("-triton-" in job) for job, part in told)
    # A job is the name of its Service.
    services = {each["metadata"]["name"] for each in render(every).kind("Service")}
    assert {job for job, _ in _facts(copy.deepcopy(render(every)))["qwarden:deployed"]} <= services
    none = render(merged(every, at("review.replicas", 0)))
    assert ("qwarden-review", "service") not in _facts(copy.deepcopy(none))["qwarden:deployed"]


def test_a_fleet_that_nobody_scales_and_that_is_at_its_most(render: Render) -> None:
    every = merged(REQUIRED, OWN_GPUS, MONITORED)
    scaled = merged(every, at("moderator.autoscaling.enabled", True))
    plain = merged(scaled, at("autoscaling.type", "hpa"))
    both = merged(scaled, at("triton.defaults.autoscaling.enabled", True))
    review = merged(every, at("review.autoscaling.enabled", True))
    guards = {each["name"] for each in every["triton"]["workloads"]}
    for values, workloads in (
        (every, set()),
        (scaled, {"moderator"}),
        (plain, set()),
        (both, {"moderator", *guards}),
        (review, set()),
    ):
        told = _facts(copy.deepcopy(render(values)))["qwarden:autoscaled"]
        assert told == {(each,) for each in workloads}


@pytest.mark.long
@needs_promtool
def test_moderators_without_a_node_and_nobody_is_told_after_an_hour(
    render: Render, tmp_path: Path
) -> None:
    """What the chart makes, as Prometheus takes it: the release's facts and the shipped rules."""
    release = render(merged(REQUIRED, OWN_GPUS, MONITORED))
    for each in release.kind("PrometheusRule"):
        if each["metadata"]["name"] in ("qwarden-deployed", "qwarden-delivery"):
            path = tmp_path / f"{each['metadata']['name']}.yaml"
            path.write_text(yaml.safe_dump(each["spec"]), encoding="utf-8")
    up = 'up{namespace="moderation", job="qwarden-%s", instance="a"}'
    asked = {
        "rule_files": ["qwarden-deployed.yaml", "qwarden-delivery.yaml"],
        "group_eval_order": ["qwarden-deployed", "qwarden-delivery"],
        "evaluation_interval": "5m",
        "tests": [
            {
                "interval": "5m",
                "input_series": [
                    {"series": up % "moderator", "values": "1x12 stale"},
                    {"series": up % "review", "values": "1x400"},
                    {"series": up % "streamer", "values": "1x400"},
                ],
                "promql_expr_test": [
                    {
                        "expr": 'count by (alertname, job) (ALERTS{alertstate="firing"})',
                        "eval_time": at_time,
                        "exp_samples": [
                            {
                                "labels": f'{{alertname="QwardenServiceDown", job="{job}"}}',
                                "value": 1,
                            }
                            for job in jobs
                        ],
                    }
                    for at_time, jobs in (
                        ("1h", []),
                        ("3h", ["qwarden-moderator"]),
                        ("30h", ["qwarden-moderator"]),
                    )
                ],
            }
        ],
    }
    tests = tmp_path / "tests.yaml"
    tests.write_text(yaml.safe_dump(asked), encoding="utf-8")
    done = subprocess.run(
        [str(PROMTOOL), "test", "rules", str(tests)],
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert done.returncode == 0, done.stdout + done.stderr


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
            merged(
                *(REQUIRED, OWN_GPUS, MONITORED, at(f"monitoring.{part}.enabled", False)),
                at("monitoring.ownScraping", part == "serviceMonitor"),
            )
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
