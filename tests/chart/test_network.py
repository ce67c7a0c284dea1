"""Peers outside a release, and callers from outside it, as the values say them. That the pods' own
edges are those of the picture is judged in test_assertions.py, over all values."""

from __future__ import annotations

import re
from typing import Any

import pytest

from chart.edges import Pod, lets_in, lets_out, pods_of, stranger
from chart.releases import (
    BASE,
    CHART,
    ELSEWHERE,
    OAUTH,
    PEOPLE,
    REGISTRY_OF_SCHEMAS,
    REQUIRED,
    SHARED_GPU,
    STORE,
    Release,
    Render,
    Values,
    at,
    merged,
)
from chart.rows import LOCAL, PRODUCTION

OTLP = at("monitoring.otlpEndpoint", "http://collector.tracing.svc:4318")
ALL = merged(REQUIRED, SHARED_GPU, OAUTH, PEOPLE, REGISTRY_OF_SCHEMAS, OTLP)

# Who has which peer, and at which ports: (peer, values, component, ports).
PEERS: list[tuple[str, Values, str, list[int]]] = [
    ("dns", BASE, "moderator", [53]),
    ("kafka", BASE, "moderator", [9092]),
    ("kafka", at("kafka.bootstrapServers", "a:9094,b:9095,c:9094"), "topics", [9094, 9095]),
    ("oauth", ALL, "review", [443]),
    ("redis", BASE, "moderator", [6379]),
    ("redis", at("redis", {"url": "", "urlSecret": {"name": "redis"}}), "moderator", [6379]),
    ("redis", at("redis.url", "rediss+cluster://a:7000,b:7001"), "moderator", [7000, 7001]),
    (
        "redis",
        at("redis.url", "redis+sentinel://a,b:26380/main"),
        "moderator",
        [6379, 26379, 26380],
    ),
    ("triton", merged(REQUIRED, ELSEWHERE), "moderator", [8001]),
    ("database", BASE, "review", [5432]),
    ("oidc", ALL, "review", [443]),
    ("oidc", merged(ALL, at("review.oidc.issuer", "http://idp:8080/realm")), "review", [8080]),
    ("schemaRegistry", ALL, "moderator", [8081]),
    ("schemaRegistry", at("schemaRegistry.url", "http://registry/api"), "moderator", [80]),
    ("otlp", ALL, "streamer", [4318]),
    ("hub", BASE, "triton-guard", [443]),
    ("hub", at("triton.hub.mirror", "http://hub.example.com:8000"), "triton-guard", [8000]),
    ("objectStore", merged(REQUIRED, STORE), "triton-guard", [443]),
]


def complete(values: Values) -> Values:
    return values if "image" in values else merged(BASE, values)


def pod(release: Release, component: str) -> Pod:
    (found,) = (each for each in pods_of(release) if each.component == component)
    return found


def rules_out(release: Release, component: str) -> list[Any]:
    """Those of a component's own policy, and of the one for all, that lead out of the release."""
    return [
        rule
        for each in release.kind("NetworkPolicy")
        if each["metadata"]["name"] in ("qwarden-default", f"qwarden-{component}")
        for rule in each["spec"].get("egress", [])
        if not any("podSelector" in peer for peer in rule.get("to", []))
    ]


def ports_of(rule: Any) -> list[int]:
    return sorted({each["port"] for each in rule["ports"]})


@pytest.mark.parametrize(
    ("peer", "values", "component", "ports"),
    PEERS,
    ids=[f"{each[0]}-{'-'.join(map(str, each[3]))}" for each in PEERS],
)
def test_a_peer_at_other_ports_or_networks_than_the_values_say(
    render: Render, peer: str, values: Values, component: str, ports: list[int]
) -> None:
    values = complete(values)
    open_rule = next(
        rule for rule in rules_out(render(values), component) if ports_of(rule) == ports
    )
    assert "to" not in open_rule  # without a CIDR by port alone
    given = {"cidrs": ["10.7.0.0/16", "fd00::/8"], "ports": [4711]}
    closed = merged(values, at(f"networkPolicy.peers.{peer}", given))
    (rule,) = (r for r in rules_out(render(closed), component) if ports_of(r) == [4711])
    assert [each["ipBlock"]["cidr"] for each in rule["to"]] == given["cidrs"]


@pytest.mark.parametrize(
    ("peer", "component"),
    [
        ("oauth", "moderator"),
        ("redis", "review"),
        ("triton", "moderator"),
        ("database", "moderator"),
        ("oidc", "review"),
        ("schemaRegistry", "moderator"),
        ("otlp", "moderator"),
        ("hub", "moderator"),
        ("objectStore", "triton-guard"),
    ],
)
def test_a_peer_that_the_values_do_not_have_and_may_be_asked(
    render: Render, peer: str, component: str
) -> None:
    values = merged(BASE, at(f"networkPolicy.peers.{peer}", {"ports": [4711]}))
    assert not any(ports_of(rule) == [4711] for rule in rules_out(render(values), component))


def test_a_prometheus_in_another_namespace_that_is_kept_out(render: Render) -> None:
    there = {"namespaceSelector": {"kubernetes.io/metadata.name": "observability"}}
    by_team: Values = {"namespaceSelector": {"team": "observability"}}
    anywhere: Values = {"namespaceSelector": None}
    named = {"podSelector": {"app": "prometheus"}}
    prometheus = {"app": "prometheus"}
    for scrapers, lets in (
        ({}, {"monitoring"}),
        (there, {"observability"}),
        (anywhere, {"monitoring", "observability"}),
    ):
        release = render(merged(BASE, at("networkPolicy.scrapers", scrapers)))
        for component, port in (("moderator", 8080), ("review", 8080), ("triton-guard", 8002)):
            target = pod(release, component)
            for namespace in ("monitoring", "observability"):
                caller = stranger(namespace)
                assert lets_in(release, target, caller, port) == (namespace in lets)
    release = render(merged(BASE, at("networkPolicy.scrapers", named)))
    target = pod(release, "moderator")
    assert lets_in(release, target, stranger("monitoring", prometheus), 8080)
    # Another label takes the place of the usual one, and does not stand beside it.
    release = render(merged(BASE, at("networkPolicy.scrapers", by_team)))
    theirs = Pod("", {}, {}, {"kubernetes.io/metadata.name": "o11y", "team": "observability"})
    assert lets_in(release, pod(release, "moderator"), theirs, 8080)
    release = render(merged(BASE, at("networkPolicy.scrapers", named)))
    target = pod(release, "moderator")
    assert not lets_in(release, target, stranger("monitoring", {"app": "other"}), 8080)


def test_a_worked_example_whose_policies_keep_its_own_services_out(render: Render) -> None:
    """Its addresses are in Secrets, which the chart does not see, and in comments beside them."""
    text = (CHART / "values-production.yaml").read_text(encoding="utf-8")
    release = render(PRODUCTION)
    for found, component, more in (
        (re.search(r"# rediss\+sentinel://[^@]+@(\S+)/main/0", text), "moderator", [6379]),
        (re.search(r"# postgresql://[^@]+@([^/]+)/", text), "review", []),
    ):
        assert found
        named = [int(host.partition(":")[2] or 5432) for host in found[1].split(",")]
        for port in {*named, *more}:
            assert lets_out(release, pod(release, component), None, port), port


def test_an_ingress_controller_in_another_namespace_that_is_kept_out(render: Render) -> None:
    for given, lets in (
        ({}, {"ingress-nginx"}),
        ({"namespaceSelector": {"kubernetes.io/metadata.name": "traefik"}}, {"traefik"}),
        ({"namespaceSelector": None}, {"ingress-nginx", "traefik"}),
    ):
        values = merged(BASE, PEOPLE, at("networkPolicy.ingressController", given))
        release = render(values)
        for namespace in ("ingress-nginx", "traefik"):
            let = lets_in(release, pod(release, "review"), stranger(namespace), 8080)
            assert let == (namespace in lets)


def test_a_trial_with_a_database_of_somebody_else_s(render: Render) -> None:
    release = render(LOCAL)
    review = pod(release, "review")
    assert lets_out(release, review, None, 5432)
    assert lets_out(release, review, pod(release, "local-postgresql"), 5432)


def test_a_review_tool_that_is_kept_out_or_reaches_more(render: Render) -> None:
    tool = stranger("trust", {"app": "our-tool"})
    peer = {
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "trust"}},
        "podSelector": {"matchLabels": {"app": "our-tool"}},
    }
    release = render(merged(BASE, at("networkPolicy.reviewClients", [peer])))
    assert lets_in(release, pod(release, "review"), tool, 8080)
    assert not lets_in(release, pod(release, "review"), stranger("trust"), 8080)
    assert not lets_in(release, pod(release, "moderator"), tool, 8080)


def test_a_network_policy_that_is_not_wanted(render: Render) -> None:
    release = render(merged(ALL, at("networkPolicy.enabled", False)))
    assert release.kind("NetworkPolicy") == []
