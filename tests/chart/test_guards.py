"""Triton in the chart, as Kubernetes would get it."""

from __future__ import annotations

import importlib.util
import os
import socket
import subprocess
import sys
import sysconfig
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import pytest

from chart.releases import (
    BASE,
    COMMIT,
    DIGEST,
    GEN,
    MATRIX,
    PLACED,
    REGISTRY,
    REQUIRED,
    SHARED_GPU,
    STREAM,
    TRITON_TLS,
    Manifest,
    Release,
    Render,
    Values,
    at,
    component_of,
    env,
    guards,
    merged,
    mounts,
    process_env,
)
from qwarden import settings
from qwarden.inference.replicas import Addresses
from qwarden.stack.ports import free_ports
from qwarden_engine.settings import EngineSettings
from qwarden_engine.stream.settings import StreamSettings
from qwarden_engine.supervisor import Timing, models_of

SERVER: Final = Path(sysconfig.get_path("purelib")) / "pytriton/tritonserver/bin/tritonserver"
CACHES = ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR", "CUDA_CACHE_PATH")


def downloads(release: Release, component: str) -> list[Manifest]:
    found: list[Manifest] = release.pod(component).get("initContainers", [])
    return found


# Which models, and from where


def test_a_workload_that_loads_other_models_than_it_is_given(render: Render) -> None:
    release = render(MATRIX["own-gpus"])
    for component, model in (
        ("triton-gen", "qwen3guard_gen"),
        ("triton-stream", "qwen3guard_stream"),
    ):
        environ = process_env(release.container(component))
        assert [each.name for each in models_of(environ)] == [model]
    both = process_env(render(MATRIX["shared-gpu"]).container("triton-guard"))
    assert [each.name for each in models_of(both)] == ["qwen3guard_gen", "qwen3guard_stream"]


def test_an_engine_that_reads_another_place_than_the_download_fills(render: Render) -> None:
    release = render(MATRIX["shared-gpu"])
    environ = process_env(release.container("triton-guard"))
    gen = EngineSettings.from_env(environ)
    stream = StreamSettings.from_env(environ)
    brought = {each["name"]: each for each in downloads(release, "triton-guard")}
    assert brought.keys() == {"download-gen", "download-stream"}
    assert brought["download-gen"]["args"] == ["hub", GEN["hubId"], COMMIT, gen.checkpoint]
    assert brought["download-stream"]["args"] == ["hub", STREAM["hubId"], COMMIT, stream.checkpoint]
    # Verdicts name the guard by the last part where the checkpoint has no name of its own.
    assert gen.checkpoint.rsplit("/", 1)[-1] == "Qwen3Guard-Gen-0.6B"
    for each in brought.values():
        assert "/checkpoints" in {path for _, path in mounts(each)}
        assert each["command"] == ["python3", "-m", "qwarden_engine.download"]
        assert importlib.util.find_spec(each["command"][2])
    volumes = {v["name"]: v for v in release.pod("triton-guard")["volumes"]}
    assert volumes["checkpoints"]["emptyDir"]["sizeLimit"] == "32Gi"


def test_a_hub_token_that_runs_along_with_the_engine(render: Render) -> None:
    release = render(MATRIX["private-images-and-model"])
    (download,) = downloads(release, "triton-guard")
    assert env(download) == {
        "HF_HOME": "/checkpoints/.hub",
        "HF_ENDPOINT": "https://hub.example.com",
        "HF_TOKEN": ("hub", "token"),
    }
    assert not any(name.startswith("HF_") for name in env(release.container("triton-guard")))


def test_a_model_from_a_volume_that_is_not_mounted(render: Render) -> None:
    release = render(MATRIX["claim"])
    triton = release.container("triton-guard")
    assert env(triton)["QWARDEN_ENGINE__CHECKPOINT"] == "/claims/gen/gen"
    assert {"name": "claim-gen", "mountPath": "/claims/gen", "readOnly": True} in triton[
        "volumeMounts"
    ]
    claim = {"claimName": "guards", "readOnly": True}
    assert {"name": "claim-gen", "persistentVolumeClaim": claim} in release.pod("triton-guard")[
        "volumes"
    ]
    assert downloads(release, "triton-guard") == []


def test_a_model_from_a_store_that_is_not_asked(render: Render) -> None:
    release = render(MATRIX["object-store"])
    (download,) = downloads(release, "triton-guard")
    folder = env(release.container("triton-guard"))["QWARDEN_ENGINE__CHECKPOINT"]
    assert folder == "/checkpoints/gen/gen"
    assert download["args"] == ["store", "s3://models/guard/gen", folder]
    assert env(download) == {
        "OBJECT_STORE_ENDPOINT": "https://store.example.com",
        "OBJECT_STORE_REGION": "eu-central-1",
        "OBJECT_STORE_ACCESS_KEY": ("store-user", "access-key"),
        "OBJECT_STORE_SECRET_KEY": ("store-user", "secret-key"),
    }


def test_a_model_in_the_image_that_is_looked_for_elsewhere(render: Render) -> None:
    release = render(MATRIX["path-cuda-plain-builtin"])
    engine = EngineSettings.from_env(process_env(release.container("triton-guard")))
    assert engine.checkpoint == "/checkpoint"
    assert downloads(release, "triton-guard") == []


def test_a_model_in_an_image_of_one_workload_that_another_one_gets(render: Render) -> None:
    own: Values = {
        "name": "own",
        "models": {"gen": {"path": "/opt/checkpoints/gen"}},
        "image": f"registry.example.com/guards/gen-4b@{DIGEST}",
    }
    release = render(merged(REQUIRED, guards(own, {"name": "plain", "models": {"gen": GEN}})))
    assert release.container("triton-own")["image"] == own["image"]
    plain = release.container("triton-plain")["image"]
    assert plain.startswith(f"{REGISTRY}/qwarden-triton:")
    assert {each["image"] for each in downloads(release, "triton-plain")} == {plain}


# Who asks whom


@pytest.mark.long
def test_a_client_that_sees_one_address_for_all_replicas(release: Release) -> None:
    services = {each["metadata"]["name"]: each for each in release.kind("Service")}
    for component in ("moderator", "streamer"):
        if not any(component_of(each) == component for each in release.kind("Deployment")):
            continue
        loaded = settings.load(process_env(release.container(component)))
        for address in (loaded.triton.url, *loaded.stream_urls):
            host, _, port = address.partition(":")
            if release.guards():
                service = services[host.removesuffix(".moderation.svc")]
                assert service["spec"]["clusterIP"] == "None"
                assert int(port) in {each["port"] for each in service["spec"]["ports"]}
        Addresses(loaded.stream_urls)


@pytest.mark.parametrize(
    ("case", "gen", "stream"),
    [
        ("shared-gpu", "qwarden-triton-guard.moderation.svc:8001", None),
        (
            "own-gpus",
            "qwarden-triton-gen.moderation.svc:8001",
            "qwarden-triton-stream.moderation.svc:8001",
        ),
        ("two-sizes", "qwarden-triton-large.moderation.svc:8001", None),
        ("guards-elsewhere", "triton.guards.svc:8001", "triton-stream.guards.svc:8001"),
    ],
)
def test_a_guard_that_is_not_the_one_in_use(
    render: Render, case: str, gen: str, stream: str | None
) -> None:
    release = render(MATRIX[case])
    assert env(release.container("moderator"))["QWARDEN_TRITON__URL"] == gen
    if MATRIX[case].get("streamer"):
        streamer = env(release.container("streamer"))
        assert streamer["QWARDEN_TRITON__URL"] == gen
        assert streamer["QWARDEN_STREAM_GUARD__URLS"] == (stream or gen)


def test_a_stream_model_at_the_one_address_elsewhere(render: Render) -> None:
    values = merged(
        REQUIRED, at("triton.address", "triton.guards.svc:8001"), at("streamer.enabled", True)
    )
    streamer = env(render(values).container("streamer"))
    assert streamer["QWARDEN_STREAM_GUARD__URLS"] == "triton.guards.svc:8001"


def test_a_triton_of_our_own_beside_the_one_elsewhere(render: Render) -> None:
    release = render(MATRIX["guards-elsewhere"])
    assert release.guards() == []
    assert {component_of(each) for each in release.kind("Service")} == {
        "moderator",
        "streamer",
        "review",
    }


# What a workload has


def test_a_workload_without_what_all_of_them_have_by_default(render: Render) -> None:
    own: Values = {
        "name": "own",
        "models": {"gen": GEN},
        "gpu": {"nvidia.com/mig-3g.40gb": 2},
        "autoscaling": {"enabled": True},
        "env": [{"name": "QWARDEN_ENGINE__TOKEN_BUDGET", "value": "4096"}],
    }
    plain: Values = {"name": "plain", "models": {"gen": GEN}}
    values = merged(
        REQUIRED,
        guards(own, plain),
        at("triton.defaults.autoscaling", {"minReplicas": 2, "maxReplicas": 5}),
        at("triton.defaults.env", [{"name": "QWARDEN_ENGINE__TOKEN_BUDGET", "value": "8192"}]),
        at("monitoring.serviceMonitor.enabled", True),
    )
    release = render(values)
    # A map or a list of its own takes the place of the default, not a part of it.
    limits = release.container("triton-own")["resources"]["limits"]
    assert {name: limits[name] for name in limits if "/" in name} == {"nvidia.com/mig-3g.40gb": 2}
    assert env(release.container("triton-own"))["QWARDEN_ENGINE__TOKEN_BUDGET"] == "4096"
    assert env(release.container("triton-plain"))["QWARDEN_ENGINE__TOKEN_BUDGET"] == "8192"
    # But who switches autoscaling on keeps the bounds.
    assert "replicas" not in release.workload("triton-own")["spec"]
    (scaler,) = release.kind("ScaledObject")
    assert scaler["spec"]["maxReplicaCount"] == 5
    assert release.workload("triton-plain")["spec"]["replicas"] == 1


def test_a_slice_of_a_gpu_that_comes_with_a_whole_one(render: Render) -> None:
    mig = {"nvidia.com/mig-3g.40gb": 1}
    release = render(merged(BASE, at("triton.defaults.gpu", mig)))
    limits = release.container("triton-guard")["resources"]["limits"]
    assert {name: limits[name] for name in limits if "/" in name} == mig


@pytest.mark.parametrize("status", [200, 503])
def test_a_guard_that_is_asked_before_its_models_are_there_or_never(
    render: Render, status: int
) -> None:
    """The readiness probe's own words, at a server that answers as Triton does."""
    asked = []

    class Health(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    program, flag, words = render(BASE).container("triton-guard")["readinessProbe"]["exec"][
        "command"
    ]
    assert (program, flag) == ("python3", "-c")
    with HTTPServer(("127.0.0.1", 0), Health) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        there = words.replace("8000", str(server.server_port))
        done = subprocess.run([sys.executable, flag, there], check=False, timeout=60)
        thread.join()
    assert asked == ["/v2/health/ready"]
    assert (done.returncode == 0) == (status == 200)


def test_a_gpu_taken_for_a_cpu_trial_or_none_where_one_is_needed(release: Release) -> None:
    device = release.values["triton"].get("defaults", {}).get("device", "cuda")
    for each in release.guards():
        triton = release.container(component_of(each))
        assert env(triton).get("QWARDEN_ENGINE__DEVICE", device) == device
        assert env(triton).get("QWARDEN_STREAM__DEVICE", device) == device
        gpus = triton["resources"]["limits"].get("nvidia.com/gpu", 0)
        assert gpus == {"cuda": 1, "cpu": 0}[device]
        for download in downloads(release, component_of(each)):
            assert "nvidia.com/gpu" not in download["resources"]["limits"]


def test_a_placing_that_the_guard_does_not_get(render: Render) -> None:
    release = render(MATRIX["placed"])
    pod = release.pod("triton-guard")
    given = PLACED["triton"]["defaults"]
    for key in ("priorityClassName", "runtimeClassName", "nodeSelector", "tolerations"):
        assert pod[key] == given[key]
    template = release.workload("triton-guard")["spec"]["template"]
    assert given["annotations"].items() <= template["metadata"]["annotations"].items()


def test_a_further_setting_of_the_engine_that_fights_with_the_chart_s_own(
    helm: ModuleType, render: Render
) -> None:
    twice = [{"name": "QWARDEN_ENGINE__CHECKPOINT", "value": "/elsewhere"}]
    with pytest.raises(helm.HelmRenderError, match=r"triton.workloads\[guard\].env names"):
        render(merged(BASE, at("triton.defaults.env", twice)))


def test_a_triton_that_outgrows_the_shared_memory_of_a_pod(release: Release) -> None:
    for each in release.guards():
        component = component_of(each)
        (name,) = (n for n, path in mounts(release.container(component)) if path == "/dev/shm")
        (volume,) = (v for v in release.pod(component)["volumes"] if v["name"] == name)
        assert volume["emptyDir"] == {"medium": "Memory", "sizeLimit": "1Gi"}


def test_kernels_that_are_compiled_anew_in_each_container_or_onto_a_read_only_root(
    release: Release,
) -> None:
    for each in release.guards():
        component = component_of(each)
        triton = release.container(component)
        (name,) = (n for n, path in mounts(triton) if path == "/var/cache/compile")
        (volume,) = (v for v in release.pod(component)["volumes"] if v["name"] == name)
        assert "emptyDir" in volume
        folders = {env(triton)[cache] for cache in CACHES}
        assert len(folders) == len(CACHES)
        assert all(folder.startswith("/var/cache/compile/") for folder in folders)


# Life and death


def test_a_triton_that_runs_without_its_supervisor(release: Release) -> None:
    """It is in the image's entrypoint, which arguments are appended to and a command replaces."""
    for each in release.guards():
        assert "command" not in release.container(component_of(each))


def test_a_triton_believed_alive_by_its_health_page(release: Release) -> None:
    for each in release.guards():
        triton = release.container(component_of(each))
        for probe in ("startupProbe", "livenessProbe"):
            program, module, name, seconds = triton[probe]["exec"]["command"]
            assert (program, module, name) == ("python3", "-m", "qwarden_engine.alive")
            assert importlib.util.find_spec(name)
            # It says what is wrong itself, before the kubelet ends it.
            assert float(seconds) < triton[probe]["timeoutSeconds"]
        assert "/v2/health/ready" in triton["readinessProbe"]["exec"]["command"][-1]


@pytest.mark.parametrize("seconds", [10, 301, 600, 1800])
def test_a_triton_killed_while_it_still_loads_its_models(render: Render, seconds: int) -> None:
    release = render(merged(BASE, at("triton.defaults.startupSeconds", seconds)))
    probe = release.container("triton-guard")["startupProbe"]
    assert seconds <= probe["periodSeconds"] * probe["failureThreshold"] < seconds + 10
    guard = release.workload("triton-guard")["spec"]["progressDeadlineSeconds"]
    assert guard > 2 * seconds  # a download, and a start
    # Who waits for the guard does not fail before it does.
    assert release.workload("moderator")["spec"]["progressDeadlineSeconds"] >= seconds + 300


@pytest.mark.parametrize("seconds", [10, 301, 600, 1800])
def test_a_container_ended_while_its_supervisor_mends_it(render: Render, seconds: int) -> None:
    """The supervisor sees a silent engine after `ask_after` and `patience`, ends it within `grace`,
    waits `backoff_cap` at most, and starts it, which may take as long as a first start."""
    release = render(merged(BASE, at("triton.defaults.startupSeconds", seconds)))
    probe = release.container("triton-guard")["livenessProbe"]
    timing = Timing()
    mends = timing.ask_after + timing.patience + timing.grace + timing.backoff_cap + seconds
    # From the first failure to the last there is one period fewer than there are failures.
    waits = probe["periodSeconds"] * (probe["failureThreshold"] - 1)
    assert mends <= waits < mends + probe["periodSeconds"]
    # A busy server answers within what one request may take there.
    assert probe["timeoutSeconds"] < probe["periodSeconds"]


def test_a_triton_killed_before_it_has_answered_what_it_has(render: Render) -> None:
    release = render(BASE)
    triton = release.container("triton-guard")
    program, asked = triton["lifecycle"]["preStop"]["exec"]["command"]
    assert program == "sleep"
    # A client asks for the name anew every look_s; a cluster's DNS keeps an answer for 5 s.
    assert float(asked) >= settings.StreamGuard().look_s + 5
    grace = release.pod("triton-guard")["terminationGracePeriodSeconds"]
    needed = float(asked) + Timing().grace
    assert needed < grace <= needed + 10


def test_a_roll_out_that_waits_for_a_gpu_that_is_not_there(release: Release) -> None:
    for each in release.guards():
        strategy = each["spec"]["strategy"]["rollingUpdate"]
        assert strategy == {"maxSurge": 0, "maxUnavailable": 1}


# TLS


def test_a_guard_that_answers_in_clear(render: Render) -> None:
    release = render(merged(REQUIRED, SHARED_GPU, TRITON_TLS))
    triton = release.container("triton-guard")
    assert triton["args"] == [
        "--http-address=127.0.0.1",
        "--metrics-address=0.0.0.0",
        "--grpc-use-ssl=true",
        "--grpc-server-cert=/etc/qwarden/triton-server/tls.crt",
        "--grpc-server-key=/etc/qwarden/triton-server/tls.key",
        "--grpc-use-ssl-mutual=true",
        "--grpc-root-cert=/etc/qwarden/triton-ca/ca.crt",
    ]
    assert {"/etc/qwarden/triton-server", "/etc/qwarden/triton-ca"} <= {
        path for _, path in mounts(triton)
    }
    volumes: dict[str, Any] = {v["name"]: v for v in release.pod("triton-guard")["volumes"]}
    assert volumes["triton-server"]["secret"]["secretName"] == "triton-server"
    one_way = merged(
        REQUIRED, SHARED_GPU, TRITON_TLS, at("triton.tls.clientCertificate.secretName", "")
    )
    args = render(one_way).container("triton-guard")["args"]
    assert not any("mutual" in each or "root" in each for each in args)
    # HTTP has no TLS here: whoever reached it would need no certificate.
    plain = render(BASE).container("triton-guard")
    assert plain["args"] == ["--http-address=127.0.0.1", "--metrics-address=0.0.0.0"]
    assert {port["containerPort"] for port in plain["ports"]} == {8001, 8002}


@pytest.mark.skipif(not SERVER.is_file(), reason="Triton's binary is missing (nvidia-pytriton)")
def test_a_triton_whose_http_others_reach_or_whose_metrics_nobody_does(
    render: Render, tmp_path: Path
) -> None:
    """The real server with the chart's arguments, seen from another address than 127.0.0.1."""
    http, grpc, metrics = free_ports(3)
    ports = (f"--http-port={http}", f"--grpc-port={grpc}", f"--metrics-port={metrics}")
    libraries = Path(sysconfig.get_path("purelib")) / "nvidia_pytriton.libs"
    server = subprocess.Popen(
        [
            *(SERVER, f"--model-repository={tmp_path}", "--allow-gpu-metrics=false"),
            *(*render(BASE).container("triton-guard")["args"], *ports),
        ],
        env={**os.environ, "LD_LIBRARY_PATH": str(libraries)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )

    def answers(address: str, port: int) -> bool:
        try:
            with socket.create_connection((address, port), timeout=1):
                return True
        except OSError:
            return False

    try:
        deadline = time.monotonic() + 60
        while not (answers("127.0.0.1", http) and answers("127.0.0.2", metrics)):
            assert server.poll() is None and time.monotonic() < deadline
            time.sleep(0.1)
        assert not answers("127.0.0.2", http)
        assert answers("127.0.0.2", grpc)
    finally:
        server.kill()
        server.wait()
