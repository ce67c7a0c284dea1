"""The services in the chart, as Kubernetes would get them."""

from __future__ import annotations

import json
import re
from types import ModuleType
from typing import Any

import pytest
import yaml
from starlette.routing import Mount, Route

from chart.releases import (
    BASE,
    CHART,
    DATABASE_TLS,
    DIGEST,
    MATRIX,
    MTLS,
    OAUTH,
    PEOPLE,
    PLACED,
    POLICIES,
    POLICY_MAPS,
    REDIS_TLS,
    REGISTRY,
    REQUIRED,
    SASL,
    SCALED,
    SHARED_GPU,
    TRITON_TLS,
    Manifest,
    Release,
    Render,
    at,
    component_of,
    env,
    merged,
    mounts,
    process_env,
)
from chart.rows import ROWS
from chart.stopping import needed_s
from qwarden import __version__, settings
from qwarden.policy.tenants import read_tenants
from qwarden.policy.topics import read_topics
from qwarden.review.http import auth
from qwarden.review.http.app import routes

SERVICES = {"moderator", "streamer", "review"}


@pytest.mark.parametrize("case", [*MATRIX, "production", "local"])
def test_a_chart_that_helm_lint_refuses(helm: ModuleType, case: str) -> None:
    report = helm.lint(CHART, ROWS[case], strict=True)
    faults = [each for each in report["messages"] if each["severity"] >= 2]
    assert (report["total_charts_linted"], report["errors"], faults) == (1, [], [])


@pytest.mark.parametrize(
    "name", ["a", "qwarden", "my-qwarden-fleet", "x" * 53, "qwarden-" * 6 + "a"]
)
def test_a_release_name_that_makes_names_too_long(render: Render, name: str) -> None:
    longest = {"name": "w" * 12, "models": {"gen": {"claim": "guards"}}}
    workloads = [*SHARED_GPU["triton"]["workloads"], longest]
    values = merged(REQUIRED, SHARED_GPU, POLICIES, at("triton.workloads", workloads))
    for each in render(values, name=name, revision=1000).objects:
        assert re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", each["metadata"]["name"])
        for label in each["metadata"]["labels"].values():
            assert len(label) <= 63


def test_a_digest_that_is_ignored(render: Render) -> None:
    release = render(MATRIX["digests"])
    for component in ("moderator", "review", "topics"):
        assert release.container(component)["image"] == f"{REGISTRY}/qwarden@{DIGEST}"
    assert release.container("triton-guard")["image"] == f"{REGISTRY}/qwarden-triton@{DIGEST}"


def test_a_chart_that_asks_for_images_of_another_version() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["appVersion"] == __version__


# Which services there are


def test_a_service_that_runs_unasked_or_does_not_run(render: Render) -> None:
    for case, wanted in (
        ("hub-cuda-plain-builtin", {"moderator", "review"}),
        ("no-review", {"moderator"}),
        ("shared-gpu", {"moderator", "streamer", "review"}),
    ):
        release = render(MATRIX[case])
        for kind in ("Deployment", "Service", "ServiceAccount", "PodDisruptionBudget"):
            found = {component_of(each) for each in release.kind(kind)}
            assert {each for each in found if each in SERVICES} == wanted, kind


def test_a_service_without_its_content_key(release: Release) -> None:
    for each in release.kind("Deployment"):
        (container,) = each["spec"]["template"]["spec"]["containers"]
        if component_of(each) in SERVICES:
            assert env(container)["QWARDEN_CONTENT_KEY"] == ("content-key", "content-key")
        else:
            assert "QWARDEN_CONTENT_KEY" not in env(container)


def test_a_new_chart_version_that_restarts_every_pod(release: Release) -> None:
    for each in release.kind("Deployment"):
        labels = each["spec"]["template"]["metadata"]["labels"]
        assert labels == each["spec"]["selector"]["matchLabels"]


def test_service_links_that_the_services_would_read_as_settings(release: Release) -> None:
    assert all(pod["enableServiceLinks"] is False for pod in release.pods())


def test_a_service_that_listens_where_no_probe_reaches_it(render: Render) -> None:
    release = render(MATRIX["shared-gpu"])
    for component in SERVICES:
        container = release.container(component)
        http = settings.load(process_env(container)).http
        assert (http.host, http.port) == ("0.0.0.0", container["ports"][0]["containerPort"])
        paths = {
            probe: container[f"{probe}Probe"]["httpGet"]["path"]
            for probe in ("startup", "liveness", "readiness")
        }
        # A restart mends no outage: only what the process itself has is asked for its life.
        assert paths == {"startup": "/healthz", "liveness": "/healthz", "readiness": "/readyz"}


def test_a_pod_that_counts_twice_where_a_service_monitor_finds_it_too(render: Render) -> None:
    for enabled in (False, True):
        values = merged(REQUIRED, SHARED_GPU, at("monitoring.serviceMonitor.enabled", enabled))
        for each in render(values).kind("Deployment"):
            template = each["spec"]["template"]
            said = template["metadata"].get("annotations", {})
            assert ("prometheus.io/scrape" in said) is not enabled
            if not enabled:
                (container,) = template["spec"]["containers"]
                ports = {str(port["containerPort"]) for port in container["ports"]}
                assert said["prometheus.io/port"] in ports


# The end of a pod


def test_a_service_killed_before_it_has_let_go(render: Render) -> None:
    """The template's figures are the code's own: what each of its waits may take at most."""
    for drain_s in (20, 47):
        values = merged(
            REQUIRED,
            SHARED_GPU,
            *({component: {"drainSeconds": drain_s}} for component in SERVICES),
        )
        release = render(values)
        for component in SERVICES:
            container = release.container(component)
            limits = getattr(settings.load(process_env(container)), component)
            assert limits.drain_s == drain_s
            asked_s = (
                float(container["lifecycle"]["preStop"]["exec"]["command"][1])
                if ("lifecycle" in container)
                else 0.0
            )
            needed = needed_s(component, limits) + asked_s
            grace = release.pod(component)["terminationGracePeriodSeconds"]
            assert needed < grace <= needed + 10, component


def test_a_reader_who_is_sent_to_a_pod_that_is_going_away(render: Render) -> None:
    release = render(MATRIX["shared-gpu"])
    assert "lifecycle" in release.container("review")
    # Nobody is sent to those: a wait would only keep their partitions unread.
    assert not any("lifecycle" in release.container(each) for each in ("moderator", "streamer"))


# Where pods run, and what else they are told


def test_a_placing_that_a_pod_does_not_get(render: Render) -> None:
    release = render(MATRIX["placed"])
    for component in SERVICES:
        pod = release.pod(component)
        given = PLACED[component]
        for key in ("priorityClassName", "nodeSelector", "tolerations", "affinity"):
            assert pod[key] == given[key]
        template = release.workload(component)["spec"]["template"]
        assert given["annotations"].items() <= template["metadata"]["annotations"].items()
        assert env(release.container(component))["QWARDEN_TELEMETRY__LOG_LEVEL"] == "debug"


def test_pods_of_one_service_that_share_a_node_while_others_are_free(render: Render) -> None:
    release = render(MATRIX["shared-gpu"])
    for each in release.kind("Deployment"):
        spec = each["spec"]["template"]["spec"]
        labels = each["spec"]["selector"]["matchLabels"]
        keys = {one["topologyKey"] for one in spec["topologySpreadConstraints"]}
        assert keys == {"topology.kubernetes.io/zone", "kubernetes.io/hostname"}
        for one in spec["topologySpreadConstraints"]:
            assert one["labelSelector"]["matchLabels"] == labels
            assert one["whenUnsatisfiable"] == "ScheduleAnyway"
    bare = render(merged(BASE, at("moderator.topologySpread", False)))
    assert "topologySpreadConstraints" not in bare.pod("moderator")


def test_a_drained_node_that_waits_for_the_end_of_an_outage(render: Render) -> None:
    for each in render(MATRIX["shared-gpu"]).kind("PodDisruptionBudget"):
        assert each["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow"
        assert each["spec"]["maxUnavailable"] == 1


def test_replicas_that_an_upgrade_sets_back_while_something_scales(render: Render) -> None:
    fixed = render(MATRIX["shared-gpu"])
    scaled = render(MATRIX["scaled"])
    for each in fixed.kind("Deployment"):
        assert each["spec"]["replicas"] == (1 if component_of(each) == "triton-guard" else 2)
    for each in scaled.kind("Deployment"):
        assert "replicas" not in each["spec"]
    assert SCALED.keys() >= SERVICES


@pytest.mark.parametrize("component", ["moderator", "streamer", "review"])
def test_a_further_setting_that_fights_with_the_chart_s_own(
    helm: ModuleType, render: Render, component: str
) -> None:
    for name in ("QWARDEN_KAFKA__BOOTSTRAP_SERVERS", f"QWARDEN_{component.upper()}__DRAIN_S"):
        twice = at(f"{component}.env", [{"name": name, "value": "1"}])
        with pytest.raises(helm.HelmRenderError, match=f"{component}.env names {name}"):
            render(merged(REQUIRED, SHARED_GPU, twice))


# Kafka, Redis, the database and the registry


def kafka_env(container: Manifest) -> dict[str, Any]:
    found = {k: v for k, v in env(container).items() if k.startswith("QWARDEN_KAFKA__")}
    found.pop("QWARDEN_KAFKA__GROUP_ID", None)
    assert found.pop("QWARDEN_KAFKA__BOOTSTRAP_SERVERS") == "kafka-0:9092,kafka-1:9092"
    return found


def mounted(release: Release, component: str, name: str) -> Manifest:
    """The source of a volume that is mounted, read-only, at /etc/qwarden/NAME."""
    (mount,) = (m for m in release.container(component)["volumeMounts"] if m["name"] == name)
    assert mount == {"name": name, "mountPath": f"/etc/qwarden/{name}", "readOnly": True}
    (volume,) = (v for v in release.pod(component)["volumes"] if v["name"] == name)
    source: Manifest = volume["secret"]
    return source


def pair(secret: str) -> Manifest:
    """A certificate and its key out of a Secret, that others on the node cannot read."""
    items = [{"key": name, "path": name} for name in ("tls.crt", "tls.key")]
    return {"secretName": secret, "defaultMode": 0o440, "items": items}


def authority(secret: str) -> Manifest:
    return {"secretName": secret, "items": [{"key": "ca.crt", "path": "ca.crt"}]}


KAFKA_CLIENTS = ("moderator", "streamer", "review", "topics")


def test_a_service_that_cannot_reach_a_kafka_with_a_password(render: Render) -> None:
    release = render(merged(REQUIRED, SHARED_GPU, SASL))
    for component in KAFKA_CLIENTS:
        assert kafka_env(release.container(component)) == {
            "QWARDEN_KAFKA__SECURITY_PROTOCOL": "SASL_SSL",
            "QWARDEN_KAFKA__SASL_MECHANISM": "SCRAM-SHA-512",
            "QWARDEN_KAFKA__SASL_USERNAME": ("kafka-user", "username"),
            "QWARDEN_KAFKA__SASL_PASSWORD": ("kafka-user", "password"),
            "QWARDEN_KAFKA__CA_FILE": "/etc/qwarden/kafka-ca/ca.crt",
        }
        assert mounted(release, component, "kafka-ca") == authority("kafka-ca")


def test_a_service_that_cannot_reach_a_kafka_with_tokens(render: Render) -> None:
    release = render(merged(REQUIRED, SHARED_GPU, OAUTH))
    for component in KAFKA_CLIENTS:
        container = release.container(component)
        assert kafka_env(container) == {
            "QWARDEN_KAFKA__SECURITY_PROTOCOL": "SASL_SSL",
            "QWARDEN_KAFKA__SASL_MECHANISM": "OAUTHBEARER",
            "QWARDEN_KAFKA__OAUTH_TOKEN_URL": "https://idp.example.com/token",
            "QWARDEN_KAFKA__OAUTH_CLIENT_ID": ("kafka-client", "client-id"),
            "QWARDEN_KAFKA__OAUTH_CLIENT_SECRET": ("kafka-client", "client-secret"),
            "QWARDEN_KAFKA__OAUTH_SCOPE": "kafka",
        }
        assert settings.load(process_env(container)).kafka.sasl_mechanism == "OAUTHBEARER"


def test_a_service_that_cannot_reach_a_kafka_with_certificates(render: Render) -> None:
    release = render(merged(REQUIRED, SHARED_GPU, MTLS))
    for component in KAFKA_CLIENTS:
        container = release.container(component)
        assert kafka_env(container) == {
            "QWARDEN_KAFKA__SECURITY_PROTOCOL": "SSL",
            "QWARDEN_KAFKA__CA_FILE": "/etc/qwarden/kafka-ca/ca.crt",
            "QWARDEN_KAFKA__CERTIFICATE_FILE": "/etc/qwarden/kafka-client/tls.crt",
            "QWARDEN_KAFKA__KEY_FILE": "/etc/qwarden/kafka-client/tls.key",
        }
        assert mounted(release, component, "kafka-client") == pair("kafka-client")
        settings.load(process_env(container))


def test_a_cache_that_is_asked_in_clear_or_not_at_all(render: Render) -> None:
    release = render(merged(REQUIRED, SHARED_GPU, REDIS_TLS))
    for component in ("moderator", "streamer"):
        container = release.container(component)
        found = {k: v for k, v in env(container).items() if k.startswith("QWARDEN_REDIS__")}
        assert found == {
            "QWARDEN_REDIS__URL": ("redis", "url"),
            "QWARDEN_REDIS__CA_FILE": "/etc/qwarden/redis-ca/ca.crt",
            "QWARDEN_REDIS__CERTIFICATE_FILE": "/etc/qwarden/redis-client/tls.crt",
            "QWARDEN_REDIS__KEY_FILE": "/etc/qwarden/redis-client/tls.key",
        }
        assert mounted(release, component, "redis-ca") == authority("redis-ca")
        assert mounted(release, component, "redis-client") == pair("redis-client")
        settings.load(process_env(container))
    assert not any("REDIS" in name for name in env(release.container("review")))


def test_a_fleet_that_cannot_do_without_redis(render: Render) -> None:
    loaded = settings.load(process_env(render(MATRIX["no-redis"]).container("moderator")))
    assert loaded.redis.url is None


def test_a_guard_that_is_asked_in_clear(render: Render) -> None:
    release = render(merged(REQUIRED, SHARED_GPU, TRITON_TLS))
    for component in ("moderator", "streamer"):
        container = release.container(component)
        loaded = settings.load(process_env(container))
        assert loaded.triton.tls
        assert str(loaded.triton.ca_file) == "/etc/qwarden/triton-ca/ca.crt"
        assert str(loaded.triton.key_file) == "/etc/qwarden/triton-client/tls.key"
        assert mounted(release, component, "triton-ca") == authority("triton-ca")
        assert mounted(release, component, "triton-client") == pair("triton-client")


def test_a_database_whose_name_nobody_verifies(render: Render) -> None:
    release = render(merged(BASE, DATABASE_TLS))
    (migrate,) = release.pod("review")["initContainers"]
    for container in (release.container("review"), migrate):
        assert {k: v for k, v in env(container).items() if "DATABASE" in k} == {
            "QWARDEN_REVIEW__DATABASE_URL": ("review-database", "url"),
            "QWARDEN_REVIEW__DATABASE_CA_FILE": "/etc/qwarden/database-ca/ca.crt",
            "QWARDEN_REVIEW__DATABASE_CERTIFICATE_FILE": "/etc/qwarden/database-client/tls.crt",
            "QWARDEN_REVIEW__DATABASE_KEY_FILE": "/etc/qwarden/database-client/tls.key",
        }
        assert {"/etc/qwarden/database-ca", "/etc/qwarden/database-client"} <= {
            path for _, path in mounts(container)
        }
    assert mounted(release, "review", "database-client") == pair("database-client")


def test_a_moderator_that_cannot_reach_a_registry_with_a_password(render: Render) -> None:
    release = render(MATRIX["schemas"])
    moderator = release.container("moderator")
    registry = {k: v for k, v in env(moderator).items() if k.startswith("QWARDEN_REGISTRY__")}
    assert registry == {
        "QWARDEN_REGISTRY__URL": "https://registry:8081",
        "QWARDEN_REGISTRY__USERNAME": ("registry-user", "username"),
        "QWARDEN_REGISTRY__PASSWORD": ("registry-user", "password"),
        "QWARDEN_REGISTRY__CA_FILE": "/etc/qwarden/registry-ca/ca.crt",
    }
    assert mounted(release, "moderator", "registry-ca") == authority("registry-ca")


def test_an_authority_of_our_own_that_something_does_not_heed(render: Render) -> None:
    release = render(MATRIX["authorities-of-our-own"])
    (trial,) = release.kind("Pod")
    asking = [release.container(each) for each in (*sorted(SERVICES), "topics")]
    asking += trial["spec"]["containers"]
    asking += release.pod("triton-guard")["initContainers"]
    for container in asking:
        file = "/etc/qwarden/trusted-ca/ca.crt"
        assert env(container)["SSL_CERT_FILE"] == env(container)["REQUESTS_CA_BUNDLE"] == file
        assert ("trusted-ca", "/etc/qwarden/trusted-ca") in mounts(container)
    for component in (*SERVICES, "topics", "triton-guard"):
        (volume,) = (v for v in release.pod(component)["volumes"] if v["name"] == "trusted-ca")
        assert volume["secret"] == authority("our-authorities")


def test_traces_that_go_nowhere(render: Render) -> None:
    url = "http://collector:4318"
    release = render(merged(REQUIRED, SHARED_GPU, at("monitoring.otlpEndpoint", url)))
    for component in SERVICES:
        loaded = settings.load(process_env(release.container(component)))
        assert loaded.telemetry.otlp_endpoint == url


# Review


def test_a_service_that_starts_on_a_database_of_another_version(render: Render) -> None:
    (migrate,) = render(BASE).pod("review")["initContainers"]
    assert migrate["args"] == ["review", "migrate"]
    # It needs no more than the database: neither the key nor Kafka.
    assert env(migrate) == {"QWARDEN_REVIEW__DATABASE_URL": ("review-database", "url")}


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({}, "http://127.0.0.1:8080"),
        ({"ingress": {"enabled": True, "host": "r.example.com"}}, "http://r.example.com"),
        (PEOPLE["review"], "https://review.example.com"),
        (merged(PEOPLE["review"], {"publicUrl": "https://other/x"}), "https://other/x"),
    ],
)
def test_sign_in_links_that_lead_elsewhere(
    render: Render, given: dict[str, Any], wanted: str
) -> None:
    release = render(merged(BASE, {"review": given}))
    loaded = settings.load(process_env(release.container("review")))
    assert loaded.review.public_url == wanted


def test_an_ingress_that_leads_elsewhere(render: Render) -> None:
    release = render(MATRIX["people"])
    (ingress,) = release.kind("Ingress")
    spec = ingress["spec"]
    assert spec["ingressClassName"] == "nginx"
    assert spec["tls"] == [{"hosts": ["review.example.com"], "secretName": "review-tls"}]
    (rule,) = spec["rules"]
    assert rule["host"] == "review.example.com"
    (service,) = (each for each in release.kind("Service") if component_of(each) == "review")
    for path in rule["http"]["paths"]:
        backend = path["backend"]["service"]
        assert backend["name"] == service["metadata"]["name"]
        assert backend["port"]["name"] in {port["name"] for port in service["spec"]["ports"]}
    assert render(BASE).kind("Ingress") == []


@pytest.mark.long
def test_an_ingress_that_hides_a_page_or_shows_the_metrics(render: Render) -> None:
    (ingress,) = render(MATRIX["people"]).kind("Ingress")
    (rule,) = ingress["spec"]["rules"]
    types = {each["path"]: each["pathType"] for each in rule["http"]["paths"]}

    def shown(path: str) -> bool:
        first = f"/{path.split('/')[1]}"
        return types.get(path) == "Exact" or types.get(first) == "Prefix"

    app = routes()
    paths = {
        each.path for each in (*app.routes, *auth.router.routes) if isinstance(each, Route | Mount)
    }
    paths |= app.openapi()["paths"].keys()
    assert {"/", "/sign-in", "/console", "/oidc/callback", "/v1/items"} <= paths
    assert [path for path in sorted(paths) if not shown(path)] == []
    assert not any(map(shown, ("/metrics", "/healthz", "/readyz")))


def test_people_who_all_have_the_proxy_s_address(render: Render) -> None:
    assert env(render(MATRIX["people"]).container("review"))["FORWARDED_ALLOW_IPS"] == "10.0.0.0/8"
    assert "FORWARDED_ALLOW_IPS" not in env(render(BASE).container("review"))


def test_an_issuer_that_nobody_is_told_of(render: Render) -> None:
    container = render(MATRIX["people"]).container("review")
    oidc = settings.load(process_env(container)).oidc
    assert oidc is not None
    assert (oidc.issuer, oidc.client_id) == ("https://idp.example.com", "qwarden")
    assert oidc.roles == {"trust-and-safety": "reviewer"}
    assert env(container)["QWARDEN_OIDC__CLIENT_SECRET"] == ("review-oidc", "client-secret")


# Policies


def test_policies_that_a_service_finds_nowhere(render: Render) -> None:
    release = render(merged(REQUIRED, SHARED_GPU, POLICIES))
    (config,) = (each for each in release.kind("ConfigMap") if component_of(each) == "moderator")
    for component in SERVICES:
        root = env(release.container(component))["QWARDEN_POLICY__PATH"]
        paths = dict(mounts(release.container(component)))
        files = {}
        for volume in release.pod(component)["volumes"]:
            if "configMap" in volume:
                assert volume["configMap"]["name"] == config["metadata"]["name"]
                folder = paths[volume["name"]].removeprefix(f"{root}/")
                for item in volume["configMap"]["items"]:
                    files[f"{folder}/{item['path']}"] = config["data"][item["key"]]
        assert files == {
            "policies/newsroom.yaml": POLICIES["policies"]["newsroom"],
            "policies/forum.de.yaml": POLICIES["policies"]["forum.de"],
            "tenants/acme.yaml": POLICIES["tenants"]["acme"],
            "topics/shop.comments.yaml": POLICIES["topicFiles"]["shop.comments"],
        }


def test_policies_of_others_that_lie_where_nobody_looks(render: Render) -> None:
    release = render(merged(BASE, POLICY_MAPS))
    for component in ("moderator", "review"):
        container = release.container(component)
        assert env(container)["QWARDEN_POLICY__PATH"] == "/etc/qwarden/policy"
        paths = dict(mounts(container))
        found = {
            paths[volume["name"]]: volume["configMap"]
            for volume in release.pod(component)["volumes"]
            if "configMap" in volume
        }
        assert found == {
            "/etc/qwarden/policy/policies": {"name": "our-policies"},
            "/etc/qwarden/policy/tenants": {"name": "our-tenants"},
        }


def test_a_policy_path_without_policies(render: Render) -> None:
    release = render(BASE)
    assert "QWARDEN_POLICY__PATH" not in env(release.container("moderator"))


def test_a_changed_policy_that_no_running_service_reads(render: Render) -> None:
    changed = merged(BASE, POLICIES, {"policies": {"newsroom": "extends: loose\n"}})
    for component in ("moderator", "review"):
        before, after = (
            render(values).workload(component)["spec"]["template"]["metadata"]["annotations"]
            for values in (merged(BASE, POLICIES), changed)
        )
        assert before.keys() == after.keys()
        assert before != after


def test_an_example_that_the_services_refuse() -> None:
    text = (CHART / "values.yaml").read_text()
    examples = {
        folder: yaml.safe_load(re.sub("^#", "", found, flags=re.MULTILINE))
        for folder, found in re.findall(
            r"^(policies|tenants|topicFiles): \{\}\n((?:#  .*\n)+)", text, re.M
        )
    }
    tenants = read_tenants(examples["policies"], examples["tenants"], strict=True)
    assert tenants.known["acme"].default.name == "newsroom"
    assert read_topics(examples["topicFiles"], tenants)["shop.comments"].is_confluent
    worked = yaml.safe_load((CHART / "values-production.yaml").read_text())
    tenants = read_tenants(worked["policies"], worked["tenants"], strict=True)
    assert tenants.known["acme"].default.name == "newsroom"


def test_a_secret_of_the_worked_example_that_its_store_does_not_fill() -> None:
    """Those that another operator makes beside it are named here."""
    worked = yaml.safe_load((CHART / "values-production.yaml").read_text())
    elsewhere = {"main-cluster-ca-cert", "qwarden-kafka", "review-tls", "qwarden-triton"}
    named = set(re.findall(r'"(?:secretName|tlsSecretName)": "([^"]+)"', json.dumps(worked)))
    named |= {
        value["name"]
        for value in (
            worked["redis"]["urlSecret"],
            worked["review"]["databaseUrlSecret"],
            worked["review"]["oidc"]["clientSecret"],
            worked["triton"]["hub"]["tokenSecret"],
        )
    }
    assert named - elsewhere == worked["externalSecrets"]["keys"].keys()
