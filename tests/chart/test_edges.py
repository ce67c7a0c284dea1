"""The judge of NetworkPolicies, on policies whose meaning Kubernetes' documentation gives."""

from __future__ import annotations

from typing import Any, Final

from chart.edges import NAMESPACE, Pod, is_open, lets_in, lets_out, stranger
from chart.releases import Release

OWN: Final = {"kubernetes.io/metadata.name": NAMESPACE}
WEB: Final = Pod("web", {"app": "web"}, {}, OWN)
DATABASE: Final = Pod("database", {"app": "database"}, {}, OWN)


def policy(app: str | None, **spec: Any) -> dict[str, Any]:
    selector = {"matchLabels": {"app": app}} if app else {}
    return {
        "kind": "NetworkPolicy",
        "spec": {"podSelector": selector, "policyTypes": ["Ingress", "Egress"], **spec},
    }


def release(*policies: dict[str, Any]) -> Release:
    return Release({}, policies, "")


def test_a_pod_that_no_policy_selects_taken_for_a_closed_one() -> None:
    other = release(policy("database"))
    assert lets_in(other, WEB, stranger("elsewhere"), 80)
    assert lets_out(other, WEB, None, 80)
    assert not lets_in(other, DATABASE, WEB, 5432)
    assert not lets_out(other, DATABASE, None, 443)


def test_a_direction_closed_by_a_policy_of_the_other_one() -> None:
    inward = policy("web", policyTypes=["Ingress"])
    assert lets_out(release(inward), WEB, None, 443)
    assert not lets_in(release(inward), WEB, DATABASE, 80)


def test_rules_of_two_policies_that_are_not_added_up() -> None:
    rule = {"ports": [{"protocol": "TCP", "port": 5432}]}
    both = release(policy(None), policy("database", ingress=[rule]))
    assert lets_in(both, DATABASE, WEB, 5432)
    assert is_open(both, DATABASE, 5432)
    assert not lets_in(both, DATABASE, WEB, 5433)


def test_a_port_of_udp_taken_for_one_of_tcp() -> None:
    rule = {"ports": [{"protocol": "UDP", "port": 53}]}
    assert not lets_out(release(policy("web", egress=[rule])), WEB, None, 53)


def test_a_selector_of_pods_that_reaches_into_other_namespaces() -> None:
    """Without a namespaceSelector it is of the policy's own; with both a peer needs both."""
    ours = {"podSelector": {"matchLabels": {"app": "web"}}}
    theirs = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "tools"}}}
    alike = stranger("tools", {"app": "web"})

    def taken(peer: dict[str, Any], source: Pod) -> bool:
        return lets_in(release(policy("database", ingress=[{"from": [peer]}])), DATABASE, source, 1)

    assert (taken(ours, WEB), taken(ours, alike)) == (True, False)
    assert (taken(theirs, WEB), taken(theirs, alike)) == (False, True)
    both = {**ours, **theirs}
    assert (taken(both, alike), taken(both, stranger("tools"))) == (True, False)


def test_a_network_outside_taken_for_a_pod() -> None:
    rule = {"to": [{"ipBlock": {"cidr": "10.0.0.0/8"}}]}
    outward = release(policy("web", egress=[rule]))
    assert lets_out(outward, WEB, None, 443)
    assert not lets_out(outward, WEB, DATABASE, 5432)
