"""A Dockerfile's steps, run as a script in clean folders: what an image would have in it.

A stage is a folder. COPY copies into it, WORKDIR and the paths behind it are folders below it, and
RUN is `sh` there, with the ARGs and ENVs above it and nothing of this process's environment but
what tells pip where packages are. The base image's Python is a new virtual environment. What needs
root (users, owners) stands in the last stage, of which only COPY and ENV are taken.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import venv
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from chart.dockerfiles import ROOT, Stage, copy_of, stages_of, substituted

_OF_PIP: Final = re.compile(r"(?i)^(pip|ssl|requests|curl)_|_proxy$|^HOME$")
"""What an environment says of where packages come from, and of whom to believe."""

_LEFT_OUT: Final = shutil.ignore_patterns("__pycache__", "*.egg-info")
"""As the .dockerignore files say."""

_STEP_TIMEOUT_S: Final = 1500


@dataclass(frozen=True, slots=True)
class Image:
    """What the steps made. `prefix`: where the packages are; `environment`: of the last stage."""

    root: Path
    prefix: Path
    python: Path
    environment: dict[str, str]

    def here(self, path: str) -> Path:
        """Where a path of the image lies."""
        return self.root / "final" / path.lstrip("/")


def run(dockerfile: Path, root: Path) -> Image:
    """Runs every stage of `dockerfile` under `root`, and returns the last one.

    Raises AssertionError with the end of what a step said, where it fails.
    """
    python = _base_image(root)
    stages = stages_of(dockerfile)
    for number, stage in enumerate(stages):
        is_last = number == len(stages) - 1
        _run_stage(stage, root / ("final" if is_last else stage.name), root, runs=not is_last)
    final = stages[-1]
    inherited = {"PATH": f"{python / 'bin'}{os.pathsep}/usr/bin:/bin"}
    environment = {
        name: substituted(value, inherited).replace("/opt/", f"{root / 'final' / 'opt'}/")
        for name, value in final.environment().items()
    }
    return Image(root, root / "final" / "opt" / "qwarden", python, {**inherited, **environment})


def stage(dockerfile: Path, name: str, root: Path) -> Path:
    """Runs one stage of `dockerfile` that needs no other, and returns its folder. Raises as `run`
    does."""
    _base_image(root)
    (wanted,) = (each for each in stages_of(dockerfile) if each.name == name)
    _run_stage(wanted, root / name, root, runs=True)
    return root / name


def _base_image(root: Path) -> Path:
    """The base image's Python."""
    python = root / "python"
    venv.EnvBuilder(with_pip=True, symlinks=True).create(python)
    return python


def _run_stage(stage: Stage, folder: Path, root: Path, *, runs: bool) -> None:
    at = folder
    variables: dict[str, str] = {}
    for instruction, text in stage.steps:
        if instruction == "WORKDIR":
            at = folder / text.lstrip("/")
            at.mkdir(parents=True, exist_ok=True)
        elif instruction in ("ARG", "ENV"):
            variables |= dict(re.findall(r"(\w+)=(\S+)", text))
        elif instruction == "COPY":
            _copy(text, at, folder, root)
        elif instruction == "RUN" and runs:
            # Where an image has /opt, this has the last stage's: what is installed there has its
            # own path written into it, and is run from there.
            moved = {
                name: str(root / "final" / value.lstrip("/"))
                for name, value in variables.items()
                if value.startswith("/opt/")
            }
            _step(text, at, root, {**variables, **moved})


def _copy(text: str, at: Path, folder: Path, root: Path) -> None:
    copy = copy_of(text)
    inside = folder / copy.target.lstrip("/") if copy.target.startswith("/") else at / copy.target
    for source in copy.sources:
        origin = root / copy.stage / source.lstrip("/") if copy.stage else ROOT / source
        if source.startswith("/opt/"):
            assert (root / "final" / source.lstrip("/")).is_dir(), f"{source} was not made"
        elif origin.is_dir():  # COPY copies what is in a folder
            shutil.copytree(origin, inside, ignore=_LEFT_OUT, dirs_exist_ok=True)
        else:
            inside.mkdir(parents=True, exist_ok=True)
            shutil.copy(origin, inside)


def _step(command: str, at: Path, root: Path, variables: dict[str, str]) -> None:
    kept = {name: value for name, value in os.environ.items() if _OF_PIP.search(name)}
    path = f"{root / 'python' / 'bin'}{os.pathsep}/usr/bin:/bin"
    done = subprocess.run(
        ["sh", "-e", "-c", command],
        cwd=at,
        env={"PATH": path, **kept, **variables, "PYTHONDONTWRITEBYTECODE": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=_STEP_TIMEOUT_S,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}"
