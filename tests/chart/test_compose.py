"""The compose file, judged as far as it can be where no container runs."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from typing import Any, Final
from urllib.parse import urlsplit

import jsonschema
import pytest
import yaml

from chart import command_line, go_modules
from chart.composed import FILE, ROOT, Missing, project, variables
from chart.dockerfiles import FILES, stages_of
from chart.stopping import needed_s
from qwarden import __version__, bootstrap, settings
from qwarden_engine.settings import EngineSettings
from qwarden_engine.stream.settings import StreamSettings
from qwarden_engine.supervisor import Timing

PROMTOOL: Final = shutil.which("promtool")

GIVEN: Final = {"QWARDEN_CONTENT_KEY": "0f" * 32}
PROFILES: Final = ("gpu", "cpu")
IMAGES: Final = {"qwarden": "services", "qwarden-triton": "triton"}

Project = dict[str, Any]


@pytest.fixture(scope="module")
def compose() -> Project:
    return project(GIVEN)


def ours(compose: Project, image: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """The containers of our own images."""
    for name, service in compose["services"].items():
        found = re.fullmatch(r"qwarden\.local/([a-z-]+):.*", service["image"])
        if found and image in ("", found[1]):
            assert found[1] in IMAGES
            yield name, service


def environment(service: dict[str, Any]) -> dict[str, str]:
    found: dict[str, str] = service["environment"]
    return found


def test_a_file_that_compose_refuses(compose: Project) -> None:
    schema = go_modules.folder(go_modules.COMPOSE) / "schema" / "compose-spec.json"
    validator = jsonschema.validators.validator_for(json.loads(schema.read_text()))
    judged = {key: value for key, value in compose.items() if not key.startswith("x-")}
    error = jsonschema.exceptions.best_match(
        validator(json.loads(schema.read_text())).iter_errors(judged)
    )
    assert error is None, f"{'.'.join(map(str, error.path))}: {error.message}"


def test_a_start_without_a_content_key_that_says_nothing_of_the_way_out() -> None:
    assert [name for name, default in variables().items() if default is None] == [*GIVEN]
    with pytest.raises(Missing, match="openssl rand -hex 32"):
        project({})


def test_a_variable_that_the_page_does_not_name() -> None:
    page = (ROOT / "docs" / "images.md").read_text(encoding="utf-8")
    passed = {
        name
        for service in yaml.safe_load(FILE.read_text())["services"].values()
        for name, value in service.get("environment", {}).items()
        if value is None
    }
    assert {"HF_TOKEN"} <= passed
    named = set(re.findall(r"`([A-Z][A-Z_]+)`", page))
    assert variables().keys() | passed <= named


def test_a_setting_that_a_service_does_not_know(compose: Project) -> None:
    for name, service in ours(compose, "qwarden"):
        assert settings.load(environment(service)).kafka.bootstrap_servers == "kafka:9092", name
    for _, service in ours(compose, "qwarden-triton"):
        given = environment(service)
        assert EngineSettings.from_env(given).hub_revision is None
        assert StreamSettings.from_env(given).hub_revision is None


def test_revisions_of_the_models_that_do_not_reach_triton() -> None:
    given = {
        **GIVEN,
        "QWARDEN_ENGINE__HUB_REVISION": "a" * 40,
        "QWARDEN_STREAM__HUB_REVISION": "b" * 40,
        "GEN_CHECKPOINT": "/checkpoints/checkpoint",
    }
    for _, service in ours(project(given), "qwarden-triton"):
        engine = EngineSettings.from_env(environment(service))
        assert (engine.hub_revision, engine.checkpoint) == ("a" * 40, "/checkpoints/checkpoint")
        assert StreamSettings.from_env(environment(service)).hub_revision == "b" * 40


def test_a_command_that_the_image_does_not_have(compose: Project) -> None:
    ran = {command_line.parse(tuple(service["command"])) for _, service in ours(compose, "qwarden")}
    assert {"moderator", "streamer", "review-service", "topics create"} <= ran


def test_an_image_that_moves_or_is_of_another_version(compose: Project) -> None:
    for name, service in compose["services"].items():
        assert re.search(r":v?[0-9]+(\.[0-9]+){1,2}$", service["image"]), name
    for _, service in ours(compose):
        assert service["image"].endswith(f":{__version__}")


def test_an_image_that_compose_could_neither_pull_nor_build(compose: Project) -> None:
    for _, service in ours(compose):
        image = re.split("[/:]", service["image"])[1]
        context = (FILE.parent / service["build"]["context"]).resolve()
        assert context == ROOT
        assert context / service["build"]["dockerfile"] == FILES[IMAGES[image]]


def test_a_container_of_ours_with_rights_that_it_does_not_need(compose: Project) -> None:
    for name, service in ours(compose):
        image = re.split("[/:]", service["image"])[1]
        assert service["user"] == stages_of(FILES[IMAGES[image]])[-1].all("USER")[-1], name
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
    for name, service in compose["services"].items():
        assert not {"privileged", "network_mode", "pid", "ipc"} & service.keys(), name


def test_a_port_that_the_whole_network_reaches(compose: Project) -> None:
    published = [p for s in compose["services"].values() for p in s.get("ports", [])]
    assert published
    assert all(re.fullmatch(r"127\.0\.0\.1:(\d+):\d+", port) for port in published)
    assert len({port.split(":")[1] for port in published}) == len(published)


def test_a_mount_of_what_is_not_there(compose: Project) -> None:
    named = set()
    for service in compose["services"].values():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            if source.startswith("."):
                assert (FILE.parent / source).resolve().exists(), source
                assert volume.endswith(":ro")
            else:
                named.add(source)
    assert named == compose["volumes"].keys()


def test_a_wait_for_what_never_comes(compose: Project) -> None:
    services = compose["services"]
    waits = [(name, each) for name, s in services.items() for each in s.get("depends_on", {})]
    assert waits
    for name, other in waits:
        assert "profiles" not in services[other], "Triton is waited for by the services themselves"
        condition = services[name]["depends_on"][other]["condition"]
        if condition == "service_healthy":
            assert "healthcheck" in services[other]
        else:
            assert condition == "service_completed_successfully"
            assert "restart" not in services[other], f"{other} would run for ever"


def test_two_profiles_of_which_one_brings_no_guard(compose: Project) -> None:
    guards = {name: s for name, s in compose["services"].items() if "profiles" in s}
    assert sorted(p for s in guards.values() for p in s["profiles"]) == sorted(PROFILES)
    for service in guards.values():
        assert service["networks"]["default"]["aliases"] == ["triton"]
    gpu, cpu = (
        next(s for s in guards.values() if s["profiles"] == [profile]) for profile in PROFILES
    )
    (device,) = gpu["deploy"]["resources"]["reservations"]["devices"]
    assert (device["driver"], device["capabilities"]) == ("nvidia", ["gpu"])
    assert "deploy" not in cpu
    for service, wanted in ((gpu, "cuda"), (cpu, "cpu")):
        given = environment(service)
        assert EngineSettings.from_env(given).device == wanted
        assert StreamSettings.from_env(given).device == wanted


def listening(compose: Project) -> dict[str, set[int]]:
    """The ports of each name in compose's network."""
    found: dict[str, set[int]] = {}
    (port,) = {
        settings.load(environment(compose["services"][name])).http.port
        for name in ("moderator", "streamer", "review-service")
    }
    for name, service in compose["services"].items():
        ports = {
            "kafka": {9092},
            "valkey": {6379},
            "postgres": {5432},
            "prometheus": {9090},
            "grafana": {3000},
        }.get(name, {port})
        for alias in service.get("networks", {}).get("default", {}).get("aliases", []):
            exposed = stages_of(FILES["triton"])[-1].all("EXPOSE")
            found[alias] = {int(each) for text in exposed for each in text.split()}
        found[name] = ports
    return found


def test_an_address_at_which_nobody_listens(compose: Project) -> None:
    there = listening(compose)
    asked = []
    for _, service in ours(compose, "qwarden"):
        for name, value in environment(service).items():
            if name.endswith("PUBLIC_URL") or not name.endswith(("URL", "SERVERS")):
                continue
            parts = urlsplit(value if "://" in value else f"//{value}")
            port = parts.port or {"postgresql": 5432}[parts.scheme]
            asked.append((parts.hostname, port))
    scraped = yaml.safe_load((FILE.parent / "prometheus" / "prometheus.yml").read_text())
    for job in scraped["scrape_configs"]:
        (look,) = job["dns_sd_configs"]
        asked += [(name, look["port"]) for name in look["names"]]
    (source,) = yaml.safe_load(
        (FILE.parent / "grafana/provisioning/datasources/prometheus.yaml").read_text()
    )["datasources"]
    url = urlsplit(source["url"])
    asked.append((url.hostname, url.port))
    assert len(set(asked)) > 8
    for host, port in asked:
        assert host in there and port in there[host], (host, port)


def test_a_service_that_nobody_scrapes(compose: Project) -> None:
    config = yaml.safe_load((FILE.parent / "prometheus" / "prometheus.yml").read_text())
    names = {n for job in config["scrape_configs"] for n in job["dns_sd_configs"][0]["names"]}
    http = {n for n, s in ours(compose) if "QWARDEN_HTTP__PORT" in environment(s)}
    assert http == {"moderator", "streamer", "review-service"}
    assert names == http | {"triton"}


def test_a_container_that_is_gone_and_missed_by_nobody() -> None:
    """Its name has left the DNS, so it is no target: only a fact says that it should be."""
    folder = FILE.parent / "prometheus"
    config = yaml.safe_load((folder / "prometheus.yml").read_text())
    (group,) = yaml.safe_load((folder / "compose.yaml").read_text())["groups"]
    told = {(each["labels"]["namespace"], each["labels"]["job"]) for each in group["rules"]}
    assert told == {("compose", job["job_name"]) for job in config["scrape_configs"]}
    for each in group["rules"]:
        assert (each["record"], each["expr"]) == ("qwarden:deployed", "vector(1)")
        triton = "triton" in each["labels"]["job"]
        assert each["labels"]["part"] == ("triton" if triton else "service")


def test_a_container_killed_before_it_has_let_go(compose: Project) -> None:
    for name, service in ours(compose):
        if "restart" not in service:
            continue
        seconds = int(service["stop_grace_period"].removesuffix("s"))
        if name.startswith("triton"):
            assert seconds > Timing().grace
        else:
            group = name.removesuffix("-service")
            limits = getattr(settings.load(environment(service)), group)
            assert seconds > needed_s(group, limits), name


def test_policies_that_a_service_finds_nowhere(compose: Project) -> None:
    for name in ("moderator", "streamer", "review-service"):
        service = compose["services"][name]
        path = environment(service)["QWARDEN_POLICY__PATH"]
        (mount,) = (v for v in service["volumes"] if v.split(":")[1] == path)
        here = str(FILE.parent / mount.split(":")[0])
        loaded = settings.load({**environment(service), "QWARDEN_POLICY__PATH": here})
        assert "demo" in bootstrap.tenants_of(loaded).known


def test_dashboards_or_rules_that_nobody_loads(compose: Project) -> None:
    grafana, prometheus = (compose["services"][name] for name in ("grafana", "prometheus"))
    mounts = dict(v.split(":")[:2] for v in [*grafana["volumes"], *prometheus["volumes"]])
    (provider,) = yaml.safe_load(
        (FILE.parent / "grafana/provisioning/dashboards/qwarden.yaml").read_text()
    )["providers"]
    assert mounts["./grafana"] == provider["options"]["path"]
    assert mounts["./grafana/provisioning"] == "/etc/grafana/provisioning"
    folder = mounts["./prometheus"]
    assert f"--config.file={folder}/prometheus.yml" in prometheus["command"]
    config = yaml.safe_load((FILE.parent / "prometheus" / "prometheus.yml").read_text())
    loaded = {
        path.name
        for pattern in config["rule_files"]
        for path in (FILE.parent / "prometheus").glob(pattern)
    }
    assert loaded == {
        path.name
        for path in (FILE.parent / "prometheus").glob("*.yaml")
        if not path.name.endswith(".test.yaml")
    }


@pytest.mark.skipif(PROMTOOL is None, reason="promtool is missing (Debian: apt install prometheus)")
def test_a_configuration_that_prometheus_refuses() -> None:
    command = [str(PROMTOOL), "check", "config", str(FILE.parent / "prometheus" / "prometheus.yml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
