"""The Dockerfiles, read as text: no image can be built where the tests run."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pytest
import yaml

ROOT: Final = Path(__file__).resolve().parents[2]
FOLDER: Final = ROOT / "deploy" / "docker"
FILES: Final = {"services": "services.Dockerfile", "triton": "triton.Dockerfile"}


@dataclass(frozen=True, slots=True)
class Stage:
    """One FROM and what follows it; variables hold its ARG defaults and ENV values."""

    image: str
    name: str
    steps: list[tuple[str, str]] = field(default_factory=list)
    variables: dict[str, str] = field(default_factory=dict)

    def all(self, instruction: str) -> list[str]:
        return [text for name, text in self.steps if name == instruction]

    def workdir(self) -> str:
        return (self.all("WORKDIR") or ["/"])[-1]


@dataclass(frozen=True, slots=True)
class Copy:
    stage: str
    sources: tuple[str, ...]


def substituted(text: str, variables: dict[str, str]) -> str:
    return re.sub(r"\$\{(\w+)\}|\$(\w+)", lambda m: variables.get(m[1] or m[2], m[0]), text)


def stages_of(path: Path) -> list[Stage]:
    """The stages of a Dockerfile, comments dropped and continued lines joined."""
    lines = [x for x in path.read_text().splitlines() if not x.lstrip().startswith("#")]
    arguments: dict[str, str] = {}
    stages: list[Stage] = []
    for line in re.sub(r"\\\n", " ", "\n".join(lines)).splitlines():
        if not line.strip():
            continue
        instruction, text = line.split(maxsplit=1)
        assert re.fullmatch("[A-Z]+", instruction), line
        if instruction == "FROM":
            parts = substituted(text, arguments).split()
            assert len(parts) == 1 or parts[1] == "AS", line
            stages.append(Stage(parts[0], parts[2] if len(parts) == 3 else ""))
        elif not stages:
            assert instruction == "ARG", line
            name, _, default = text.partition("=")
            arguments[name] = substituted(default, arguments)
        else:
            stages[-1].steps.append((instruction, text))
            if instruction in ("ARG", "ENV"):
                stages[-1].variables.update(re.findall(r"(\w+)=(\S+)", text))
    return stages


def copies(stage: Stage) -> list[Copy]:
    found = []
    for text in stage.all("COPY"):
        options = [word for word in text.split() if word.startswith("--")]
        *sources, _ = (word for word in text.split() if not word.startswith("--"))
        assert all(option.startswith("--from=") for option in options), text
        origin = options[0].removeprefix("--from=") if options else ""
        found.append(Copy(origin, tuple(source.rstrip("/") for source in sources)))
    return found


@pytest.fixture(params=FILES)
def path(request: pytest.FixtureRequest) -> Path:
    return FOLDER / FILES[request.param]


@pytest.fixture
def stages(path: Path) -> list[Stage]:
    return stages_of(path)


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
    services, triton = (stages_of(FOLDER / name)[-1] for name in FILES.values())
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
        name: [r for st in stages_of(FOLDER / file) for r in st.all("RUN") if "pip install" in r]
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
