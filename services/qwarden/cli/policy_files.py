"""Policies' files, as commands find and check them."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qwarden.cli.terminal import WRONG_USE, end
from qwarden.policy.document import DocumentError
from qwarden.policy.file import PolicyFile
from qwarden.policy.policy import version_of
from qwarden.policy.sources import file_of, findings, read_source
from qwarden.settings import Settings


@dataclass(frozen=True, slots=True)
class Checked:
    """A policy's file and what is to be said of it; `file`: resolved, None where it is none."""

    path: Path
    file: PolicyFile | None
    errors: list[str]
    warnings: list[str]

    def said(self) -> dict[str, Any]:
        said: dict[str, Any] = {"file": str(self.path), "right": not self.errors}
        if self.file is not None:
            said |= {
                "policy": self.file.name,
                "version": version_of(self.file),
                "rules": len(self.file.rules),
                "cases": len(self.file.cases),
            }
        return said | {"errors": self.errors, "warnings": self.warnings}


def checked_file(path: Path, settings: Settings) -> Checked:
    """A policy's file, with what it extends from beside it and from the settings' folder."""
    known = {each.stem: each for each in [*files_of_settings(settings), *_in(path.parent), path]}
    places = {file_of(name): str(each) for name, each in known.items()}

    def at(sentence: str) -> str:
        label, colon, rest = sentence.partition(":")
        return places.get(label, label) + colon + rest

    try:
        texts = {path.stem: _text(path)}
        for name, each in known.items():
            # What is beside it and cannot be read is nobody to extend.
            with contextlib.suppress(DocumentError):
                texts.setdefault(name, _text(each))
        source = read_source(texts, path.stem)
    except DocumentError as error:
        return Checked(path, None, [at(line) for line in str(error).splitlines()], [])
    found = findings(source)
    return Checked(
        path,
        source.file,
        [at(each.sentence) for each in found if each.is_error],
        [at(each.sentence) for each in found if not each.is_error],
    )


def files_of(path: Path) -> list[Path]:
    """The policies of a folder, or of its folder `policies`; or the file itself."""
    if not path.is_dir():
        return [file_at(path)]
    return _in(path / "policies" if (path / "policies").is_dir() else path)


def _in(folder: Path) -> list[Path]:
    found = (each for each in folder.glob("*.yaml") if each.name[0] != "." and each.is_file())
    return sorted(found)


def file_at(path: Path) -> Path:
    if not path.is_file():
        end(WRONG_USE, f"there is no file {path}")
    if path.suffix != ".yaml":
        end(WRONG_USE, f"{path}: a policy's file is called NAME.yaml")
    return path


def files_of_settings(settings: Settings) -> list[Path]:
    folder = settings.policy.path
    if folder is None or not (folder / "policies").is_dir():
        return []
    return _in(folder / "policies")


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise DocumentError(f"{file_of(path.stem)}:1:1: is not UTF-8: {error}") from None


def own_file(name: str, settings: Settings) -> PolicyFile | None:
    """The policy that the file in QWARDEN_POLICY__PATH says; None where there is none."""
    own = {each.stem: each for each in files_of_settings(settings)}.get(name)
    return checked_file(own, settings).file if own is not None else None
