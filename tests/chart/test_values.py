"""What the values may be: their schema, and the sentences for what it cannot say."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from types import ModuleType
from typing import Any, Final

import pytest
import yaml

from chart.releases import (
    BASE,
    CHART,
    COMMIT,
    DATABASE_TLS,
    DIGEST,
    ELSEWHERE,
    GEN,
    MATRIX,
    MTLS,
    NO_REVIEW,
    OAUTH,
    OWN_GPUS,
    PEOPLE,
    POLICIES,
    REDIS_TLS,
    REGISTRY_OF_SCHEMAS,
    SASL,
    SCALED,
    SHARED_GPU,
    STORE,
    STREAM,
    TRITON_TLS,
    TRUSTED,
    Render,
    Values,
    at,
    guards,
    merged,
)
from chart.rows import ACTIVATED, LOCAL, MONITORED, SECRETS, STRIMZI


def models(**ways: Any) -> Values:
    """One workload whose gen model comes so."""
    return guards({"name": "guard", "models": {"gen": ways}})


MISTAKES: Final[list[tuple[str, Values, str]]] = [
    ("no registry", at("image.registry", ""), "`make images REGISTRY=...`"),
    ("latest", at("image.tag", "latest"), "image.tag is latest"),
    ("no content key", at("contentKey.secretName", ""), "contentKey.secretName is empty"),
    ("no Kafka", at("kafka.bootstrapServers", ""), "kafka.bootstrapServers is empty"),
    (
        "SASL without a Secret",
        at("kafka.securityProtocol", "SASL_SSL"),
        "kafka.sasl.secretName is empty",
    ),
    (
        "a password that is not sent",
        at("kafka.sasl.secretName", "kafka-user"),
        "kafka.securityProtocol is PLAINTEXT, which sends no password",
    ),
    (
        "a password beside a token",
        merged(OAUTH, at("kafka.sasl.secretName", "kafka-user")),
        "kafka.sasl.mechanism is OAUTHBEARER, which sends no password",
    ),
    (
        "a token from nowhere",
        merged(OAUTH, at("kafka.oauth.tokenUrl", "")),
        "kafka.sasl.mechanism is OAUTHBEARER but kafka.oauth.tokenUrl",
    ),
    (
        "a token for nobody",
        merged(OAUTH, at("kafka.oauth.secretName", "")),
        "or kafka.oauth.secretName is empty",
    ),
    (
        "a token that nobody shows",
        merged(SASL, at("kafka.oauth.tokenUrl", "https://idp.example.com")),
        "kafka.oauth is given but nothing asks for a token",
    ),
    (
        "an authority that is not asked",
        at("kafka.ca.secretName", "kafka-ca"),
        "kafka.securityProtocol is PLAINTEXT, which is not encrypted",
    ),
    (
        "a certificate that is not shown",
        at("kafka.clientCertificate.secretName", "kafka-client"),
        "kafka.clientCertificate.secretName is given but",
    ),
    ("two of Redis", at("redis.urlSecret.name", "redis"), "are both given"),
    (
        "Redis password in clear",
        at("redis.url", "redis://:secret@redis:6379"),
        "put the URL into a Secret",
    ),
    (
        "an authority of a Redis in clear",
        at("redis.ca.secretName", "redis-ca"),
        "redis.ca.secretName is given but redis.url is not encrypted",
    ),
    (
        "writes that never succeed",
        at("topics.minInsyncReplicas", 4),
        "topics.minInsyncReplicas is 4, above topics.replicationFactor 3",
    ),
    (
        "a registry's password in clear",
        at("schemaRegistry.url", "http://me:secret@registry:8081"),
        "give its name as schemaRegistry.user.secretName",
    ),
    (
        "a user of no registry",
        at("schemaRegistry.user.secretName", "registry-user"),
        "schemaRegistry.url is empty but a Secret for it is given",
    ),
    (
        "a registry's authority that is not asked",
        at("schemaRegistry", {"url": "http://registry:8081", "ca": {"secretName": "ca"}}),
        "schemaRegistry.url is http://, which is not encrypted",
    ),
    (
        "schemas that are nowhere",
        {"topicFiles": {"shop.comments": "name: shop.comments\ndecoder: 'confluent'\n"}},
        "topicFiles.shop.comments says decoder: confluent but schemaRegistry.url is empty",
    ),
    (
        "policies twice",
        merged(POLICIES, at("existingPolicyConfigMaps.policies", "ours")),
        "policies and existingPolicyConfigMaps.policies are both given",
    ),
    (
        "topics twice",
        merged(POLICIES, at("existingPolicyConfigMaps.topics", "ours")),
        "topicFiles and existingPolicyConfigMaps.topics are both given",
    ),
    ("no guard", at("triton.workloads", []), "triton has no gen model"),
    (
        "no guard of events",
        guards({"name": "stream", "models": {"stream": STREAM}}),
        "triton has no gen model",
    ),
    (
        "a guard's image that moves",
        at("triton.defaults.image", "registry.example.com/guards/gen:latest"),
        "triton.workloads[guard].image is registry.example.com/guards/gen:latest",
    ),
    ("no model", models(), "triton.workloads[guard].models.gen is empty"),
    (
        "two ways to a model",
        models(hubId="Qwen/Qwen3Guard-Gen-0.6B", revision=COMMIT, path="/checkpoint"),
        "triton.workloads[guard].models.gen gives hubId and path",
    ),
    (
        "a volume beside a store",
        models(claim="guards", objectUrl="s3://models/gen"),
        "gives objectUrl and claim",
    ),
    ("a branch", models(hubId="Qwen/Qwen3Guard-Gen-0.6B", revision="main"), "40 hexadecimal"),
    ("no revision", models(hubId="Qwen/Qwen3Guard-Gen-0.6B"), "40 hexadecimal digits"),
    (
        "a revision of a folder",
        models(path="/checkpoint", revision=COMMIT),
        "revision is given without hubId",
    ),
    (
        "a store without an address",
        models(objectUrl="s3://models/gen"),
        "triton.objectStore.endpoint is empty",
    ),
    (
        "two workloads with one name",
        guards({"name": "a", "models": {"gen": GEN}}, {"name": "a", "models": {"stream": STREAM}}),
        "triton.workloads[a] stands there twice",
    ),
    (
        "a guard here and elsewhere",
        at("triton.address", "triton.guards.svc:8001"),
        "triton.address is given and triton.workloads[guard] has gen",
    ),
    (
        "a stream guard here and elsewhere",
        merged(SHARED_GPU, at("triton.streamAddress", "triton.guards.svc:8001")),
        "triton.streamAddress is given and triton.workloads[guard] has stream",
    ),
    (
        "a streamer without its guard",
        at("streamer.enabled", True),
        "no workload of triton.workloads has stream",
    ),
    (
        "a guard in use that is not there",
        at("triton.use.gen", "large"),
        "triton.use.gen is large, and no workload of that name has gen",
    ),
    (
        "a guard in use that has another model",
        merged(OWN_GPUS, at("triton.use.stream", "gen")),
        "triton.use.stream is gen, and no workload of that name has stream",
    ),
    (
        "a guard's authority that is not asked",
        at("triton.tls.ca.secretName", "triton-ca"),
        "triton.tls names a Secret but triton.tls.enabled is false",
    ),
    (
        "a guard without its certificate",
        at("triton.tls.enabled", True),
        "triton.tls.serverCertificate.secretName is empty",
    ),
    (
        "a guard that knows nobody",
        merged(TRITON_TLS, at("triton.tls.ca.secretName", "")),
        "triton.tls.ca.secretName is empty",
    ),
    ("no database", at("review.databaseUrlSecret.name", ""), "or make review.enabled false"),
    (
        "an ingress without a name",
        at("review.ingress.enabled", True),
        "review.ingress.host is empty",
    ),
    (
        "an ingress to nothing",
        merged(NO_REVIEW, PEOPLE, at("review.enabled", False)),
        "review.ingress.enabled is true but review.enabled is false",
    ),
    (
        "an issuer that does not know us",
        at("review.oidc.issuer", "https://idp.example.com"),
        "review.oidc.clientId or review.oidc.clientSecret.name is empty",
    ),
    (
        "a client of no issuer",
        at("review.oidc.clientId", "qwarden"),
        "review.oidc.issuer is empty",
    ),
    (
        "bounds that exclude each other",
        at("moderator.autoscaling", {"enabled": True, "minReplicas": 13}),
        "moderator.autoscaling.minReplicas is 13, above maxReplicas 12",
    ),
    (
        "a guard's bounds that exclude each other",
        at("triton.defaults.autoscaling", {"enabled": True, "minReplicas": 3}),
        "triton.workloads[guard].autoscaling.minReplicas is 3, above maxReplicas 2",
    ),
    (
        "a model in an image that has none",
        models(path="/checkpoint"),
        "triton.workloads[guard].models.gen.path is a directory in an image of your own",
    ),
    *(
        (
            f"a guard called {name} that the rules never find",
            guards({"name": name, "models": {"gen": GEN}}),
            f"triton.workloads[{name}]: the rules take a workload's name from",
        )
        for name in ("triton", "my-triton", "triton-4b", "a-triton-b")
    ),
    (
        "two services of one consumer group",
        at("review.groupId", "qwarden-moderator"),
        "kafka.groupId and review.groupId are both qwarden-moderator",
    ),
    (
        "alerts that never fire",
        at("monitoring.rules.enabled", True),
        "monitoring.rules.enabled is true but monitoring.serviceMonitor.enabled is false",
    ),
    (
        "a scaler that never knows anything",
        at("moderator.autoscaling.enabled", True),
        "moderator.autoscaling.enabled is true but monitoring.serviceMonitor.enabled is false",
    ),
    (
        "a guard's scaler that never knows anything",
        at("triton.defaults.autoscaling.enabled", True),
        "triton.workloads.guard.autoscaling.enabled is true but monitoring.serviceMonitor",
    ),
    (
        "pods that are counted twice",
        at("monitoring", {"serviceMonitor": {"enabled": True}, "ownScraping": True}),
        "monitoring.serviceMonitor.enabled and monitoring.ownScraping are both true",
    ),
    (
        "a pod taken away before the one before it has stopped",
        merged(SCALED, at("autoscaling.scaleDownSeconds", 60), at("review.drainSeconds", 50)),
        "autoscaling.scaleDownSeconds is 60, and a pod of the review may take 75 to stop",
    ),
    (
        "a Prometheus that is shown nothing",
        at("autoscaling.authentication.modes", "bearer"),
        "autoscaling.authentication.name is empty",
    ),
    (
        "a Secret that nobody reads",
        merged(SECRETS, at("externalSecrets.keys.content-kay", {"k": {"key": "moderation"}})),
        "externalSecrets.keys names content-kay, which no other value does",
    ),
    (
        "Secrets from nowhere",
        merged(SECRETS, at("externalSecrets.store.name", "")),
        "externalSecrets.store.name is empty",
    ),
    (
        "no Secrets",
        at("externalSecrets", {"enabled": True, "store": {"name": "vault"}}),
        "externalSecrets.keys is empty",
    ),
    ("Strimzi's topics for no Kafka", at("topics.create", "strimzi"), "clusterLabel is empty"),
    ("nothing to activate", at("policyActivation.enabled", True), "there are no policies"),
    (
        "another policy to activate",
        merged(POLICIES, at("policyActivation", {"enabled": True, "policies": ["forum"]})),
        "policyActivation.policies names forum, but policies has no such policy",
    ),
    ("a trial without a password", at("local.enabled", True), "local.postgresql.passwordSecret"),
    (
        "a setting of the chart's in other letters",
        at("moderator.env", [{"name": "qwarden_moderator__drain_s", "value": "90"}]),
        "moderator.env names qwarden_moderator__drain_s, which the chart sets itself",
    ),
]


@pytest.mark.parametrize(
    ("change", "sentence"), [m[1:] for m in MISTAKES], ids=[m[0] for m in MISTAKES]
)
def test_a_value_that_cannot_work_and_fails_only_in_the_cluster(
    helm: ModuleType, render: Render, change: Values, sentence: str
) -> None:
    with pytest.raises(helm.HelmRenderError) as caught:
        render(merged(BASE, change))
    assert sentence in str(caught.value)
    assert str(caught.value).endswith(".")


@pytest.mark.parametrize(
    "also", [{}, *(merged(BASE, m[1], at("image.registry", "")) for m in MISTAKES)]
)
def test_a_chart_without_a_registry_that_names_no_way_out(
    helm: ModuleType, render: Render, also: Values
) -> None:
    """Whatever else is wrong the registry is what it asks for first, in one sentence."""
    with pytest.raises(helm.HelmRenderError) as caught:
        render(also)
    assert str(caught.value).endswith(
        "image.registry is empty: run `make images REGISTRY=...` to build and push the images, "
        "then give the same registry as image.registry."
    )


PLACES: Final = ("moderator", "streamer", "review", "triton.defaults")
FREE_MAPS: Final = {
    *("policies", "tenants", "topicFiles", "triton.defaults.gpu", "review.oidc.roles"),
    *("review.ingress.annotations", "externalSecrets.keys"),
    *(
        f"{place}.{name}"
        for place in PLACES
        for name in ("nodeSelector", "annotations", "affinity")
    ),
    *(f"monitoring.{what}.labels" for what in ("serviceMonitor", "rules", "dashboards")),
    *(
        f"networkPolicy.{who}.{selector}"
        for who in ("scrapers", "ingressController")
        for selector in ("namespaceSelector", "podSelector")
    ),
}
"""Those whose keys the reader chooses."""


def defaults() -> Values:
    values: Values = yaml.safe_load((CHART / "values.yaml").read_text())
    return values


def folders(values: Values, prefix: str = "") -> Iterator[str]:
    """Every map in the values that has fixed keys, by path; the top is the empty path."""
    yield prefix
    for key, value in values.items():
        path = f"{prefix}.{key}" if prefix else key
        if isinstance(value, dict) and path not in FREE_MAPS:
            yield from folders(value, path)


def leaves(values: Values, prefix: str = "") -> Iterator[str]:
    for key, value in values.items():
        path = f"{prefix}.{key}" if prefix else key
        if isinstance(value, dict) and path not in FREE_MAPS:
            yield from leaves(value, path)
        else:
            yield path


@pytest.mark.parametrize("folder", list(folders(defaults())), ids=lambda path: path or "top")
def test_a_typo_in_the_values_that_is_silently_ignored(
    helm: ModuleType, render: Render, folder: str
) -> None:
    with pytest.raises(helm.HelmValuesError, match="mispeled"):
        render(merged(BASE, at(f"{folder}.mispeled".lstrip("."), "x")))


WORKLOAD: Final[Values] = {"name": "guard", "models": {"gen": GEN}}


@pytest.mark.parametrize(
    "workload",
    [
        {**WORKLOAD, "mispeled": "x"},
        {"name": "guard", "models": {"gen": {**GEN, "mispeled": "x"}}},
        {"name": "guard", "models": {"mispeled": GEN}},
        {**WORKLOAD, "autoscaling": {"mispeled": True}},
    ],
    ids=["workload", "model", "kind", "autoscaling"],
)
def test_a_typo_in_a_workload_that_is_silently_ignored(
    helm: ModuleType, render: Render, workload: Values
) -> None:
    with pytest.raises(helm.HelmValuesError, match="mispeled"):
        render(merged(BASE, guards(workload)))


@pytest.mark.parametrize(
    ("path", "value", "named"),
    [
        ("topics.partitions", "12", "partitions"),
        ("kafka.securityProtocol", "sasl_ssl", "securityProtocol"),
        ("kafka.bootstrapServers", "kafka", "bootstrapServers"),
        ("kafka.sasl.mechanism", "GSSAPI", "mechanism"),
        ("kafka.oauth.tokenUrl", "idp.example.com", "tokenUrl"),
        ("image.registry", "https://registry.example.com", "registry"),
        ("image.registry", "registry.example.com/", "registry"),
        ("image.tritonDigest", "0123", "tritonDigest"),
        ("redis.url", "redis:6379", "url"),
        ("redis.url", "sentinel://redis:26379/main", "url"),
        ("moderator.autoscaling.minReplicas", 0, "minReplicas"),
        ("moderator.drainSeconds", 0, "drainSeconds"),
        ("moderator.env", {"QWARDEN_LOG": "debug"}, "env"),
        ("moderator.env", [{"name": "QWARDEN_LOG"}], "env"),
        ("moderator.podDisruptionBudget.maxUnavailable", 0, "maxUnavailable"),
        ("moderator.affinity", {"pods": {}}, "nodeAffinity"),
        ("review.publicUrl", "review.example.com", "publicUrl"),
        ("review.forwardedAllowIps", ["proxy"], "forwardedAllowIps"),
        ("review.oidc.roles", {"people": "boss"}, "roles"),
        ("triton.defaults.device", "gpu", "device"),
        ("triton.defaults.image", "registry.example.com/guards/gen", "image"),
        ("triton.address", "triton.guards.svc", "address"),
        ("triton.streamAddress", "a:8001 b:8001", "streamAddress"),
        ("triton.objectStore.endpoint", "https://store.example.com/models", "endpoint"),
        ("triton.workloads", [{"name": "guard"}], "models"),
        ("triton.workloads", [{"name": "guard", "models": {}}], "models"),
        ("triton.workloads", [{**WORKLOAD, "name": "a-name-too-long"}], "name"),
        ("triton.workloads", [{"name": "g", "models": {"gen": {"path": "gen"}}}], "path"),
        ("triton.workloads", [{"name": "g", "models": {"gen": {"objectUrl": "x"}}}], "objectUrl"),
        ("policies", {"newsroom": {"extends": "strict"}}, "policies"),
        ("policies", {"../newsroom": "extends: strict"}, "../newsroom"),
        ("topicFiles", {"shop/comments": "tenant: acme"}, "shop/comments"),
        ("schemaRegistry.url", "registry:8081", "url"),
        ("moderator.resources.limits", {"cpu": "1", "memory": "lots"}, "memory"),
        ("moderator.resources", {"requests": None}, "requests"),
    ],
)
def test_a_value_of_the_wrong_shape(
    helm: ModuleType, render: Render, path: str, value: Any, named: str
) -> None:
    with pytest.raises(helm.HelmValuesError, match=re.escape(named)):
        render(merged(BASE, at(path, value)))


# One other value for each: (path, what must hold for it to be read, the other value).
def placing(component: str, given: Values) -> list[tuple[str, Values, Any]]:
    """What says where the pods of a component run, and how many."""
    given = merged(given, at("monitoring.serviceMonitor.enabled", True))
    scaled = merged(given, at(f"{component}.autoscaling.enabled", True))
    tolerations = [{"key": "pool", "operator": "Exists"}]
    name = "QWARDEN_ENGINE__FLOOR" if component == "triton.defaults" else "QWARDEN_LOG"
    return [
        (f"{component}.replicas", given, 3),
        (f"{component}.autoscaling.enabled", given, True),
        (f"{component}.autoscaling.minReplicas", scaled, 2 if component[0] == "t" else 3),
        (f"{component}.autoscaling.maxReplicas", scaled, 9),
        (f"{component}.podDisruptionBudget.enabled", given, False),
        (f"{component}.podDisruptionBudget.maxUnavailable", given, "25%"),
        (f"{component}.priorityClassName", given, "other"),
        (f"{component}.nodeSelector", given, {"pool": "other"}),
        (f"{component}.tolerations", given, tolerations),
        (f"{component}.affinity", given, {"podAntiAffinity": {}}),
        (f"{component}.topologySpread", given, False),
        (f"{component}.annotations", given, {"team": "other"}),
        (f"{component}.env", given, [{"name": name, "value": "0.5"}]),
    ]


def certificate(path: str, given: Values) -> list[tuple[str, Values, Any]]:
    return [(f"{path}.{name}", given, "other") for name in ("secretName", "certKey", "keyKey")]


def authority(path: str, given: Values) -> list[tuple[str, Values, Any]]:
    return [(f"{path}.{name}", given, "other") for name in ("secretName", "secretKey")]


def reference(path: str, given: Values) -> list[tuple[str, Values, Any]]:
    return [(f"{path}.{name}", given, "other") for name in ("name", "key")]


AWAY: Final = merged(ELSEWHERE, at("triton.workloads", []))
OTHER_LABELS: Final = {"team": "other"}
TOPICS: Final = merged(BASE, STRIMZI)

OTHERS: Final[list[tuple[str, Values, Any]]] = [
    ("image.registry", {}, "elsewhere.example.com"),
    ("image.tag", {}, "9.9.9"),
    ("image.servicesDigest", {}, DIGEST),
    ("image.tritonDigest", {}, DIGEST),
    ("image.pullPolicy", {}, "Always"),
    ("image.pullSecrets", {}, ["pull"]),
    ("contentKey.secretName", {}, "other"),
    ("contentKey.secretKey", {}, "other"),
    *authority("trustedCa", TRUSTED),
    ("kafka.bootstrapServers", {}, "other:9092"),
    ("kafka.securityProtocol", {}, "SSL"),
    ("kafka.groupId", {}, "other"),
    ("kafka.sasl.mechanism", SASL, "PLAIN"),
    ("kafka.sasl.secretName", SASL, "other"),
    ("kafka.sasl.usernameKey", SASL, "other"),
    ("kafka.sasl.passwordKey", SASL, "other"),
    ("kafka.oauth.tokenUrl", OAUTH, "https://other"),
    *((f"kafka.oauth.{key}", OAUTH, "other") for key in ("scope", "secretName")),
    *((f"kafka.oauth.{key}", OAUTH, "other") for key in ("clientIdKey", "clientSecretKey")),
    *authority("kafka.ca", SASL),
    *certificate("kafka.clientCertificate", MTLS),
    ("redis.url", {}, "rediss+sentinel://a:26379,b:26379/main/1"),
    *reference("redis.urlSecret", MATRIX["redis-by-secret"]),
    *authority("redis.ca", REDIS_TLS),
    *certificate("redis.clientCertificate", REDIS_TLS),
    ("topics.create", {}, "none"),
    ("topics.partitions", {}, 13),
    ("topics.replicationFactor", {}, 4),
    ("topics.minInsyncReplicas", {}, 3),
    ("topics.retentionHours", {}, 200),
    ("topics.keptHours", {}, 9000),
    ("topics.strimzi.clusterLabel", TOPICS, "other"),
    ("topics.strimzi.namespace", TOPICS, "other"),
    ("policies", {}, {"newsroom": "extends: strict"}),
    ("tenants", {}, {"acme": "policies: [strict]"}),
    ("topicFiles", {}, {"shop.comments": "tenant: acme"}),
    *((f"existingPolicyConfigMaps.{each}", {}, "o") for each in ("policies", "tenants", "topics")),
    ("policyActivation.enabled", POLICIES, True),
    ("policyActivation.policies", ACTIVATED, ["forum.de"]),
    ("trial.tenant", {}, "other"),
    ("schemaRegistry.url", {}, "http://other:8081"),
    ("schemaRegistry.user.secretName", REGISTRY_OF_SCHEMAS, "other"),
    ("schemaRegistry.user.usernameKey", REGISTRY_OF_SCHEMAS, "other"),
    ("schemaRegistry.user.passwordKey", REGISTRY_OF_SCHEMAS, "other"),
    *authority("schemaRegistry.ca", REGISTRY_OF_SCHEMAS),
    *placing("moderator", {}),
    ("moderator.recordsInFlight", {}, 5),
    ("moderator.drainSeconds", {}, 61),
    *placing("streamer", SHARED_GPU),
    ("streamer.enabled", merged(SHARED_GPU, at("streamer.enabled", False)), True),
    ("streamer.groupId", SHARED_GPU, "other"),
    ("streamer.drainSeconds", SHARED_GPU, 61),
    *placing("review", {}),
    ("review.enabled", {}, False),
    ("review.groupId", {}, "other"),
    ("review.drainSeconds", {}, 61),
    *reference("review.databaseUrlSecret", {}),
    *authority("review.databaseCa", DATABASE_TLS),
    *certificate("review.databaseClientCertificate", DATABASE_TLS),
    ("review.publicUrl", {}, "https://other"),
    ("review.forwardedAllowIps", {}, ["*"]),
    ("review.ingress.enabled", merged(PEOPLE, at("review.ingress.enabled", False)), True),
    *((f"review.ingress.{key}", PEOPLE, "other") for key in ("className", "host")),
    ("review.ingress.tlsSecretName", PEOPLE, "other"),
    ("review.ingress.annotations", PEOPLE, OTHER_LABELS),
    ("review.oidc.issuer", PEOPLE, "https://other"),
    ("review.oidc.clientId", PEOPLE, "other"),
    *reference("review.oidc.clientSecret", PEOPLE),
    *((f"review.oidc.{key}", PEOPLE, "other") for key in ("audience", "scopes", "rolesClaim")),
    *((f"review.oidc.{key}", PEOPLE, "other") for key in ("tenantsClaim", "languagesClaim")),
    ("review.oidc.roles", PEOPLE, {"people": "lead"}),
    ("triton.address", AWAY, "other:8001"),
    ("triton.streamAddress", AWAY, "other:8001,third:8001"),
    ("triton.tls.enabled", AWAY, True),
    *authority("triton.tls.ca", TRITON_TLS),
    *certificate("triton.tls.serverCertificate", TRITON_TLS),
    *certificate("triton.tls.clientCertificate", TRITON_TLS),
    ("triton.use.gen", MATRIX["two-sizes"], "small"),
    (
        "triton.use.stream",
        guards(*({"name": n, "models": {"gen": GEN, "stream": STREAM}} for n in ("a", "b")))
        | at("streamer.enabled", True),
        "b",
    ),
    ("triton.hub.mirror", {}, "https://other"),
    *reference("triton.hub.tokenSecret", MATRIX["private-images-and-model"]),
    ("triton.objectStore.endpoint", STORE, "https://other"),
    *((f"triton.objectStore.{key}", STORE, "other") for key in ("region", "secretName")),
    *((f"triton.objectStore.{key}", STORE, "other") for key in ("accessKeyKey", "secretKeyKey")),
    ("triton.workloads", {}, [{"name": "other", "models": {"gen": GEN}}]),
    *placing("triton.defaults", {}),
    ("triton.defaults.device", {}, "cpu"),
    ("triton.defaults.gpu", {}, {"nvidia.com/mig-1g.10gb": 1}),
    ("triton.defaults.image", {}, "registry.example.com/guards/gen:1.2"),
    ("triton.defaults.runtimeClassName", {}, "nvidia"),
    ("triton.defaults.modelSizeLimit", {}, "33Gi"),
    ("triton.defaults.shmSizeLimit", {}, "2Gi"),
    ("triton.defaults.compileCacheSizeLimit", {}, "5Gi"),
    ("triton.defaults.startupSeconds", {}, 3600),
    ("autoscaling.type", merged(SCALED, at("triton.defaults.autoscaling.enabled", False)), "hpa"),
    ("autoscaling.prometheusAddress", SCALED, "http://other:9090"),
    ("autoscaling.authentication.name", SCALED, "thanos"),
    (
        "autoscaling.authentication.modes",
        merged(SCALED, at("autoscaling.authentication.name", "thanos")),
        "bearer",
    ),
    ("autoscaling.pollingSeconds", SCALED, 31),
    ("autoscaling.cpuPercent", SCALED, 71),
    ("autoscaling.scaleDownSeconds", SCALED, 700),
    *((f"monitoring.{what}.enabled", {}, True) for what in ("serviceMonitor", "dashboards")),
    ("monitoring.rules.enabled", at("monitoring.serviceMonitor.enabled", True), True),
    ("monitoring.ownScraping", {}, True),
    *(
        (f"monitoring.{what}.labels", MONITORED, OTHER_LABELS)
        for what in ("serviceMonitor", "rules", "dashboards")
    ),
    ("monitoring.serviceMonitor.interval", MONITORED, "31s"),
    ("monitoring.otlpEndpoint", {}, "http://other:4318"),
    ("networkPolicy.enabled", {}, False),
    *(
        (f"networkPolicy.peers.{peer}.{what}", given, other)
        for peer, given in (
            ("dns", {}),
            ("kafka", {}),
            ("oauth", OAUTH),
            ("redis", {}),
            ("triton", AWAY),
            ("database", {}),
            ("oidc", PEOPLE),
            ("schemaRegistry", REGISTRY_OF_SCHEMAS),
            ("otlp", MONITORED),
            ("hub", {}),
            ("objectStore", STORE),
        )
        for what, other in (("cidrs", ["10.1.0.0/16"]), ("ports", [7]))
    ),
    *(
        (f"networkPolicy.{who}.{selector}", PEOPLE, OTHER_LABELS)
        for who in ("scrapers", "ingressController")
        for selector in ("namespaceSelector", "podSelector")
    ),
    ("networkPolicy.reviewClients", {}, [{"podSelector": {}}]),
    ("externalSecrets.enabled", merged(SECRETS, at("externalSecrets.enabled", False)), True),
    ("externalSecrets.store.kind", SECRETS, "SecretStore"),
    ("externalSecrets.store.name", SECRETS, "other"),
    ("externalSecrets.refreshInterval", SECRETS, "2h"),
    ("externalSecrets.keys", SECRETS, {"content-key": {"content-key": {"key": "other"}}}),
    ("local.enabled", merged(LOCAL, at("local.enabled", False)), True),
    *((f"local.{part}.image", LOCAL, "o/o:1.2") for part in ("kafka", "valkey", "postgresql")),
    *((f"local.{part}.sizeLimit", LOCAL, "9Gi") for part in ("kafka", "postgresql")),
    ("local.valkey.maxMegabytes", LOCAL, 100),
    *reference("local.postgresql.passwordSecret", LOCAL),
    *(
        (f"{part}.resources.{side}.{what}", given, other)
        for part, given in (
            ("topics", {}),
            ("moderator", {}),
            ("streamer", SHARED_GPU),
            ("review", {}),
            ("triton.defaults", {}),
            ("trial", {}),
            ("policyActivation", ACTIVATED),
            ("local.kafka", LOCAL),
            ("local.valkey", LOCAL),
            ("local.postgresql", LOCAL),
        )
        for side in ("requests", "limits")
        for what, other in (("cpu", "3"), ("memory", "3Gi"))
    ),
]


@pytest.mark.parts  # two releases a value: half a minute of rendering
@pytest.mark.parametrize(("path", "given", "other"), OTHERS, ids=[each[0] for each in OTHERS])
def test_a_value_that_changes_nothing(render: Render, path: str, given: Values, other: Any) -> None:
    before = merged(BASE, given)
    after = merged(before, at(path, other))
    assert render(after).objects != render(before).objects


def test_a_value_that_no_test_changes() -> None:
    assert sorted(leaves(defaults())) == sorted(each[0] for each in OTHERS)


def test_a_value_that_the_schema_allows_and_values_yaml_hides() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())

    def resolved(node: Values) -> Values:
        return schema["$defs"][node["$ref"].split("/")[-1]] if "$ref" in node else node

    def check(node: Values, values: Values, path: str) -> None:
        node = resolved(node)
        fixed = set(node.get("properties", {})) - ({"global"} if not path else set())
        assert fixed in (set(), set(values)), path or "top"
        for key in fixed:
            if isinstance(values[key], dict):
                check(node["properties"][key], values[key], f"{path}.{key}")

    check(schema, defaults(), "")


def test_a_value_that_values_yaml_does_not_explain() -> None:
    """Each line that gives a value has a comment above it, its own or that of what it is in."""
    explained: dict[int, bool] = {}  # by indentation: the maps that the line is in
    above = False
    seen = 0
    for line in (CHART / "values.yaml").read_text().splitlines():
        text = line.strip()
        if not text or text.startswith("#"):
            above = bool(text)
            continue
        indent = len(line) - len(line.lstrip())
        explained = {depth: has for depth, has in explained.items() if depth < indent}
        if not text.endswith(":"):
            assert above or any(explained.values()), text
            seen += 1
        # A comment on a top-level map says what the map is, not what each value in it is.
        explained[indent] = above and indent > 0
        above = False
    assert seen > 40
