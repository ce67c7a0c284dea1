"""What runs once: the pod of `helm test`, the Job that activates policies; Secrets of a store."""

from __future__ import annotations

from types import ModuleType

import pytest

from chart import command_line
from chart.releases import (
    BASE,
    POLICIES,
    POLICY_MAPS,
    SASL,
    Release,
    Render,
    Values,
    at,
    env,
    merged,
)

ACTIVATION: Values = {"policyActivation": {"enabled": True}}
GOOD: Values = {"policies": {"newsroom": "name: newsroom\n", "forum.de": "name: forum.de\n"}}


def activation(release: Release) -> list[str]:
    """The files that its Job activates, in order."""
    files: list[str] = release.container("activation")["args"]
    return files


def test_a_test_that_helm_gives_up_before_it_has_said_why(render: Render) -> None:
    (pod,) = render(BASE).kind("Pod")
    assert pod["metadata"]["annotations"]["helm.sh/hook"] == "test"
    (container,) = pod["spec"]["containers"]
    assert command_line.parse(tuple(container["args"])) == "trial"
    waits = float(container["args"][container["args"].index("--timeout-s") + 1])
    assert waits <= 300 - 60  # of `helm test`, less the start of a pod and of Python


def test_a_test_that_starts_anew_and_hides_its_answer(render: Render) -> None:
    (pod,) = render(BASE).kind("Pod")
    assert pod["spec"]["restartPolicy"] == "Never"
    assert "hook-succeeded" not in pod["metadata"]["annotations"]["helm.sh/hook-delete-policy"]


def test_an_event_of_a_tenant_that_strict_tenants_refuse(render: Render) -> None:
    (pod,) = render(merged(BASE, at("trial.tenant", "acme"))).kind("Pod")
    (container,) = pod["spec"]["containers"]
    assert container["args"][container["args"].index("--tenant") + 1] == "acme"


def test_a_policy_that_comes_into_force_unasked(render: Render) -> None:
    names = [each["metadata"]["name"] for each in render(merged(BASE, GOOD)).kind("Job")]
    assert not any("activation" in name for name in names)


def test_a_policy_that_is_activated_from_nowhere(render: Render) -> None:
    """Each file is one that the pod's volumes put there."""
    for values, files in (
        (merged(BASE, POLICIES, ACTIVATION), ["forum.de", "newsroom"]),
        (
            merged(BASE, POLICIES, ACTIVATION, at("policyActivation.policies", ["newsroom"])),
            ["newsroom"],
        ),
    ):
        release = render(values)
        root = env(release.container("activation"))["QWARDEN_POLICY__PATH"]
        assert activation(release) == [f"{root}/policies/{name}.yaml" for name in files]
        mounted = {
            m["name"]: m["mountPath"] for m in release.container("activation")["volumeMounts"]
        }
        there = {
            f"{mounted[volume['name']]}/{item['path']}"
            for volume in release.pod("activation")["volumes"]
            for item in volume.get("configMap", {}).get("items", [])
        }
        assert set(activation(release)) <= there


def test_a_policy_of_a_map_that_the_chart_cannot_see(helm: ModuleType, render: Render) -> None:
    with pytest.raises(helm.HelmRenderError, match=r"policyActivation.policies is empty: .*\.$"):
        render(merged(BASE, POLICY_MAPS, ACTIVATION))
    named = render(merged(BASE, POLICY_MAPS, ACTIVATION, at("policyActivation.policies", ["own"])))
    (volume,) = (
        each for each in named.pod("activation")["volumes"] if each["name"] == "policy-policies"
    )
    assert volume["configMap"] == {"name": "our-policies"}
    assert activation(named) == ["/etc/qwarden/policy/policies/own.yaml"]


def test_an_activation_that_waits_for_what_waits_for_it(render: Render) -> None:
    """A hook before the release would find no ConfigMap; one after it holds up helm alone, which
    gives up after 300 s by itself and would then say nothing of why."""
    job = render(merged(BASE, GOOD, ACTIVATION)).workload("activation")
    hook = job["metadata"]["annotations"]["helm.sh/hook"]
    assert hook == "post-install,post-upgrade,post-rollback"
    assert 120 < job["spec"]["activeDeadlineSeconds"] < 300


def test_a_secret_of_a_store_under_another_name(render: Render) -> None:
    keys = {
        "content-key": {"content-key": {"key": "moderation", "property": "key"}},
        "kafka-user": {"username": {"key": "kafka"}, "password": {"key": "kafka-password"}},
    }
    store = {"kind": "SecretStore", "name": "vault"}
    values = {"externalSecrets": {"enabled": True, "store": store, "keys": keys}}
    made = render(merged(BASE, SASL, values)).kind("ExternalSecret")
    assert {each["spec"]["target"]["name"] for each in made} == keys.keys()
    for each in made:
        spec = each["spec"]
        assert spec["secretStoreRef"] == store
        assert {entry["secretKey"]: entry["remoteRef"] for entry in spec["data"]} == keys[
            spec["target"]["name"]
        ]
    assert render(BASE).kind("ExternalSecret") == []
