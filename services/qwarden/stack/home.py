"""Where a stack keeps its files: the `.qwarden/` folder."""

from __future__ import annotations

import fcntl
import json
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def checkout() -> Path:
    """Return the root of the checkout that this code runs from, else the working directory."""
    root = Path(__file__).resolve().parents[3]
    return root if (root / "triton_models").is_dir() else Path.cwd()


class Home:
    """The folder of one stack: its logs, data, addresses and settings.

    `root`: the folder, `.qwarden/` of the checkout if not given. What is downloaded or copied
    once (`shared`) stays in the checkout's `.qwarden/` in any case, so that a test with a folder
    of its own needs no network.
    """

    def __init__(self, root: Path | None = None) -> None:
        self.shared = checkout() / ".qwarden"
        self.root = self.shared if root is None else root.resolve()

    @property
    def logs(self) -> Path:
        """The folder of the logs, one file a part."""
        return _folder(self.root / "logs")

    @property
    def tmp(self) -> Path:
        """The folder that children have for temporary files."""
        return _folder(self.root / "tmp")

    @property
    def pid_file(self) -> Path:
        """The file that says which process runs the stack of this folder."""
        return self.root / "stack.pid"

    def data(self, part: str) -> Path:
        """Return the folder in which `part` keeps its data from one start to the next."""
        return _folder(self.root / part)

    def cache(self, name: str) -> Path:
        """Return the folder of things made once for all stacks of the checkout."""
        return _folder(self.shared / name)

    def content_key(self) -> str:
        """Return the content key, 64 hex digits; it is made at the first call and kept."""
        path = _folder(self.root) / "content.key"
        with locked(path.with_suffix(".lock")):
            if not path.exists():
                write_private(path, secrets.token_hex(32) + "\n")
        return path.read_text(encoding="ascii").strip()

    def write_addresses(self, addresses: Mapping[str, Any]) -> None:
        """Write `stack.json`."""
        write_private(_folder(self.root) / "stack.json", json.dumps(addresses, indent=2) + "\n")

    def addresses(self) -> dict[str, Any] | None:
        """Return what `stack.json` says, or None where no stack runs."""
        try:
            text = (self.root / "stack.json").read_text(encoding="utf-8")
        except FileNotFoundError:
            return None
        value: dict[str, Any] = json.loads(text)
        return value

    def write_settings(self, settings: Mapping[str, str]) -> None:
        """Write `stack.env`, a `KEY=value` a line; only its owner may read it.

        Raises ValueError for a value with a line break, which the format cannot hold.
        """
        for key, value in settings.items():
            if "\n" in value or "\r" in value:
                raise ValueError(f"{key} has a line break; stack.env holds one line a setting.")
        lines = "".join(f"{key}={value}\n" for key, value in settings.items())
        write_private(_folder(self.root) / "stack.env", lines)

    def settings(self) -> dict[str, str] | None:
        """Return what `stack.env` says, or None where no stack runs."""
        try:
            text = (self.root / "stack.env").read_text(encoding="utf-8")
        except FileNotFoundError:
            return None
        pairs = (line.partition("=") for line in text.splitlines())
        return {key: value for key, _, value in pairs}

    def forget(self) -> None:
        """Remove `stack.json` and `stack.env`: what they name has ended."""
        for name in ("stack.json", "stack.env"):
            (self.root / name).unlink(missing_ok=True)


def write_private(path: Path, text: str) -> None:
    """Replace `path` in one step; mode 600 from its first byte on."""
    new = path.with_name(f"{path.name}.{os.getpid()}.new")
    new.unlink(missing_ok=True)
    new.touch(mode=0o600)
    new.write_text(text, encoding="utf-8")
    new.replace(path)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock file `path`, against other processes too; it goes when the process ends."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _folder(path: Path) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    return path
