"""The results on disk: each cell is written when it is there, so that a run can go on."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any


class Results:
    """`body`: what the file holds. With `resume` an earlier run's cells are kept."""

    def __init__(self, path: Path, head: dict[str, Any], *, resume: bool) -> None:
        self._path = path
        self.body: dict[str, Any] = {**head, "shapes": {}, "cells": {}}
        if resume and path.is_file():
            before = json.loads(path.read_text())
            # Figures of another machine beside these would mean nothing.
            if before.get("machine") == head.get("machine"):
                self.body |= {name: before.get(name, {}) for name in ("shapes", "cells")}

    def has(self, name: str) -> bool:
        """Whether a cell is there."""
        return name in self.body["cells"]

    def add(self, name: str, cell: dict[str, Any]) -> None:
        """Writes a cell."""
        at = datetime.now(UTC).isoformat(timespec="seconds")
        self.body["cells"][name] = {**cell, "at": at}
        self._path.parent.mkdir(parents=True, exist_ok=True)
        new = self._path.with_suffix(".new")
        new.write_text(json.dumps(self.body, indent=2) + "\n")
        new.replace(self._path)
