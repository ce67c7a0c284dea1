"""The pure modules: what one contract of import-linter, in pyproject.toml, keeps apart from I/O.
Coverage and the mutants ask here, so that there is one list.

`PYTHONPATH=tests python -m pure` prints their files as coverage takes them.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]

_CONTRACT: Final = "what decides does no I/O and reads no clock"
FOLDERS: Final = {
    "qwarden": ROOT / "services",
    "qwarden_engine": ROOT / "triton_models" / "engine",
}
"""Where the packages are."""
_WRITE_FILES: Final = {"qwarden.contracts.schema", "qwarden.policy.schema"}
"""They write the schemas' files when they are run, and are imported by nothing that serves."""


def modules() -> list[str]:
    """The names of all pure modules, those of a package one by one."""
    linter = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    (contract,) = (each for each in linter["contracts"] if each["name"] == _CONTRACT)
    found: list[str] = []
    for name in contract["source_modules"]:
        folder = _path_of(name)
        inside = sorted(path.stem for path in folder.glob("*.py") if path.stem != "__init__")
        found += [f"{name}.{each}" for each in inside] if inside else [name]
    return [name for name in found if name not in _WRITE_FILES]


def file_of(module: str) -> Path:
    """The file of a module. Raises `FileNotFoundError` where there is none of that name."""
    return _path_of(module).with_suffix(".py").resolve(strict=True)


def _path_of(module: str) -> Path:
    return FOLDERS[module.partition(".")[0]].joinpath(*module.split("."))


if __name__ == "__main__":
    print(",".join(str(file_of(module).relative_to(ROOT)) for module in modules()))
