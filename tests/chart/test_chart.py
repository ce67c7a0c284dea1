"""The chart as Kubernetes would get it: linted, rendered over a matrix of values, and judged."""

from __future__ import annotations

import copy
import functools
import importlib
import itertools
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Final, TypeAlias

import pytest
import yaml

from qwarden import __version__, settings
from qwarden.policy.tenants import read_tenants
from qwarden.policy.topics import read_topics
from qwarden_engine.settings import EngineSettings
from qwarden_engine.supervisor import MODEL, Timing

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
    """Later layers over earlier ones, key by key."""
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


REQUIRED: Final[Values] = {
    "image": {"registry": REGISTRY},
    "contentKey": {"secretName": "content-key"},
    "kafka": {"bootstrapServers": "kafka-0:9092,kafka-1:9092"},
    "redis": {"url": "redis://redis:6379/0"},
}
HUB: Final[Values] = {
    "triton": {"model": {"hubId": "Qwen/Qwen3Guard-Gen-0.6B", "revision": COMMIT}}
}
PATH: Final[Values] = {"triton": {"model": {"path": "/checkpoint"}}}
CLAIM: Final[Values] = {"triton": {"model": {"path": "/checkpoints/gen", "claim": "guards"}}}
CPU: Final[Values] = {"triton": {"device": "cpu"}}
SASL: Final[Values] = {
    "kafka": {
        "securityProtocol": "SASL_SSL",
        "sasl": {"secretName": "kafka-user"},
        "ca": {"secretName": "kafka-ca"},
    }
}
POLICIES: Final[Values] = {
    "policies": {"newsroom": "extends: strict\nrules:\n  - 'a: b'\n", "forum.de": "\textends: x"},
    "tenants": {"acme": "policies: [newsroom]\n"},
    "topicFiles": {"shop.comments": "mapping: {text: 'b:c'}\n"},
}
REGISTRY_OF_SCHEMAS: Final[Values] = {
    "topicFiles": {"shop.comments": "tenant: acme\ndecoder: confluent\n"},
    "schemaRegistry": {
        "url": "https://registry:8081",
        "user": {"secretName": "registry-user"},
        "ca": {"secretName": "registry-ca"},
    },
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
    cases["tls-without-user"] = merged(BASE, {"kafka": {"securityProtocol": "SSL"}})
    cases["digests"] = merged(BASE, {"image": {"servicesDigest": DIGEST, "tritonDigest": DIGEST}})
    cases["private-images-and-model"] = merged(
        BASE,
        {"image": {"pullSecrets": ["pull"]}},
        {"triton": {"model": {"hubTokenSecret": {"name": "hub"}}}},
    )
    cases["redis-by-secret"] = merged(BASE, {"redis": {"url": "", "urlSecret": {"name": "redis"}}})
    cases["schemas"] = merged(BASE, REGISTRY_OF_SCHEMAS)
    cases["schemas-without-user"] = merged(BASE, at("schemaRegistry.url", "http://registry:8081"))
    cases["topics-by-others"] = merged(BASE, {"topics": {"create": False}})
    cases["tainted-nodes"] = merged(
        BASE,
        {"triton": {"nodeSelector": {"gpu": "h100"}}},
        {"triton": {"tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}]}},
    )
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
        found = self.kind("Deployment") + self.kind("Job")
        assert found
        return found

    def pods(self) -> list[Manifest]:
        return [each["spec"]["template"]["spec"] for each in self.workloads()]

    def containers(self) -> list[Manifest]:
        return [
            container
            for pod in self.pods()
            for container in pod["containers"] + pod.get("initContainers", [])
        ]

    def workload(self, component: str) -> Manifest:
        (found,) = (
            each
            for each in self.workloads()
            if each["metadata"]["labels"]["app.kubernetes.io/component"] == component
        )
        return found

    def pod(self, component: str) -> Manifest:
        pod: Manifest = self.workload(component)["spec"]["template"]["spec"]
        return pod

    def container(self, component: str) -> Manifest:
        (container,) = self.pod(component)["containers"]
        found: Manifest = container
        return found


Render: TypeAlias = Callable[..., Release]


@pytest.fixture(scope="session")
def helm() -> ModuleType:
    try:
        module = importlib.import_module("helm_python")
        module.helm_sdk_version()
    except Exception as error:  # no wheel for this platform, or a library that does not load
        pytest.skip(f"the chart needs the Python package helm-python-sdk: {error}")
    return module


@pytest.fixture(scope="session")
def render(helm: ModuleType) -> Iterator[Render]:
    with helm.Chart.load(CHART) as chart:

        def render(values: Values, *, name: str = "qwarden", revision: int = 1) -> Release:
            files = chart.render(values, name=name, namespace="moderation", revision=revision)
            notes = ""
            objects: list[Manifest] = []
            for path, text in files.items():
                if path.endswith("NOTES.txt"):
                    notes = text
                else:
                    objects += [each for each in yaml.safe_load_all(text) if each]
            return Release(values, tuple(objects), notes)

        yield render


@pytest.fixture(scope="session", params=MATRIX)
def release(request: pytest.FixtureRequest, render: Render) -> Release:
    return render(MATRIX[request.param])


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


# What Kubernetes accepts


@pytest.mark.parametrize("case", MATRIX)
def test_a_chart_that_helm_lint_refuses(helm: ModuleType, case: str) -> None:
    report = helm.lint(CHART, MATRIX[case], strict=True)
    faults = [each for each in report["messages"] if each["severity"] >= 2]
    assert (report["total_charts_linted"], report["errors"], faults) == (1, [], [])


@functools.cache
def fault(manifest: str, version: str) -> str:
    """What this version of Kubernetes has against an object; empty where it takes it."""
    validate = importlib.import_module("kubernetes_validate")
    try:
        validate.validate(json.loads(manifest), version, strict=True)
    except validate.ValidationError as error:
        return f"{'.'.join(map(str, error.path))}: {error.message}"
    return ""


@pytest.fixture(scope="session", autouse=True)
def schemas_read_once() -> None:
    """kubernetes-validate reads 2 MB of schema for each object; the files do not change."""
    try:
        utils = importlib.import_module("kubernetes_validate.utils")
    except ImportError:
        return
    utils.schema_contents = functools.cache(utils.schema_contents)  # type: ignore[attr-defined]


@pytest.mark.parametrize("version", KUBERNETES)
def test_an_object_that_kubernetes_would_refuse(release: Release, version: str) -> None:
    for each in release.objects:
        assert fault(json.dumps(each, sort_keys=True), version) == "", each["metadata"]["name"]


def test_a_kubernetes_version_promised_but_not_checked() -> None:
    promised = yaml.safe_load((CHART / "Chart.yaml").read_text())["kubeVersion"]
    assert promised == f">={KUBERNETES[0]}.0-0"


def test_two_objects_with_one_name(release: Release) -> None:
    names = [(each["kind"], each["metadata"]["name"]) for each in release.objects]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    "name", ["a", "qwarden", "my-qwarden-fleet", "x" * 53, "qwarden-" * 6 + "a"]
)
def test_a_release_name_that_makes_names_too_long(render: Render, name: str) -> None:
    release = render(merged(BASE, POLICIES), name=name, revision=1000)
    for each in release.objects:
        assert re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", each["metadata"]["name"])
        for label in each["metadata"]["labels"].values():
            assert len(label) <= 63


# Images


def test_an_image_that_moves_or_comes_from_elsewhere(release: Release) -> None:
    for container in release.containers():
        name = re.escape(REGISTRY) + "/qwarden(-triton)?"
        tag = r":[0-9]+\.[0-9]+\.[0-9]+[a-z0-9.-]*"
        assert re.fullmatch(f"{name}({tag}|@{DIGEST})", container["image"])


def test_a_digest_that_is_ignored(render: Render) -> None:
    release = render(MATRIX["digests"])
    assert release.container("moderator")["image"] == f"{REGISTRY}/qwarden@{DIGEST}"
    assert release.container("topics")["image"] == f"{REGISTRY}/qwarden@{DIGEST}"
    assert release.container("triton")["image"] == f"{REGISTRY}/qwarden-triton@{DIGEST}"


def test_a_chart_that_asks_for_images_of_another_version() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["appVersion"] == __version__


# Rights


def test_a_container_with_rights_that_it_does_not_need(release: Release) -> None:
    for pod in release.pods():
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] >= 10_000
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for key in ("hostNetwork", "hostPID", "hostIPC"):
            assert key not in pod
        assert not any("hostPath" in volume for volume in pod["volumes"])
    for container in release.containers():
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }


def test_a_pod_that_could_speak_to_the_cluster(release: Release) -> None:
    assert all(pod["automountServiceAccountToken"] is False for pod in release.pods())


def test_service_links_that_the_services_would_read_as_settings(release: Release) -> None:
    assert all(pod["enableServiceLinks"] is False for pod in release.pods())


def test_a_secret_in_clear(release: Release) -> None:
    for container in release.containers():
        for name, value in env(container).items():
            if re.search("KEY|TOKEN|PASSWORD|USERNAME", name):
                assert isinstance(value, tuple), name


def test_a_service_without_its_content_key(release: Release) -> None:
    for container in release.containers():
        if container["name"] == "triton":
            assert "QWARDEN_CONTENT_KEY" not in env(container)
        else:
            assert env(container)["QWARDEN_CONTENT_KEY"] == ("content-key", "content-key")


# Resources, ports, volumes


def test_a_container_that_could_take_the_whole_node(release: Release) -> None:
    for container in release.containers():
        for side in ("requests", "limits"):
            assert {"cpu", "memory"} <= container["resources"][side].keys()


def test_a_disk_volume_that_could_fill_the_node(release: Release) -> None:
    for pod in release.pods():
        for volume in pod["volumes"]:
            if "emptyDir" in volume:
                assert volume["emptyDir"]["sizeLimit"], volume["name"]


def test_a_mount_without_its_volume_or_a_volume_without_its_mount(release: Release) -> None:
    for pod in release.pods():
        volumes = {each["name"] for each in pod["volumes"]}
        mounts = {m["name"] for c in pod["containers"] for m in c["volumeMounts"]}
        assert mounts == volumes


def test_a_selector_that_misses_its_pods_or_takes_others(release: Release) -> None:
    pods = {
        each["metadata"]["name"]: each["spec"]["template"]["metadata"]["labels"].items()
        for each in release.workloads()
    }
    for each in release.kind("Deployment"):
        wanted = each["spec"]["selector"]["matchLabels"].items()
        assert [name for name, has in pods.items() if wanted <= has] == [each["metadata"]["name"]]
    (service,) = release.kind("Service")
    wanted = service["spec"]["selector"].items()
    assert [name for name, has in pods.items() if wanted <= has] == ["qwarden-triton"]


def test_a_new_chart_version_that_restarts_every_gpu_pod(release: Release) -> None:
    for each in release.kind("Deployment"):
        labels = each["spec"]["template"]["metadata"]["labels"]
        assert labels == each["spec"]["selector"]["matchLabels"]


def test_a_probe_a_scrape_or_a_service_at_a_port_that_nobody_opens(release: Release) -> None:
    for each in release.kind("Deployment"):
        template = each["spec"]["template"]
        (container,) = template["spec"]["containers"]
        ports = {port["name"]: port["containerPort"] for port in container["ports"]}
        assert {"startupProbe", "readinessProbe"} <= container.keys()
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            if probe in container:
                assert container[probe]["httpGet"]["port"] in ports
        annotations = template["metadata"]["annotations"]
        assert annotations["prometheus.io/scrape"] == "true"
        assert annotations["prometheus.io/path"] == "/metrics"
        assert int(annotations["prometheus.io/port"]) in ports.values()
        if each["metadata"]["name"] == "qwarden-triton":
            (service,) = release.kind("Service")
            for port in service["spec"]["ports"]:
                assert ports[port["targetPort"]] == port["port"]


# Triton


def test_triton_believed_alive_by_its_health_page(release: Release) -> None:
    triton = release.container("triton")
    assert "livenessProbe" not in triton
    for probe in ("startupProbe", "readinessProbe"):
        assert triton[probe]["httpGet"]["path"] == f"/v2/models/{MODEL}/ready"


def test_a_triton_that_runs_without_its_supervisor(release: Release) -> None:
    assert not {"command", "args"} & release.container("triton").keys()


def test_a_triton_killed_while_it_still_loads_its_model(render: Render) -> None:
    for seconds in (10, 301, 1800):
        release = render(merged(BASE, {"triton": {"startupSeconds": seconds}}))
        probe = release.container("triton")["startupProbe"]
        assert seconds <= probe["periodSeconds"] * probe["failureThreshold"] < seconds + 10
        for each in release.kind("Deployment"):
            assert each["spec"]["progressDeadlineSeconds"] > seconds


def test_a_roll_out_that_waits_for_a_gpu_that_is_not_there(release: Release) -> None:
    strategy = release.workload("triton")["spec"]["strategy"]["rollingUpdate"]
    assert strategy == {"maxSurge": 0, "maxUnavailable": 1}


def test_a_triton_that_outgrows_the_shared_memory_of_a_pod(release: Release) -> None:
    (mount,) = (
        m for m in release.container("triton")["volumeMounts"] if m["mountPath"] == "/dev/shm"
    )
    (volume,) = (v for v in release.pod("triton")["volumes"] if v["name"] == mount["name"])
    assert volume["emptyDir"] == {"medium": "Memory", "sizeLimit": "1Gi"}


def test_a_moderator_that_sees_one_address_for_all_replicas(release: Release) -> None:
    (service,) = release.kind("Service")
    assert service["spec"]["clusterIP"] == "None"
    address = env(release.container("moderator"))["QWARDEN_TRITON__URL"]
    assert address == f"{service['metadata']['name']}.moderation.svc:8001"


def test_a_gpu_taken_for_a_cpu_trial_or_none_where_one_is_needed(release: Release) -> None:
    device = release.values["triton"].get("device", "cuda")
    triton = release.container("triton")
    assert env(triton)["QWARDEN_ENGINE__DEVICE"] == device
    assert triton["resources"]["limits"].get("nvidia.com/gpu", 0) == {"cuda": 1, "cpu": 0}[device]


def test_a_model_from_the_hub_without_its_revision_or_its_cache(render: Render) -> None:
    release = render(MATRIX["private-images-and-model"])
    triton = release.container("triton")
    assert env(triton) == {
        "QWARDEN_ENGINE__DEVICE": "cuda",
        "QWARDEN_ENGINE__CHECKPOINT": "Qwen/Qwen3Guard-Gen-0.6B",
        "QWARDEN_ENGINE__HUB_REVISION": COMMIT,
        "HF_HOME": "/var/cache/hub",
        "HF_TOKEN": ("hub", "token"),
    }
    assert "/var/cache/hub" in {mount["mountPath"] for mount in triton["volumeMounts"]}


def test_a_model_from_a_volume_that_is_not_mounted(render: Render) -> None:
    release = render(MATRIX["claim"])
    triton = release.container("triton")
    assert env(triton)["QWARDEN_ENGINE__CHECKPOINT"] == "/checkpoints/gen"
    assert not {"QWARDEN_ENGINE__HUB_REVISION", "HF_TOKEN"} & env(triton).keys()
    assert {"name": "checkpoints", "mountPath": "/checkpoints", "readOnly": True} in triton[
        "volumeMounts"
    ]
    claim = {"claimName": "guards", "readOnly": True}
    assert {"name": "checkpoints", "persistentVolumeClaim": claim} in release.pod("triton")[
        "volumes"
    ]


# Settings, Kafka, Redis, topics, policies


def process_env(container: Manifest) -> dict[str, str]:
    """The environment as a process sees it, with something usable out of each Secret."""
    secrets = {"QWARDEN_CONTENT_KEY": "0f" * 32, "QWARDEN_REDIS__URL": "redis://redis:6379/0"}
    return {
        name: value if isinstance(value, str) else secrets.get(name, "from-a-secret")
        for name, value in env(container).items()
    }


def test_a_setting_that_the_process_does_not_know_or_reads_otherwise(release: Release) -> None:
    for container in release.containers():
        environ = process_env(container)
        if container["name"] == "triton":
            engine = EngineSettings.from_env(environ)
            model = release.values["triton"]["model"]
            assert engine.checkpoint == model.get("path", model.get("hubId"))
            assert engine.hub_revision == model.get("revision")
        else:
            loaded = settings.load(environ)
            wanted = release.values["kafka"].get("securityProtocol", "PLAINTEXT")
            assert loaded.kafka.security_protocol == wanted
            assert (loaded.kafka.sasl_password is None) == ("SASL" not in wanted)
            registry = release.values.get("schemaRegistry", {})
            if container["name"] == "moderator":
                assert loaded.registry.url == registry.get("url")
                assert (loaded.registry.password is None) == ("user" not in registry)


def test_a_moderator_that_listens_where_no_probe_reaches_it(release: Release) -> None:
    moderator = release.container("moderator")
    http = settings.load(process_env(moderator)).http
    assert (http.host, http.port) == ("0.0.0.0", moderator["ports"][0]["containerPort"])


def test_a_pod_killed_before_it_has_let_go(release: Release) -> None:
    limits = settings.Moderator()
    moderator = release.pod("moderator")["terminationGracePeriodSeconds"]
    assert limits.drain_s + limits.revoke_s < moderator
    assert Timing().grace < release.pod("triton")["terminationGracePeriodSeconds"]


def test_an_example_in_values_yaml_that_the_moderator_refuses() -> None:
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


def test_a_service_that_cannot_reach_a_kafka_with_a_password(render: Render) -> None:
    release = render(MATRIX["hub-cuda-sasl-builtin"])
    for component in ("moderator", "topics"):
        container = release.container(component)
        kafka = {k: v for k, v in env(container).items() if k.startswith("QWARDEN_KAFKA__")}
        kafka.pop("QWARDEN_KAFKA__GROUP_ID", None)
        assert kafka == {
            "QWARDEN_KAFKA__BOOTSTRAP_SERVERS": "kafka-0:9092,kafka-1:9092",
            "QWARDEN_KAFKA__SECURITY_PROTOCOL": "SASL_SSL",
            "QWARDEN_KAFKA__SASL_MECHANISM": "SCRAM-SHA-512",
            "QWARDEN_KAFKA__SASL_USERNAME": ("kafka-user", "username"),
            "QWARDEN_KAFKA__SASL_PASSWORD": ("kafka-user", "password"),
            "QWARDEN_KAFKA__CA_FILE": "/etc/qwarden/kafka-ca/ca.crt",
        }
        assert "/etc/qwarden/kafka-ca" in {m["mountPath"] for m in container["volumeMounts"]}
        assert {
            "name": "kafka-ca",
            "secret": {
                "secretName": "kafka-ca",
                "items": [{"key": "ca.crt", "path": "ca.crt"}],
            },
        } in release.pod(component)["volumes"]


def test_a_redis_url_with_a_password_that_is_not_read_from_its_secret(render: Render) -> None:
    release = render(MATRIX["redis-by-secret"])
    assert env(release.container("moderator"))["QWARDEN_REDIS__URL"] == ("redis", "url")


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
    mount = {"name": "registry-ca", "mountPath": "/etc/qwarden/registry-ca", "readOnly": True}
    assert mount in moderator["volumeMounts"]
    items = [{"key": "ca.crt", "path": "ca.crt"}]
    secret = {"secretName": "registry-ca", "items": items}
    assert {"name": "registry-ca", "secret": secret} in release.pod("moderator")["volumes"]


def test_topics_made_with_other_numbers_than_the_values_say(render: Render) -> None:
    numbers = {"partitions": 48, "replicationFactor": 5, "minInsyncReplicas": 4}
    release = render(merged(BASE, {"topics": numbers}))
    assert release.container("topics")["args"] == [
        *("topics", "create"),
        *("--partitions", "48"),
        *("--replication-factor", "5"),
        *("--min-insync-replicas", "4"),
    ]


def test_a_topics_job_that_an_upgrade_would_have_to_change_in_place(render: Render) -> None:
    more = merged(BASE, {"topics": {"partitions": 24}})
    names = {
        render(values, revision=revision).workload("topics")["metadata"]["name"]
        for values in (BASE, more)
        for revision in (1, 2)
    }
    assert len(names) == 4
    # Nothing of another component is in it: a new moderator count alone makes no new Job.
    other = merged(BASE, {"moderator": {"replicas": 9}, "triton": {"shmSizeLimit": "2Gi"}})
    assert render(other).workload("topics")["metadata"]["name"] in names


def test_a_failed_topics_pod_that_takes_its_log_with_it(render: Render) -> None:
    assert render(BASE).pod("topics")["restartPolicy"] == "Never"


def test_a_hook_that_waits_for_what_its_own_release_brings(release: Release) -> None:
    for each in release.objects:
        assert "helm.sh/hook" not in each["metadata"].get("annotations", {})


def test_policies_that_the_moderator_finds_nowhere(render: Render) -> None:
    release = render(merged(BASE, POLICIES))
    (config,) = release.kind("ConfigMap")
    root = env(release.container("moderator"))["QWARDEN_POLICY__PATH"]
    mount = {"name": "policy", "mountPath": root, "readOnly": True}
    assert mount in release.container("moderator")["volumeMounts"]
    (volume,) = (v for v in release.pod("moderator")["volumes"] if v["name"] == "policy")
    assert volume["configMap"]["name"] == config["metadata"]["name"]
    files = {item["path"]: config["data"][item["key"]] for item in volume["configMap"]["items"]}
    assert files == {
        "policies/newsroom.yaml": POLICIES["policies"]["newsroom"],
        "policies/forum.de.yaml": POLICIES["policies"]["forum.de"],
        "tenants/acme.yaml": POLICIES["tenants"]["acme"],
        "topics/shop.comments.yaml": POLICIES["topicFiles"]["shop.comments"],
    }


def test_a_policy_path_without_policies(render: Render) -> None:
    release = render(BASE)
    assert release.kind("ConfigMap") == []
    assert "QWARDEN_POLICY__PATH" not in env(release.container("moderator"))


def test_a_changed_policy_that_no_running_moderator_reads(render: Render) -> None:
    changed = merged(BASE, POLICIES, {"policies": {"newsroom": "extends: loose\n"}})
    before, after = (
        render(values).workload("moderator")["spec"]["template"]["metadata"]["annotations"]
        for values in (merged(BASE, POLICIES), changed)
    )
    assert before.keys() == after.keys()
    assert before != after


# Values


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
        "an authority that is not asked",
        at("kafka.ca.secretName", "kafka-ca"),
        "kafka.securityProtocol is PLAINTEXT, which is not encrypted",
    ),
    ("no Redis", at("redis.url", ""), "redis.url is empty"),
    ("two of Redis", at("redis.urlSecret.name", "redis"), "are both given"),
    (
        "Redis password in clear",
        at("redis.url", "redis://:secret@redis:6379"),
        "put the URL into a Secret",
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
    ("no model", at("triton.model.hubId", ""), "triton.model is empty"),
    ("two models", at("triton.model.path", "/checkpoint"), "are both given"),
    ("a branch", at("triton.model.revision", "main"), "40 hexadecimal digits"),
    (
        "a claim beside its path",
        {"triton": {"model": {"hubId": "", "path": "/elsewhere", "claim": "guards"}}},
        "mounted at /checkpoints",
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


def test_a_chart_without_a_registry_that_names_no_way_out(helm: ModuleType, render: Render) -> None:
    """With nothing given at all the registry is what it asks for first, in one sentence."""
    with pytest.raises(helm.HelmRenderError) as caught:
        render({})
    assert str(caught.value).endswith(
        "image.registry is empty: run `make images REGISTRY=...` to build and push the images, "
        "then give the same registry as image.registry."
    )


FREE_MAPS: Final = {"policies", "tenants", "topicFiles", "triton.nodeSelector", "triton.gpu"}


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


@pytest.mark.parametrize(
    ("path", "value", "named"),
    [
        ("topics.partitions", "12", "partitions"),
        ("kafka.securityProtocol", "sasl_ssl", "securityProtocol"),
        ("kafka.bootstrapServers", "kafka", "bootstrapServers"),
        ("kafka.sasl.mechanism", "GSSAPI", "mechanism"),
        ("image.registry", "https://registry.example.com", "registry"),
        ("image.registry", "registry.example.com/", "registry"),
        ("image.tritonDigest", "0123", "tritonDigest"),
        ("redis.url", "redis:6379", "url"),
        ("triton.device", "gpu", "device"),
        ("triton.model.path", "checkpoint", "path"),
        ("triton.terminationGracePeriodSeconds", 8, "terminationGracePeriodSeconds"),
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
OTHERS: Final[list[tuple[str, Values, Any]]] = [
    ("image.registry", {}, "elsewhere.example.com"),
    ("image.tag", {}, "9.9.9"),
    ("image.servicesDigest", {}, DIGEST),
    ("image.tritonDigest", {}, DIGEST),
    ("image.pullPolicy", {}, "Always"),
    ("image.pullSecrets", {}, ["pull"]),
    ("contentKey.secretName", {}, "other"),
    ("contentKey.secretKey", {}, "other"),
    ("kafka.bootstrapServers", {}, "other:9092"),
    ("kafka.securityProtocol", {}, "SSL"),
    ("kafka.groupId", {}, "other"),
    ("kafka.sasl.mechanism", SASL, "PLAIN"),
    ("kafka.sasl.secretName", SASL, "other"),
    ("kafka.sasl.usernameKey", SASL, "other"),
    ("kafka.sasl.passwordKey", SASL, "other"),
    ("kafka.ca.secretName", SASL, "other"),
    ("kafka.ca.secretKey", SASL, "other"),
    ("redis.url", {}, "rediss://other:6379/1"),
    ("redis.urlSecret.name", MATRIX["redis-by-secret"], "other"),
    ("redis.urlSecret.key", MATRIX["redis-by-secret"], "other"),
    ("topics.create", {}, False),
    ("topics.partitions", {}, 13),
    ("topics.replicationFactor", {}, 4),
    ("topics.minInsyncReplicas", {}, 3),
    ("policies", {}, {"newsroom": "extends: strict"}),
    ("tenants", {}, {"acme": "policies: [strict]"}),
    ("topicFiles", {}, {"shop.comments": "tenant: acme"}),
    ("schemaRegistry.url", {}, "http://other:8081"),
    ("schemaRegistry.user.secretName", REGISTRY_OF_SCHEMAS, "other"),
    ("schemaRegistry.user.usernameKey", REGISTRY_OF_SCHEMAS, "other"),
    ("schemaRegistry.user.passwordKey", REGISTRY_OF_SCHEMAS, "other"),
    ("schemaRegistry.ca.secretName", REGISTRY_OF_SCHEMAS, "other"),
    ("schemaRegistry.ca.secretKey", REGISTRY_OF_SCHEMAS, "other"),
    ("moderator.replicas", {}, 3),
    ("moderator.recordsInFlight", {}, 5),
    ("moderator.terminationGracePeriodSeconds", {}, 61),
    ("triton.replicas", {}, 3),
    ("triton.device", {}, "cpu"),
    ("triton.gpu", {}, {"nvidia.com/mig-1g.10gb": 1}),
    ("triton.model.hubId", {}, "Qwen/Qwen3Guard-Gen-4B"),
    ("triton.model.revision", {}, COMMIT[::-1]),
    ("triton.model.hubTokenSecret.name", {}, "hub"),
    ("triton.model.hubTokenSecret.key", MATRIX["private-images-and-model"], "other"),
    ("triton.model.path", merged(PATH, at("triton.model.hubId", "")), "/other"),
    ("triton.model.claim", merged(CLAIM, at("triton.model.hubId", "")), "other"),
    ("triton.hubCacheSizeLimit", {}, "33Gi"),
    ("triton.shmSizeLimit", {}, "2Gi"),
    ("triton.startupSeconds", {}, 3600),
    ("triton.terminationGracePeriodSeconds", {}, 61),
    ("triton.nodeSelector", {}, {"gpu": "h100"}),
    ("triton.tolerations", {}, [{"key": "nvidia.com/gpu", "operator": "Exists"}]),
    *(
        (f"{part}.resources.{side}.{what}", {}, other)
        for part in ("topics", "moderator", "triton")
        for side in ("requests", "limits")
        for what, other in (("cpu", "3"), ("memory", "3Gi"))
    ),
]


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


# What the user reads


def test_notes_that_name_what_is_not_there(release: Release) -> None:
    named = set(re.findall(r"deployment/([a-z0-9-]+)", release.notes))
    assert named == {each["metadata"]["name"] for each in release.kind("Deployment")}
    selected = re.search(r"--selector (\S+)", release.notes)
    assert bool(selected) == release.values.get("topics", {}).get("create", True)
    if selected:
        wanted = dict(pair.split("=") for pair in selected[1].split(","))
        template = release.workload("topics")["spec"]["template"]
        assert wanted.items() <= template["metadata"]["labels"].items()
