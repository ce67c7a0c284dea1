"""The chart as Helm renders it: the values that tests give it, and what a render holds."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

ROOT: Final = Path(__file__).resolve().parents[2]
CHART: Final = ROOT / "helm" / "qwarden"
REGISTRY: Final = "registry.example.com:5000/team"
DIGEST: Final = "sha256:" + "0123456789abcdef" * 4
COMMIT: Final = "0123456789abcdef0123456789abcdef01234567"

# The oldest version that Chart.yaml allows, the newest that the schemas know, two between.
KUBERNETES: Final = ("1.27", "1.30", "1.34", "1.37")

Values: TypeAlias = dict[str, Any]
Manifest: TypeAlias = dict[str, Any]


def merged(*layers: Values) -> Values:
    """Later layers over earlier ones, key by key; a list is replaced as a whole."""
    result: Values = {}
    for layer in layers:
        for key, value in layer.items():
            below = result.get(key)
            both = isinstance(value, dict) and isinstance(below, dict)
            result[key] = merged(below, value) if both else copy.deepcopy(value)  # type: ignore[arg-type]
    return result


def at(path: str, value: Any) -> Values:
    """at("a.b", 1) is {"a": {"b": 1}}."""
    for key in reversed(path.split(".")):
        value = {key: value}
    tree: Values = value
    return tree


def guards(*workloads: Values) -> Values:
    """These workloads of Triton."""
    return {"triton": {"workloads": list(workloads)}}


REQUIRED: Final[Values] = {
    "image": {"registry": REGISTRY},
    "contentKey": {"secretName": "content-key"},
    "kafka": {"bootstrapServers": "kafka-0:9092,kafka-1:9092"},
    "redis": {"url": "redis://redis:6379/0"},
    "review": {"databaseUrlSecret": {"name": "review-database"}},
}
GEN: Final[Values] = {"hubId": "Qwen/Qwen3Guard-Gen-0.6B", "revision": COMMIT}
STREAM: Final[Values] = {"hubId": "Qwen/Qwen3Guard-Stream-0.6B", "revision": COMMIT}
HUB: Final = guards({"name": "guard", "models": {"gen": GEN}})
PATH: Final = guards(
    {
        "name": "guard",
        "models": {"gen": {"path": "/checkpoint"}},
        "image": f"{REGISTRY}/qwarden-triton:0.1.0-gen",
    }
)
CLAIM: Final = guards({"name": "guard", "models": {"gen": {"claim": "guards", "path": "/gen"}}})
STORE: Final = merged(
    guards({"name": "guard", "models": {"gen": {"objectUrl": "s3://models/guard/gen"}}}),
    {
        "triton": {
            "objectStore": {
                "endpoint": "https://store.example.com",
                "region": "eu-central-1",
                "secretName": "store-user",
            }
        }
    },
)
STREAMER: Final[Values] = {"streamer": {"enabled": True}}
SHARED_GPU: Final = merged(
    guards({"name": "guard", "models": {"gen": GEN, "stream": STREAM}}), STREAMER
)
OWN_GPUS: Final = merged(
    guards(
        {"name": "gen", "models": {"gen": GEN}},
        {"name": "stream", "models": {"stream": STREAM}, "replicas": 2},
    ),
    STREAMER,
)
TWO_SIZES: Final = merged(
    guards(
        {"name": "small", "models": {"gen": GEN}},
        {
            "name": "large",
            "models": {"gen": {"hubId": "Qwen/Qwen3Guard-Gen-8B", "revision": COMMIT[::-1]}},
            "resources": {
                "requests": {"cpu": "4", "memory": "24Gi"},
                "limits": {"cpu": "8", "memory": "40Gi"},
            },
            "nodeSelector": {"gpu": "h100"},
        },
    ),
    at("triton.use.gen", "large"),
)
ELSEWHERE: Final = merged(
    at("triton.address", "triton.guards.svc:8001"),
    at("triton.streamAddress", "triton-stream.guards.svc:8001"),
    STREAMER,
)
CPU: Final[Values] = {"triton": {"defaults": {"device": "cpu"}}}
SASL: Final[Values] = {
    "kafka": {
        "securityProtocol": "SASL_SSL",
        "sasl": {"secretName": "kafka-user"},
        "ca": {"secretName": "kafka-ca"},
    }
}
OAUTH: Final[Values] = {
    "kafka": {
        "securityProtocol": "SASL_SSL",
        "sasl": {"mechanism": "OAUTHBEARER"},
        "oauth": {
            "tokenUrl": "https://idp.example.com/token",
            "scope": "kafka",
            "secretName": "kafka-client",
        },
    }
}
MTLS: Final[Values] = {
    "kafka": {
        "securityProtocol": "SSL",
        "ca": {"secretName": "kafka-ca"},
        "clientCertificate": {"secretName": "kafka-client"},
    }
}
REDIS_TLS: Final[Values] = {
    "redis": {
        "url": "",
        "urlSecret": {"name": "redis"},
        "ca": {"secretName": "redis-ca"},
        "clientCertificate": {"secretName": "redis-client"},
    }
}
TRITON_TLS: Final[Values] = {
    "triton": {
        "tls": {
            "enabled": True,
            "ca": {"secretName": "triton-ca"},
            "serverCertificate": {"secretName": "triton-server"},
            "clientCertificate": {"secretName": "triton-client"},
        }
    }
}
TRUSTED: Final = at("trustedCa.secretName", "our-authorities")
DATABASE_TLS: Final[Values] = {
    "review": {
        "databaseCa": {"secretName": "database-ca"},
        "databaseClientCertificate": {"secretName": "database-client"},
    }
}
POLICIES: Final[Values] = {
    "policies": {"newsroom": "extends: strict\nrules:\n  - 'a: b'\n", "forum.de": "\textends: x"},
    "tenants": {"acme": "policies: [newsroom]\n"},
    "topicFiles": {"shop.comments": "mapping: {text: 'b:c'}\n"},
}
POLICY_MAPS: Final[Values] = {
    "existingPolicyConfigMaps": {"policies": "our-policies", "tenants": "our-tenants"}
}
REGISTRY_OF_SCHEMAS: Final[Values] = {
    "topicFiles": {"shop.comments": "tenant: acme\ndecoder: confluent\n"},
    "schemaRegistry": {
        "url": "https://registry:8081",
        "user": {"secretName": "registry-user"},
        "ca": {"secretName": "registry-ca"},
    },
}
PEOPLE: Final[Values] = {
    "review": {
        "ingress": {
            "enabled": True,
            "className": "nginx",
            "host": "review.example.com",
            "tlsSecretName": "review-tls",
        },
        "forwardedAllowIps": ["10.0.0.0/8"],
        "oidc": {
            "issuer": "https://idp.example.com",
            "clientId": "qwarden",
            "clientSecret": {"name": "review-oidc"},
            "roles": {"trust-and-safety": "reviewer"},
        },
    }
}
NO_REVIEW: Final[Values] = {"review": {"enabled": False, "databaseUrlSecret": {"name": ""}}}
SCALED: Final[Values] = {
    part: {"autoscaling": {"enabled": True}} for part in ("moderator", "streamer", "review")
} | {
    "triton": {"defaults": {"autoscaling": {"enabled": True, "maxReplicas": 4}}},
    "monitoring": {"serviceMonitor": {"enabled": True}},
}
PLACED: Final[Values] = {
    part: {
        "priorityClassName": "moderation",
        "nodeSelector": {"pool": "services"},
        "tolerations": [{"key": "services", "operator": "Exists"}],
        "affinity": {
            "nodeAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": {
                    "nodeSelectorTerms": [
                        {"matchExpressions": [{"key": "arm", "operator": "DoesNotExist"}]}
                    ]
                }
            }
        },
        "annotations": {"example.com/team": "trust"},
        "env": [{"name": "QWARDEN_TELEMETRY__LOG_LEVEL", "value": "debug"}],
    }
    for part in ("moderator", "streamer", "review")
} | {
    "triton": {
        "defaults": {
            "priorityClassName": "guard",
            "runtimeClassName": "nvidia",
            "nodeSelector": {"gpu": "h100"},
            "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}],
            "annotations": {"example.com/team": "trust"},
            "env": [{"name": "QWARDEN_ENGINE__TOKEN_BUDGET", "value": "16384"}],
        }
    }
}
BASE: Final = merged(REQUIRED, HUB)


def matrix() -> dict[str, Values]:
    """Every way to bring the model, by device, Kafka's security and policies; then the rest."""
    models = {"hub": HUB, "path": PATH}
    devices: dict[str, Values] = {"cuda": {}, "cpu": CPU}
    kafkas: dict[str, Values] = {"plain": {}, "sasl": SASL}
    policies: dict[str, Values] = {"builtin": {}, "policies": POLICIES}
    cases = {
        f"{m}-{d}-{k}-{p}": merged(REQUIRED, models[m], devices[d], kafkas[k], policies[p])
        for m, d, k, p in itertools.product(models, devices, kafkas, policies)
    }
    cases["claim"] = merged(REQUIRED, CLAIM)
    cases["object-store"] = merged(REQUIRED, STORE)
    cases["shared-gpu"] = merged(REQUIRED, SHARED_GPU)
    cases["own-gpus"] = merged(REQUIRED, OWN_GPUS)
    cases["two-sizes"] = merged(REQUIRED, TWO_SIZES)
    cases["guards-elsewhere"] = merged(REQUIRED, ELSEWHERE)
    cases["tls-without-user"] = merged(BASE, {"kafka": {"securityProtocol": "SSL"}})
    cases["kafka-by-oauth"] = merged(BASE, OAUTH)
    cases["everything-encrypted"] = merged(
        REQUIRED, SHARED_GPU, MTLS, REDIS_TLS, TRITON_TLS, DATABASE_TLS
    )
    cases["digests"] = merged(BASE, {"image": {"servicesDigest": DIGEST, "tritonDigest": DIGEST}})
    cases["private-images-and-model"] = merged(
        BASE,
        {"image": {"pullSecrets": ["pull"]}},
        {"triton": {"hub": {"tokenSecret": {"name": "hub"}, "mirror": "https://hub.example.com"}}},
    )
    cases["authorities-of-our-own"] = merged(REQUIRED, SHARED_GPU, TRUSTED)
    cases["no-redis"] = merged(BASE, at("redis.url", ""))
    cases["redis-by-secret"] = merged(BASE, {"redis": {"url": "", "urlSecret": {"name": "redis"}}})
    cases["policies-of-others"] = merged(REQUIRED, SHARED_GPU, POLICY_MAPS)
    cases["schemas"] = merged(BASE, REGISTRY_OF_SCHEMAS)
    cases["schemas-without-user"] = merged(BASE, at("schemaRegistry.url", "http://registry:8081"))
    cases["no-review"] = merged(BASE, NO_REVIEW)
    cases["people"] = merged(BASE, PEOPLE)
    cases["scaled"] = merged(REQUIRED, SHARED_GPU, SCALED)
    cases["placed"] = merged(REQUIRED, SHARED_GPU, PLACED)
    return cases


MATRIX: Final = matrix()


@dataclass(frozen=True, slots=True)
class Release:
    """One render: the values that went in, the objects and the notes that came out."""

    values: Values
    objects: tuple[Manifest, ...]
    notes: str

    def kind(self, kind: str) -> list[Manifest]:
        return [each for each in self.objects if each["kind"] == kind]

    def workloads(self) -> list[Manifest]:
        """Everything that makes pods from a template."""
        found = [each for kind in ("Deployment", "StatefulSet", "Job") for each in self.kind(kind)]
        assert found
        return found

    def pods(self) -> list[Manifest]:
        """The specs of all pods, those of `helm test` included."""
        made = [each["spec"]["template"]["spec"] for each in self.workloads()]
        return made + [each["spec"] for each in self.kind("Pod")]

    def containers(self) -> list[Manifest]:
        return [
            container
            for pod in self.pods()
            for container in pod["containers"] + pod.get("initContainers", [])
        ]

    def workload(self, component: str) -> Manifest:
        """That of one component, as `moderator` or `triton-guard`."""
        (found,) = (each for each in self.workloads() if component_of(each) == component)
        return found

    def pod(self, component: str) -> Manifest:
        pod: Manifest = self.workload(component)["spec"]["template"]["spec"]
        return pod

    def container(self, component: str) -> Manifest:
        (container,) = self.pod(component)["containers"]
        found: Manifest = container
        return found

    def guards(self) -> list[Manifest]:
        """The Deployments of Triton."""
        return [
            each for each in self.kind("Deployment") if component_of(each).startswith("triton-")
        ]


Render: TypeAlias = Callable[..., Release]


def component_of(manifest: Manifest) -> str:
    """The component that an object of the chart says it belongs to."""
    component: str = manifest["metadata"]["labels"]["app.kubernetes.io/component"]
    return component


def env(container: Manifest) -> dict[str, Any]:
    """Plain values by name; for what comes from a Secret, (secret, key)."""
    found: dict[str, Any] = {}
    for each in container.get("env", []):
        assert each["name"] not in found, f"{each['name']} is set twice"
        if "valueFrom" in each:
            reference = each["valueFrom"]["secretKeyRef"]
            found[each["name"]] = (reference["name"], reference["key"])
        else:
            found[each["name"]] = each["value"]
    return found


_OF_SECRETS: Final = {
    "QWARDEN_CONTENT_KEY": "0f" * 32,
    "QWARDEN_REDIS__URL": "rediss://:secret@redis:6379/0",
    "QWARDEN_REVIEW__DATABASE_URL": "postgresql://qwarden:secret@database/review",
}
"""Something usable for what has to have a form."""


def process_env(container: Manifest) -> dict[str, str]:
    """The environment as a process sees it, with something usable out of each Secret."""
    return {
        name: value if isinstance(value, str) else _OF_SECRETS.get(name, "from-a-secret")
        for name, value in env(container).items()
    }


def mounts(container: Manifest) -> Iterator[tuple[str, str]]:
    """(name of the volume, path) of each of its mounts."""
    for each in container.get("volumeMounts", []):
        yield each["name"], each["mountPath"]
