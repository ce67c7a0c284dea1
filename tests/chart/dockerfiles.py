"""The Dockerfiles, read as text: their stages, and what each step says."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
FOLDER: Final = ROOT / "deploy" / "docker"
FILES: Final = {
    "services": FOLDER / "services.Dockerfile",
    "triton": FOLDER / "triton.Dockerfile",
}


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

    def environment(self) -> dict[str, str]:
        """What ENV sets, PATH and the like not put in."""
        return dict(re.findall(r"(\w+)=(\S+)", " ".join(self.all("ENV"))))


@dataclass(frozen=True, slots=True)
class Copy:
    """A COPY. `stage`: the name behind --from, empty for the build's own folder."""

    stage: str
    sources: tuple[str, ...]
    target: str


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


def copy_of(text: str) -> Copy:
    """What follows the word COPY."""
    options = [word for word in text.split() if word.startswith("--")]
    *sources, target = (word for word in text.split() if not word.startswith("--"))
    assert all(option.startswith("--from=") for option in options), text
    origin = options[0].removeprefix("--from=") if options else ""
    return Copy(origin, tuple(source.rstrip("/") for source in sources), target)


def copies(stage: Stage) -> list[Copy]:
    return [copy_of(text) for text in stage.all("COPY")]
