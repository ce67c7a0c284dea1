"""The Dockerfiles, read as text: no image can be built where the tests run."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sysconfig
from pathlib import Path
from typing import Final

import pytest
import yaml

from chart.dockerfiles import FILES, ROOT, Stage, copies, stages_of
from qwarden import __version__

ACCEPTED: Final = {
    "DL3059": "each RUN is one step that can fail by itself; the stages are thrown away",
}
"""What hadolint would have otherwise, and why it is as it is."""


@pytest.fixture(params=FILES)
def path(request: pytest.FixtureRequest) -> Path:
    return FILES[request.param]


@pytest.fixture
def stages(path: Path) -> list[Stage]:
    return stages_of(path)


def test_a_fault_that_hadolint_knows(path: Path) -> None:
    hadolint = shutil.which("hadolint", path=sysconfig.get_path("scripts"))
    assert hadolint, "the dev packages are not all installed: run `make setup`"
    accepted = [word for code in ACCEPTED for word in ("--ignore", code)]
    command = [hadolint, "--no-color", *accepted, str(path)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_a_base_image_that_moves(stages: list[Stage]) -> None:
    built = {stage.name for stage in stages}
    for stage in stages:
        if stage.image not in built:
            assert re.search(r":[0-9]+\.[0-9]+[\w.-]*$|@sha256:[0-9a-f]{64}$", stage.image)
            assert "latest" not in stage.image


def test_a_copy_of_a_path_that_the_repository_does_not_have(stages: list[Stage]) -> None:
    sources = [s for stage in stages for c in copies(stage) if not c.stage for s in c.sources]
    assert sources
    assert [source for source in sources if not (ROOT / source).exists()] == []


def test_a_copy_of_what_no_earlier_stage_made(stages: list[Stage]) -> None:
    taken = 0
    for number, stage in enumerate(stages):
        earlier = {each.name: each for each in stages[:number] if each.name}
        for copy in copies(stage):
            if not copy.stage:
                continue
            origin = earlier[copy.stage]
            words = {word for run in origin.all("RUN") for word in run.split()}
            made = set(origin.variables.values())
            made |= {f"{origin.workdir()}/{word}" for word in words}
            assert set(copy.sources) <= made
            taken += 1
    assert taken


def test_a_copied_path_kept_out_of_the_build_by_dockerignore(path: Path) -> None:
    lines = path.with_name(f"{path.name}.dockerignore").read_text().splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    kept = {rule.removeprefix("!") for rule in rules if rule.startswith("!")}
    needed = {s for st in stages_of(path) for c in copies(st) if not c.stage for s in c.sources}
    assert kept == needed


def test_packages_installed_by_another_python_than_the_one_that_runs(stages: list[Stage]) -> None:
    (packages,) = (stage for stage in stages if stage.name == "packages")
    assert packages.image == stages[-1].image


def test_an_image_that_runs_as_root_or_as_another_user_than_the_pod(stages: list[Stage]) -> None:
    helpers = (ROOT / "helm" / "qwarden" / "templates" / "_helpers.tpl").read_text()
    pod = yaml.safe_load("\n".join(re.findall(r"^  (runAs(?:User|Group): .*)$", helpers, re.M)))
    final = stages[-1]
    assert final.all("USER")[-1] == f"{pod['runAsUser']}:{pod['runAsGroup']}" != "0:0"
    after = [name for name, _ in final.steps[final.steps.index(("USER", final.all("USER")[-1])) :]]
    assert "RUN" not in after


def test_a_shell_that_keeps_the_stop_signal_from_the_process(stages: list[Stage]) -> None:
    (entrypoint,) = stages[-1].all("ENTRYPOINT")
    assert json.loads(entrypoint)
    assert stages[-1].all("CMD") == []


def test_entrypoints_that_the_chart_does_not_expect() -> None:
    services, triton = (stages_of(name)[-1] for name in FILES.values())
    assert json.loads(services.all("ENTRYPOINT")[0]) == ["qwarden"]
    supervisor = ["python3", "-m", "qwarden_engine.supervisor", "--restart", "--"]
    assert json.loads(triton.all("ENTRYPOINT")[0]) == [
        *supervisor,
        "tritonserver",
        "--model-repository=/models",
        "--disable-auto-complete-config",
    ]
    assert ("COPY", "triton_models/repository/ /models/") in triton.steps


def test_packages_of_versions_that_nobody_tested(stages: list[Stage]) -> None:
    installs = [run for st in stages for run in st.all("RUN") if "pip install" in run]
    assert installs
    assert all("--constraint constraints.txt" in run for run in installs)


def test_a_model_s_side_in_the_services_image_or_none_in_triton_s() -> None:
    installs = {
        name: [r for st in stages_of(file) for r in st.all("RUN") if "pip install" in r]
        for name, file in FILES.items()
    }
    assert [run for run in installs["services"] if "[" in run] == []
    assert ["[engine]" in run for run in installs["triton"]] == [True]


def test_an_address_of_one_company_s_package_registry(path: Path) -> None:
    text = path.read_text()
    assert re.findall(r"https?://|--index-url|--extra-index-url|--trusted-host", text) == []
    images = {stage.image.split(":")[0] for stage in stages_of(path)}
    assert images <= {"python", "nvcr.io/nvidia/tritonserver"}


def test_a_step_that_is_not_plain_sh(stages: list[Stage]) -> None:
    shell = shutil.which("sh")
    assert shell
    steps = [run for stage in stages for run in stage.all("RUN")]
    assert steps
    for step in steps:
        assert not step.lstrip().startswith(("[", "--")), step
        read = [shell, "-n", "-c", step]
        done = subprocess.run(read, check=False, capture_output=True, text=True)
        assert done.stderr == ""


def test_a_step_that_reads_a_variable_that_nothing_sets(stages: list[Stage]) -> None:
    for stage in stages:
        for run in stage.all("RUN"):
            read = set(re.findall(r"\$\{?([A-Za-z_]\w*)", run))
            assert read <= stage.variables.keys(), run


def test_images_that_are_pushed_under_other_names_than_the_chart_pulls() -> None:
    said = subprocess.run(
        ["make", "--dry-run", "images", "REGISTRY=registry.example/team"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    built = re.findall(r"docker build -f (\S+) -t (\S+) \.", said)
    names = [
        f"registry.example/team/{name}:{__version__}" for name in ("qwarden", "qwarden-triton")
    ]
    assert built == [
        (str(path.relative_to(ROOT)), name)
        for path, name in zip(FILES.values(), names, strict=True)
    ]
    assert re.findall(r"docker push (\S+)", said) == names


def test_images_for_nowhere_that_are_built_all_the_same() -> None:
    done = subprocess.run(["make", "images"], cwd=ROOT, check=False, capture_output=True, text=True)
    assert done.returncode == 2
    assert "Name a registry: make images REGISTRY=" in done.stdout
