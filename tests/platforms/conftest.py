"""An authority that is trusted, one that is not, and what they have signed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from certificates import Authority, Issued


@dataclass(frozen=True, slots=True)
class Signed:
    """`server` is 127.0.0.1's and `named` localhost's alone; `other` has signed nothing of it."""

    folder: Path
    authority: Authority
    other: Authority
    server: Issued
    named: Issued
    client: Issued


@pytest.fixture(scope="session")
def signed(tmp_path_factory: pytest.TempPathFactory) -> Signed:
    folder = tmp_path_factory.mktemp("signed")
    folder.chmod(0o755)  # PostgreSQL runs as somebody else where we are root
    authority, other = Authority(folder), Authority(folder, "other")
    return Signed(
        folder,
        authority,
        other,
        authority.issue("server", hosts=("127.0.0.1",)),
        authority.issue("named", hosts=("localhost",)),
        authority.issue("client"),
    )
