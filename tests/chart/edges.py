"""Who may speak to whom, as a release's NetworkPolicies say it.

Kubernetes' rules: what no policy allows is denied to a pod that any of them selects for that
direction, and a connection needs both ends. TCP alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from chart.releases import Manifest, Release, component_of

NAMESPACE = "moderation"
"""That of the release; Kubernetes gives each namespace its name as a label."""

Labels = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod, ours or somebody else's; `spec` is empty for the latter."""

    component: str
    labels: Labels
    spec: Manifest
    namespace: Labels

    def ports(self) -> set[int]:
        """Those that its containers open."""
        return {
            port["containerPort"]
            for container in self.spec.get("containers", [])
            for port in container.get("ports", [])
        }


def pods_of(release: Release) -> list[Pod]:
    """One for each workload of the release, and those of `helm test`."""
    own = {"kubernetes.io/metadata.name": NAMESPACE}
    made = [
        Pod(component_of(each), template["metadata"]["labels"], template["spec"], own)
        for each in release.workloads()
        for template in [each["spec"]["template"]]
    ]
    return made + [
        Pod(component_of(each), each["metadata"]["labels"], each["spec"], own)
        for each in release.kind("Pod")
    ]


def stranger(namespace: str, labels: Labels | None = None) -> Pod:
    """A pod of another namespace."""
    return Pod("", labels or {}, {}, {"kubernetes.io/metadata.name": namespace})


def selects(selector: Manifest, labels: Labels) -> bool:
    """Whether a label selector takes these labels; an empty one takes all."""
    wanted: Labels = selector.get("matchLabels", {})
    if not wanted.items() <= labels.items():
        return False
    for each in selector.get("matchExpressions", []):
        has = labels.get(each["key"])
        if each["operator"] == "In":
            fits = has in each["values"]
        elif each["operator"] == "NotIn":
            fits = has not in each["values"]
        else:
            assert each["operator"] in ("Exists", "DoesNotExist"), each
            fits = (has is not None) == (each["operator"] == "Exists")
        if not fits:
            return False
    return True


def lets_in(release: Release, pod: Pod, source: Pod, port: int) -> bool:
    """Whether `pod` takes a connection of `source`."""
    return _allows(release, pod, "Ingress", "from", source, port)


def lets_out(release: Release, pod: Pod, target: Pod | None, port: int) -> bool:
    """Whether `pod` may go to `target`; None is an address outside the cluster."""
    return _allows(release, pod, "Egress", "to", target, port)


def is_open(release: Release, pod: Pod, port: int) -> bool:
    """Whether anybody at all is let in at this port."""
    return any(_has_port(rule, port) for rule in _rules(release, pod, "Ingress"))


def _allows(
    release: Release, pod: Pod, direction: str, key: str, other: Pod | None, port: int
) -> bool:
    if not any(direction in each["spec"]["policyTypes"] for each in _policies(release, pod)):
        return True
    return any(
        _has_port(rule, port) and _has_peer(rule.get(key), other)
        for rule in _rules(release, pod, direction)
    )


def _policies(release: Release, pod: Pod) -> list[Manifest]:
    return [
        each
        for each in release.kind("NetworkPolicy")
        if selects(each["spec"]["podSelector"], pod.labels)
    ]


def _rules(release: Release, pod: Pod, direction: str) -> Iterator[Manifest]:
    for each in _policies(release, pod):
        yield from each["spec"].get(direction.lower(), [])


def _has_port(rule: Manifest, port: int) -> bool:
    ports = rule.get("ports")
    return ports is None or any(
        each.get("protocol", "TCP") == "TCP" and each["port"] == port for each in ports
    )


def _has_peer(peers: list[dict[str, Any]] | None, other: Pod | None) -> bool:
    if peers is None:
        return True
    return any(_is_peer(each, other) for each in peers)


def _is_peer(peer: dict[str, Any], other: Pod | None) -> bool:
    if "ipBlock" in peer:  # of addresses outside the cluster; which ones, the values say
        return other is None
    if other is None:
        return False
    if "namespaceSelector" in peer:
        if not selects(peer["namespaceSelector"], other.namespace):
            return False
    elif other.namespace.get("kubernetes.io/metadata.name") != NAMESPACE:
        return False
    return selects(peer.get("podSelector", {}), other.labels)
