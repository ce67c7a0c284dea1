"""Other projects' own schemas, out of the Go modules that they publish.

They are fetched, not kept here: a copy would go on agreeing with itself.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Final

import pytest

KEDA: Final = "github.com/kedacore/keda/v2@v2.21.0"
PROMETHEUS_OPERATOR: Final = "github.com/prometheus-operator/prometheus-operator@v0.85.0"
EXTERNAL_SECRETS: Final = "github.com/external-secrets/external-secrets@v1.3.2"
COMPOSE: Final = "github.com/compose-spec/compose-go/v2@v2.16.2"

_USUAL: Final = Path("/usr/local/go/bin/go")
"""Where Go's own archive puts it, which not every PATH names."""

_TIMEOUT_S: Final = 240
"""Of one download: 27 MB for all four."""


@functools.cache
def folder(module: str) -> Path:
    """The files of `PATH@VERSION`, in Go's module cache. Skips the test where there is no Go.

    A download that fails is a failure: the registry is there for everybody who has Go.
    """
    go = shutil.which("go") or (str(_USUAL) if _USUAL.exists() else None)
    if go is None:
        pytest.skip("other projects' schemas come as Go modules, and Go is missing (apt: golang)")
    done = subprocess.run(
        [go, "mod", "download", "-json", module],
        cwd="/",  # in no module, whose go.mod would be read
        # The toolchain that a module names is for building it, which nobody does here.
        env={**os.environ, "GOTOOLCHAIN": "local", "GOFLAGS": "", "GO111MODULE": "on"},
        capture_output=True,
        text=True,
        check=False,
        timeout=_TIMEOUT_S,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return Path(json.loads(done.stdout)["Dir"])
