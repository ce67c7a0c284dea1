"""What scales the workloads: which number it follows, how fast, and what it must never do."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from chart.releases import (
    CHART,
    OWN_GPUS,
    REQUIRED,
    ROOT,
    SCALED,
    SHARED_GPU,
    Manifest,
    Render,
    Values,
    at,
    component_of,
    merged,
)

KEDA = merged(REQUIRED, OWN_GPUS, SCALED)
ON_CPU: Values = {"triton": {"defaults": {"device": "cpu"}}}
HPA = merged(REQUIRED, SHARED_GPU, SCALED, ON_CPU, at("autoscaling.type", "hpa"))
RULES = ROOT / "deploy" / "prometheus" / "autoscaling.rules.yaml"


def recorded() -> set[str]:
    groups = yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
    return {rule["record"] for group in groups for rule in group["rules"] if "record" in rule}


def objects_of(render: Render, values: Values, kind: str) -> dict[str, Manifest]:
    return {component_of(each): each["spec"] for each in render(values).kind(kind)}


def test_a_workload_that_follows_a_number_that_nobody_records(render: Render) -> None:
    found = objects_of(render, KEDA, "ScaledObject")
    assert set(found) == {"moderator", "streamer", "triton-gen", "triton-stream"}
    for component, spec in found.items():
        (trigger,) = spec["triggers"]  # several mean their maximum; what gates what is the rule's
        query = trigger["metadata"]["query"]
        rule, kind, labels = re.fullmatch(
            r"max\((qwarden:desired_replicas:(\w+))(\{.*\})\)", query
        ).groups()  # type: ignore[union-attr]
        assert rule in recorded()
        assert component.startswith(kind)
        workload = component.removeprefix("triton-")
        of_workload = f',workload="{workload}"' if kind == "triton" else ""
        assert labels == f'{{namespace="moderation"{of_workload}}}'


def test_a_workload_whose_rule_takes_another_name_from_its_job(render: Render) -> None:
    """The rules read it out of the job, which a ServiceMonitor makes the name of the Service."""
    release = render(KEDA)
    (pattern,) = set(re.findall(r'"\$3", "job", "([^"]+)"', RULES.read_text(encoding="utf-8")))
    jobs = [each["metadata"]["name"] for each in release.kind("Service")]
    matches = [re.fullmatch(pattern, job) for job in jobs]
    assert sorted(match[3] for match in matches if match) == ["gen", "stream"]
    for kind in ("moderator", "streamer"):
        (own,) = set(re.findall(rf'job=~"([^"]*{kind})"', RULES.read_text(encoding="utf-8")))
        assert sum(re.fullmatch(own, job) is not None for job in jobs) == 1


def test_a_metric_that_is_gone_and_moves_the_replicas(render: Render) -> None:
    for spec in objects_of(render, KEDA, "ScaledObject").values():
        (trigger,) = spec["triggers"]
        # No value is an error, and an error leaves the replicas as they are.
        assert trigger["metadata"]["ignoreNullValues"] == "false"
        assert "fallback" not in spec
        assert spec["advanced"]["restoreToOriginalReplicaCount"] is False


def test_a_number_of_replicas_that_is_divided_by_something(render: Render) -> None:
    for spec in objects_of(render, KEDA, "ScaledObject").values():
        (trigger,) = spec["triggers"]
        assert (trigger["metricType"], trigger["metadata"]["threshold"]) == ("AverageValue", "1")


def test_a_pod_taken_away_before_the_one_before_it_has_let_go(render: Render) -> None:
    judged = 0
    for values in (KEDA, HPA):
        release = render(values)
        for kind in ("ScaledObject", "HorizontalPodAutoscaler"):
            for each in release.kind(kind):
                spec = each["spec"]
                behavior = (
                    spec.get("behavior")
                    or spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
                )
                pod = release.pod(component_of(each))
                down = behavior["scaleDown"]
                assert down["stabilizationWindowSeconds"] > pod["terminationGracePeriodSeconds"]
                (policy,) = down["policies"]
                assert (policy["type"], policy["value"]) == ("Pods", 1)
                judged += 1
    assert judged == 9


def test_replicas_outside_their_bounds(render: Render) -> None:
    bounds = {"minReplicas": 3, "maxReplicas": 9}
    release = merged(KEDA, {"moderator": {"autoscaling": bounds}})
    spec = objects_of(render, release, "ScaledObject")["moderator"]
    assert (spec["minReplicaCount"], spec["maxReplicaCount"]) == (3, 9)
    release = merged(HPA, {"moderator": {"autoscaling": bounds}})
    spec = objects_of(render, release, "HorizontalPodAutoscaler")["moderator"]
    assert (spec["minReplicas"], spec["maxReplicas"]) == (3, 9)


def test_a_workload_of_triton_that_is_scaled_against_its_own_word(render: Render) -> None:
    gen, stream = OWN_GPUS["triton"]["workloads"]
    for own, others in ((True, False), (False, True)):
        values = merged(
            KEDA,
            at("triton.defaults.autoscaling.enabled", others),
            at("triton.workloads", [{**gen, "autoscaling": {"enabled": own}}, stream]),
        )
        found = objects_of(render, values, "ScaledObject")
        assert ("triton-gen" in found, "triton-stream" in found) == (own, others)
        replicas = [each["spec"].get("replicas") for each in render(values).guards()]
        assert replicas == ([None, 2] if own else [1, None])


def test_the_review_service_by_a_rule_that_does_not_exist(render: Render) -> None:
    """It has no queue that pods would work off: people do."""
    assert "qwarden:desired_replicas:review" not in recorded()
    assert set(objects_of(render, KEDA, "HorizontalPodAutoscaler")) == {"review"}


def test_a_fleet_that_is_not_scaled_where_there_is_no_keda(render: Render) -> None:
    assert objects_of(render, HPA, "ScaledObject") == {}
    found = objects_of(render, HPA, "HorizontalPodAutoscaler")
    assert set(found) == {"moderator", "streamer", "review", "triton-guard"}
    for spec in found.values():
        (metric,) = spec["metrics"]
        assert metric["resource"]["name"] == "cpu"
        assert metric["resource"]["target"] == {"type": "Utilization", "averageUtilization": 70}


def test_a_gpu_scaled_by_the_cpu_beside_it(helm: ModuleType, render: Render) -> None:
    with pytest.raises(helm.HelmRenderError, match=r"which sees CPU alone, .*\.$"):
        render(merged(HPA, at("triton.defaults.device", "cuda")))


def test_scalers_that_nobody_asked_for(render: Render) -> None:
    release = render(merged(REQUIRED, SHARED_GPU))
    assert release.kind("ScaledObject") + release.kind("HorizontalPodAutoscaler") == []


def test_a_prometheus_that_keda_does_not_ask(render: Render) -> None:
    address = "http://prometheus.example.com:9090"
    values = merged(KEDA, at("autoscaling.prometheusAddress", address))
    for spec in objects_of(render, values, "ScaledObject").values():
        (trigger,) = spec["triggers"]
        assert trigger["metadata"]["serverAddress"] == address


def test_a_prometheus_that_asks_who_keda_is(render: Render) -> None:
    given = {"name": "thanos", "modes": "bearer"}
    values = merged(KEDA, at("autoscaling.authentication", given))
    for spec in objects_of(render, values, "ScaledObject").values():
        (trigger,) = spec["triggers"]
        assert trigger["authenticationRef"] == {"name": "thanos"}
        assert trigger["metadata"]["authModes"] == "bearer"
    for spec in objects_of(render, KEDA, "ScaledObject").values():
        (trigger,) = spec["triggers"]
        assert "authenticationRef" not in trigger and "authModes" not in trigger["metadata"]


def test_a_fleet_that_an_upgrade_takes_down_to_one_pod(helm: ModuleType, tmp_path: Path) -> None:
    """No cluster is here: what `lookup` finds in one is put in its place."""
    chart = shutil.copytree(CHART, tmp_path / "qwarden")
    helpers = chart / "templates" / "_helpers.tpl"
    text = helpers.read_text(encoding="utf-8")
    looks = re.findall(r"lookup \"apps/v1\" \"Deployment\" \S+ \(.*\) -", text)
    assert len(looks) == 1
    there = 'dict "spec" (dict "replicas" (ternary 7.0 3.0 (eq (index $ 1) "moderator"))) -'
    helpers.write_text(text.replace(looks[0], there), encoding="utf-8")
    with helm.Chart.load(chart) as loaded:
        files = loaded.render(KEDA, name="qwarden", namespace="moderation")
    found = {
        component_of(each): each["spec"]["replicas"]
        for path, text in files.items()
        if not path.endswith("NOTES.txt")
        for each in yaml.safe_load_all(text)
        if each and each["kind"] == "Deployment"
    }
    assert found.pop("moderator") == 7
    assert set(found.values()) == {3}
    assert set(found) == {"streamer", "review", "triton-gen", "triton-stream"}
