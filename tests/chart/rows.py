"""All values that the chart is judged under: the matrix, a platform's parts, its own files."""

from __future__ import annotations

from typing import Final

import yaml

from chart.releases import (
    BASE,
    CHART,
    HUB,
    MATRIX,
    MTLS,
    OAUTH,
    PEOPLE,
    POLICIES,
    REDIS_TLS,
    REGISTRY_OF_SCHEMAS,
    REQUIRED,
    SCALED,
    SHARED_GPU,
    STORE,
    Values,
    at,
    merged,
)

STRIMZI: Final[Values] = {
    "topics": {"create": "strimzi", "strimzi": {"clusterLabel": "main", "namespace": "kafka"}}
}
MONITORED: Final[Values] = {
    "monitoring": {
        "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
        "rules": {"enabled": True, "labels": {"release": "prometheus"}},
        "dashboards": {"enabled": True},
        "otlpEndpoint": "http://collector.tracing.svc:4318",
    }
}
ACTIVATED: Final = merged(POLICIES, at("policyActivation.enabled", True))
SECRETS: Final[Values] = {
    "externalSecrets": {
        "enabled": True,
        "store": {"name": "vault"},
        "keys": {
            "content-key": {"content-key": {"key": "moderation", "property": "content-key"}},
            "review-database": {"url": {"key": "moderation-database"}},
        },
    }
}
PEERS: Final[Values] = {
    "networkPolicy": {
        "peers": {
            "kafka": {"cidrs": ["10.1.0.0/16"], "ports": [9092, 9093]},
            "redis": {"cidrs": ["10.2.0.0/16"]},
            "database": {"cidrs": ["10.3.0.7/32"], "ports": [5432]},
        },
        "reviewClients": [{"ipBlock": {"cidr": "10.9.0.0/16"}}],
    }
}


def _file(name: str) -> Values:
    loaded: Values = yaml.safe_load((CHART / name).read_text(encoding="utf-8"))
    return loaded


PRODUCTION: Final = _file("values-production.yaml")
LOCAL: Final = merged(
    # The registry, and the commit of the guard, are what its reader gives.
    *(at("image.registry", REQUIRED["image"]["registry"]), _file("values-local.yaml"), HUB),
)

ROWS: Final[dict[str, Values]] = {
    **MATRIX,
    "strimzi": merged(BASE, STRIMZI),
    "no-topics": merged(BASE, at("topics.create", "none")),
    "monitored": merged(REQUIRED, SHARED_GPU, MONITORED),
    "scaled-by-cpu": merged(
        *(REQUIRED, SHARED_GPU, SCALED, at("autoscaling.type", "hpa")),
        at("triton.defaults.autoscaling.enabled", False),
    ),
    "activated": merged(BASE, ACTIVATED),
    "external-secrets": merged(BASE, SECRETS),
    "peers": merged(BASE, PEERS),
    "no-network-policy": merged(BASE, at("networkPolicy.enabled", False)),
    "all-at-once": merged(
        *(REQUIRED, STORE, SHARED_GPU, MTLS, REDIS_TLS, REGISTRY_OF_SCHEMAS, PEOPLE, SCALED),
        *(MONITORED, SECRETS, PEERS, STRIMZI),
    ),
    "oauth-and-people": merged(REQUIRED, SHARED_GPU, OAUTH, PEOPLE, MONITORED),
    "production": PRODUCTION,
    "local": LOCAL,
}
