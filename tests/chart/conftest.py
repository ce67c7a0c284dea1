"""Helm, and the chart as it renders it."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator
from types import ModuleType

import pytest
import yaml

from chart.releases import CHART, MATRIX, Manifest, Release, Render, Values


@pytest.fixture(scope="session")
def helm() -> ModuleType:
    try:
        module = importlib.import_module("helm_python")
        module.helm_sdk_version()
    except Exception as error:  # no wheel for this platform, or a library that does not load
        pytest.skip(f"the chart needs the Python package helm-python-sdk: {error}")
    return module


@pytest.fixture(scope="session")
def render(helm: ModuleType) -> Iterator[Render]:
    """Renders values; what was rendered once is given again, so that nobody may change it."""
    known: dict[str, Release] = {}
    with helm.Chart.load(CHART) as chart:

        def render(values: Values, *, name: str = "qwarden", revision: int = 1) -> Release:
            asked = json.dumps([values, name, revision], sort_keys=True)
            if asked not in known:
                known[asked] = rendered(values, name, revision)
            return known[asked]

        def rendered(values: Values, name: str, revision: int) -> Release:
            files = chart.render(values, name=name, namespace="moderation", revision=revision)
            notes = ""
            objects: list[Manifest] = []
            for path, text in files.items():
                if path.endswith("NOTES.txt"):
                    notes = text
                else:
                    # libyaml: 14 ms a release, where the loader in Python takes 140.
                    objects += [each for each in yaml.load_all(text, yaml.CSafeLoader) if each]
            return Release(values, tuple(objects), notes)

        yield render


@pytest.fixture(scope="session", params=MATRIX)
def release(request: pytest.FixtureRequest, render: Render) -> Release:
    return render(MATRIX[request.param])
