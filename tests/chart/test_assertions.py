"""What holds of every object, whatever the values: each row of the table, rendered and judged."""

from __future__ import annotations

import functools
import importlib.util
import re
from collections.abc import Iterator
from types import ModuleType
from typing import Any, Final
from urllib.parse import urlsplit

import pytest
import yaml

from chart import command_line, edges
from chart.composed import project
from chart.dockerfiles import FILES, stages_of
from chart.edges import Pod, pods_of, selects, stranger
from chart.releases import CHART, MATRIX, Manifest, Release, Render, component_of, env, process_env
from chart.rows import ROWS
from chart.stopping import needed_s
from qwarden import settings
from qwarden_engine.settings import DeviceSettings, EngineSettings
from qwarden_engine.stream.settings import StreamSettings
from qwarden_engine.supervisor import Timing

SERVICES: Final = {"moderator": "moderator", "streamer": "streamer", "review-service": "review"}
"""The commands that run for ever, each with the group of its settings."""


@functools.cache
def _rendered(render: Render, row: str) -> Release:
    return render(ROWS[row])


@pytest.fixture(scope="module", params=ROWS)
def release(request: pytest.FixtureRequest, render: Render) -> Release:
    return _rendered(render, request.param)


def containers(pod: Manifest) -> list[Manifest]:
    every: list[Manifest] = pod.get("initContainers", []) + pod["containers"]
    return every


def is_ours(container: Manifest, image: str = "qwarden(-triton)?") -> bool:
    return bool(re.match(f"[^@]*/{image}[:@]", container["image"]))


def services(release: Release) -> Iterator[tuple[str, Manifest, Manifest]]:
    """(group of settings, container, pod) of what runs for ever."""
    for pod in pods_of(release):
        for container in pod.spec["containers"]:
            name = SERVICES.get((container.get("args") or [""])[0])
            if name and is_ours(container, "qwarden"):
                yield name, container, pod.spec


@pytest.mark.parametrize("row", sorted(ROWS.keys() - MATRIX.keys()))
def test_values_that_helm_lint_refuses(helm: ModuleType, row: str) -> None:
    report = helm.lint(CHART, ROWS[row], strict=True)
    faults = [each for each in report["messages"] if each["severity"] >= 2]
    assert (report["total_charts_linted"], report["errors"], faults) == (1, [], [])


# Images, rights, resources


def test_an_image_that_moves(release: Release) -> None:
    for container in release.containers():
        digest = re.search(r"@sha256:[0-9a-f]{64}$", container["image"])
        tag = re.search(r":v?[0-9]+(\.[0-9]+)+[a-z0-9.-]*$", container["image"])
        assert digest or tag, container["image"]
        assert container["imagePullPolicy"] == "IfNotPresent"


def test_an_image_of_somebody_else_in_a_cluster_that_is_no_trial(release: Release) -> None:
    given = release.values["image"]["registry"]
    others = [c for c in release.containers() if not c["image"].startswith(f"{given}/qwarden")]
    assert bool(others) == release.values.get("local", {}).get("enabled", False)


def test_a_container_with_rights_that_it_does_not_need(release: Release) -> None:
    for pod in release.pods():
        assert pod["automountServiceAccountToken"] is False
        assert pod["enableServiceLinks"] is False
        assert not {"hostNetwork", "hostPID", "hostIPC", "shareProcessNamespace"} & pod.keys()
        assert not any("hostPath" in volume for volume in pod["volumes"])
        whole = pod["securityContext"]
        assert whole["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in containers(pod):
            own = container["securityContext"]
            both = {**whole, **own}
            assert both["runAsNonRoot"] is True
            assert both["runAsUser"] > 0
            assert own["allowPrivilegeEscalation"] is False
            assert own["readOnlyRootFilesystem"] is True
            assert own["capabilities"] == {"drop": ["ALL"]}
            assert "privileged" not in own


def test_a_pod_that_runs_as_another_user_than_its_image_is_made_for(release: Release) -> None:
    for pod in release.pods():
        for container in containers(pod):
            if is_ours(container):
                image = "services" if is_ours(container, "qwarden") else "triton"
                (user,) = stages_of(FILES[image])[-1].all("USER")
                context = pod["securityContext"]
                assert f"{context['runAsUser']}:{context['runAsGroup']}" == user


def test_a_container_that_could_take_the_whole_node(release: Release) -> None:
    for container in release.containers():
        for side in ("requests", "limits"):
            assert {"cpu", "memory"} <= container["resources"][side].keys(), container["name"]


def test_a_volume_that_could_fill_the_node(release: Release) -> None:
    for pod in release.pods():
        for volume in pod["volumes"]:
            if "emptyDir" in volume:
                assert volume["emptyDir"]["sizeLimit"], volume["name"]


def test_a_mount_without_its_volume_or_a_volume_without_its_mount(release: Release) -> None:
    for pod in release.pods():
        mounted = {m["name"] for c in containers(pod) for m in c.get("volumeMounts", [])}
        assert mounted == {volume["name"] for volume in pod["volumes"]}
        for container in containers(pod):
            paths = [each["mountPath"] for each in container.get("volumeMounts", [])]
            assert len(set(paths)) == len(paths)


# Names that must meet


def test_two_objects_with_one_name(release: Release) -> None:
    names = [
        (o["kind"], o["metadata"].get("namespace"), o["metadata"]["name"]) for o in release.objects
    ]
    assert len(set(names)) == len(names)


def test_an_object_of_another_namespace_or_without_its_labels(release: Release) -> None:
    for each in release.objects:
        labels = each["metadata"]["labels"]
        assert labels["app.kubernetes.io/name"] == "qwarden"
        assert {"app.kubernetes.io/instance", "app.kubernetes.io/component"} <= labels.keys()
        if each["kind"] != "KafkaTopic":  # which stands where Strimzi looks for it
            assert "namespace" not in each["metadata"]


def test_a_selector_that_misses_its_pods_or_takes_others(release: Release) -> None:
    pods = pods_of(release)
    for each in release.objects:
        component = component_of(each)
        if each["kind"] in ("Deployment", "PodDisruptionBudget"):
            selector = each["spec"]["selector"]
        elif each["kind"] == "Service":
            selector = {"matchLabels": each["spec"]["selector"]}
        elif each["kind"] == "NetworkPolicy" and component != "default":
            selector = each["spec"]["podSelector"]
        else:
            continue
        taken = {pod.component for pod in pods if selects(selector, pod.labels)}
        assert taken == {component}, each["metadata"]["name"]


def test_a_service_at_a_port_that_its_pods_do_not_open(release: Release) -> None:
    pods = {pod.component: pod for pod in pods_of(release)}
    for service in release.kind("Service"):
        pod = pods[component_of(service)]
        names = {
            port["name"]: port["containerPort"]
            for container in pod.spec["containers"]
            for port in container.get("ports", [])
        }
        for port in service["spec"]["ports"]:
            opened = names.get(port["targetPort"], port["targetPort"])
            assert opened in pod.ports(), service["metadata"]["name"]
            # A headless name leads to the pods' own ports.
            assert port["port"] == opened


def test_a_service_monitor_that_finds_nothing(release: Release) -> None:
    services_there = release.kind("Service")
    seen: set[str] = set()
    for monitor in release.kind("ServiceMonitor"):
        found = [
            each
            for each in services_there
            if selects(monitor["spec"]["selector"], each["metadata"]["labels"])
        ]
        assert found, monitor["metadata"]["name"]
        for endpoint in monitor["spec"]["endpoints"]:
            for service in found:
                ports = {port["name"] for port in service["spec"]["ports"]}
                assert endpoint["port"] in ports, service["metadata"]["name"]
        seen |= {component_of(each) for each in found}
    if seen:
        wanted = {name for name in map(component_of, services_there) if "local" not in name}
        assert seen == wanted, "a service that nobody scrapes"


def test_a_probe_at_a_port_that_nobody_opens(release: Release) -> None:
    for pod in release.pods():
        for container in containers(pod):
            ports = {port["name"]: port["containerPort"] for port in container.get("ports", [])}
            for kind in ("startupProbe", "livenessProbe", "readinessProbe"):
                probe = container.get(kind, {})
                for way in ("httpGet", "tcpSocket"):
                    if way in probe:
                        assert probe[way]["port"] in {*ports, *ports.values()}, container["name"]


def test_a_pod_of_ours_that_takes_work_before_it_is_ready_or_hangs_for_ever(
    release: Release,
) -> None:
    for each in release.kind("Deployment"):
        (container,) = each["spec"]["template"]["spec"]["containers"]
        if is_ours(container):
            probes = {"startupProbe", "readinessProbe", "livenessProbe"}
            assert probes <= container.keys(), each["metadata"]["name"]


def test_a_secret_a_map_or_an_account_that_nobody_makes(release: Release) -> None:
    """Each is one of the release's own, or the values name it."""
    made = {(each["kind"], each["metadata"]["name"]) for each in release.objects}
    made |= {("Secret", each["metadata"]["name"]) for each in release.kind("ExternalSecret")}
    given = set(strings(release.values))
    for pod in release.pods():
        for kind, name in references(pod):
            assert (kind, name) in made or name in given, (kind, name)
    for ingress in release.kind("Ingress"):
        for tls in ingress["spec"].get("tls", []):
            assert tls["secretName"] in given


def references(pod: Manifest) -> Iterator[tuple[str, str]]:
    yield "ServiceAccount", pod.get("serviceAccountName", "default-of-nobody")
    for secret in pod.get("imagePullSecrets", []):
        yield "Secret", secret["name"]
    for volume in pod["volumes"]:
        if "secret" in volume:
            yield "Secret", volume["secret"]["secretName"]
        if "configMap" in volume:
            yield "ConfigMap", volume["configMap"]["name"]
        if "persistentVolumeClaim" in volume:
            yield "PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"]
        for source in volume.get("projected", {}).get("sources", []):
            for key, kind in (("secret", "Secret"), ("configMap", "ConfigMap")):
                if key in source:
                    yield kind, source[key]["name"]
    for container in containers(pod):
        for each in container.get("env", []):
            if "valueFrom" in each:
                yield "Secret", each["valueFrom"]["secretKeyRef"]["name"]


def strings(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        for key, value in node.items():
            yield key
            yield from strings(value)
    elif isinstance(node, list):
        for each in node:
            yield from strings(each)
    elif isinstance(node, str):
        yield node


def test_a_file_that_its_config_map_does_not_have(release: Release) -> None:
    maps = {each["metadata"]["name"]: each["data"] for each in release.kind("ConfigMap")}
    for pod in release.pods():
        for volume in pod["volumes"]:
            sources = [
                *([volume["configMap"]] if "configMap" in volume else []),
                *(
                    each["configMap"]
                    for each in volume.get("projected", {}).get("sources", [])
                    if "configMap" in each
                ),
            ]
            for source in sources:
                for item in source.get("items", []):
                    if source["name"] in maps:
                        assert item["key"] in maps[source["name"]]


# What the processes read


def test_a_setting_that_a_process_does_not_know(release: Release) -> None:
    judged = 0
    for container in release.containers():
        if is_ours(container, "qwarden"):
            environ = process_env(container)
            # The migration has no business with content, and settings without a key are not read.
            settings.load({"QWARDEN_CONTENT_KEY": "0f" * 32} | environ)
            judged += 1
        elif is_ours(container, "qwarden-triton"):
            environ = process_env(container)
            read: list[type[DeviceSettings]] = [EngineSettings, StreamSettings]
            known = [s for s in read if f"{s.prefix}CHECKPOINT" in environ]
            for each in known:
                each.from_env(environ)
                judged += 1
            ours = {name for name in environ if name.startswith("QWARDEN_")}
            # What brings a model before it has the workload's settings too, and reads none of them.
            assert not known or all(n.startswith(tuple(k.prefix for k in known)) for n in ours)
    assert judged


def test_a_command_that_the_image_does_not_have(release: Release) -> None:
    ran = set()
    for container in release.containers():
        if is_ours(container, "qwarden") and "command" not in container:
            ran.add(command_line.parse(tuple(container["args"])))
        elif container.get("command", [""])[:2] == ["python3", "-m"]:
            assert importlib.util.find_spec(container["command"][2]), container["name"]
    assert "moderator" in ran


def test_a_secret_in_clear(release: Release) -> None:
    for container in release.containers():
        for name, value in env(container).items():
            if re.search("TOKEN$|PASSWORD$|USERNAME$|SECRET$|_KEY$|ACCESS_KEY", name):
                assert isinstance(value, tuple), name
            if isinstance(value, str) and "://" in value:
                assert "@" not in urlsplit(value).netloc, name


def test_a_pod_killed_before_it_has_let_go(release: Release) -> None:
    judged = 0
    for name, container, pod in services(release):
        limits = getattr(settings.load(process_env(container)), name)
        needed = needed_s(name, limits) + pre_stop_s(container)
        assert needed < pod["terminationGracePeriodSeconds"], name
        judged += 1
    for pod in release.pods():
        for container in pod["containers"]:
            if is_ours(container, "qwarden-triton"):
                needed = Timing().grace + pre_stop_s(container)
                assert needed < pod["terminationGracePeriodSeconds"]
                judged += 1
    assert judged


def pre_stop_s(container: Manifest) -> float:
    """Seconds that pass before the process gets its signal."""
    hook = container.get("lifecycle", {}).get("preStop")
    if hook is None:
        return 0
    if "sleep" in hook:
        return float(hook["sleep"]["seconds"])
    program, seconds = hook["exec"]["command"]
    assert program == "sleep"
    return float(seconds)


# Numbers of pods


def test_a_node_that_takes_all_pods_of_a_service_with_it(release: Release) -> None:
    budgets = {component_of(each): each["spec"] for each in release.kind("PodDisruptionBudget")}
    for each in release.kind("Deployment"):
        component = component_of(each)
        if each["spec"].get("replicas", 2) > 1:
            assert component in budgets, component
        if component in budgets:
            # One that lets nobody go would hold every upgrade of the cluster up.
            assert budgets[component]["maxUnavailable"] not in (0, "0%")


def test_a_deployment_that_an_upgrade_would_scale_back(release: Release) -> None:
    scaled = {
        each["spec"]["scaleTargetRef"]["name"]
        for kind in ("ScaledObject", "HorizontalPodAutoscaler")
        for each in release.kind(kind)
    }
    there = {each["metadata"]["name"]: each["spec"] for each in release.kind("Deployment")}
    assert scaled <= there.keys()
    for name, spec in there.items():
        assert ("replicas" in spec) == (name not in scaled), name


def test_two_scalers_of_one_deployment_or_one_that_goes_to_nothing(release: Release) -> None:
    targets = []
    for kind, least in (
        ("ScaledObject", "minReplicaCount"),
        ("HorizontalPodAutoscaler", "minReplicas"),
    ):
        for each in release.kind(kind):
            targets.append(each["spec"]["scaleTargetRef"]["name"])
            assert each["spec"][least] >= 1
    assert len(set(targets)) == len(targets)


# Edges


SCRAPER: Final = stranger("monitoring")
INGRESS: Final = stranger("ingress-nginx")
ANYBODY: Final = stranger("elsewhere")

PICTURE: Final = (
    (r"moderator|streamer", r"triton-.*", 8001),
    (r"moderator|streamer|review|topics|activation|trial|local-kafka", r"local-kafka", 9092),
    (r"moderator|streamer", r"local-valkey", 6379),
    (r"review", r"local-postgresql", 5432),
)
"""Who may ever ask whom, by component and port: the edges of docs/flow.svg inside a release."""


OPEN: Final = "no-network-policy"


@pytest.fixture(scope="module", params=sorted(ROWS.keys() - {OPEN}))
def closed(request: pytest.FixtureRequest, render: Render) -> Release:
    """The releases with network policies."""
    return _rendered(render, request.param)


def test_policies_that_cannot_be_switched_off(render: Render) -> None:
    assert _rendered(render, OPEN).kind("NetworkPolicy") == []


def test_a_port_that_no_network_policy_lets_in(closed: Release) -> None:
    for pod in pods_of(closed):
        for port in pod.ports():
            assert edges.is_open(closed, pod, port), (pod.component, port)


def test_an_edge_between_pods_that_the_picture_does_not_have(closed: Release) -> None:
    pods = pods_of(closed)
    for source in pods:
        for target in pods:
            for port in target.ports():
                passes = edges.lets_out(closed, source, target, port) and edges.lets_in(
                    closed, target, source, port
                )
                drawn = any(
                    re.fullmatch(a, source.component) and re.fullmatch(b, target.component)
                    for a, b, number in PICTURE
                    if number == port
                )
                assert drawn or not passes, (source.component, target.component, port)


def test_a_caller_from_elsewhere_that_is_let_in(closed: Release) -> None:
    with_ingress = closed.values.get("review", {}).get("ingress", {}).get("enabled", False)
    for pod in pods_of(closed):
        for port in pod.ports():
            inside = "triton-" in pod.component or pod.component in SERVICES.values()
            scraped = inside and port == (8002 if "triton-" in pod.component else 8080)
            assert edges.lets_in(closed, pod, SCRAPER, port) == scraped, (pod.component, port)
            to_people = pod.component == "review" and with_ingress
            assert edges.lets_in(closed, pod, INGRESS, port) == to_people, pod.component
            assert not edges.lets_in(closed, pod, ANYBODY, port), pod.component


ADDRESSES: Final = re.compile(r"(URL|URLS|SERVERS|ENDPOINT|ISSUER)$")
"""Names of settings that hold an address."""

USUAL: Final = {
    "http": 80,
    "https": 443,
    "postgresql": 5432,
    "redis": 6379,
    "rediss": 6379,
    "s3": 443,
}


def asked(container: Manifest) -> Iterator[tuple[str, int]]:
    """Each host and port that a container is told to ask; the host is empty where a Secret has it,
    and the port is then the usual one."""
    for name, value in process_env(container).items():
        if not ADDRESSES.search(name) or name.endswith("PUBLIC_URL"):
            continue
        scheme, _, rest = value.rpartition("://")
        for host in re.split("[/?]", rest.rpartition("@")[2])[0].split(","):
            assert host, name
            name_of, _, port = host.partition(":")
            known = isinstance(env(container)[name], str)
            yield name_of if known else "", int(port or USUAL[scheme.partition("+")[0]])


def test_an_address_that_no_network_policy_lets_the_pod_reach(closed: Release) -> None:
    pods = pods_of(closed)
    hosts: dict[str, Pod] = {}
    for service in closed.kind("Service"):
        (pod,) = (each for each in pods if each.component == component_of(service))
        name = service["metadata"]["name"]
        hosts |= {name: pod, f"{name}.moderation.svc": pod, f"{name}.moderation": pod}
    local = [pod for pod in pods if pod.component.startswith("local-")]
    judged = 0
    for pod in pods:
        for container in containers(pod.spec):
            for host, port in asked(container):
                # What a Secret names is outside, or one of the small parts of a trial.
                targets = [hosts.get(host)] if host else [None, *local]
                assert any(
                    edges.lets_out(closed, pod, target, port)
                    and (target is None or edges.lets_in(closed, target, pod, port))
                    for target in targets
                ), (pod.component, host, port)
                judged += 1
        assert edges.lets_out(closed, pod, None, 53), f"{pod.component} cannot ask for names"
    assert judged


def test_a_pod_that_reaches_more_than_it_is_told_to(closed: Release) -> None:
    """Outside the release: no port but those of its own addresses and of its model's downloads."""
    for pod in pods_of(closed):
        told = {port for c in containers(pod.spec) for _, port in asked(c)} | {53, 443, 9093}
        for port in (22, 80, 5432, 6379, 8080, 9092):
            if port not in told:
                assert not edges.lets_out(closed, pod, None, port), (pod.component, port)


def test_a_trial_cluster_that_pulls_other_images_than_compose() -> None:
    compose = project({"QWARDEN_CONTENT_KEY": "0f" * 32})["services"]
    local = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))["local"]
    for ours, theirs in (("kafka", "kafka"), ("valkey", "valkey"), ("postgresql", "postgres")):
        assert local[ours]["image"] == compose[theirs]["image"]
