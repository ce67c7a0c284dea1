"""The chart's output, kept so that a change of a template shows in the diff what it does.

`PYTHONPATH=tests .venv/bin/python -m chart.goldens` writes `golden/`; a test compares.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import yaml

from chart.releases import BASE, CHART, Manifest, Values
from chart.rows import PRODUCTION

FOLDER: Final = Path(__file__).parent / "golden"

GOLDENS: Final[dict[str, Values]] = {"default": BASE, "production": PRODUCTION}
"""`default` gives what has no default, and nothing else."""

_HEAD: Final = """\
# Written by `PYTHONPATH=tests .venv/bin/python -m chart.goldens`: what the chart renders for
# the values `{name}` of chart/goldens.py. Rules and dashboards are files of deploy/, named only.
"""


class _Dumper(yaml.SafeDumper):
    """Long texts as they were written, and lists under their keys."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)


def written(name: str, objects: list[Manifest]) -> str:
    """These objects as a golden file, by kind and name."""
    ordered = sorted(objects, key=lambda each: (each["kind"], each["metadata"]["name"]))
    return _HEAD.format(name=name) + "".join(
        "---\n" + yaml.dump(_shortened(each), Dumper=_Dumper, sort_keys=False, width=100)
        for each in ordered
    )


def _shortened(manifest: Manifest) -> Manifest:
    if manifest["kind"] == "PrometheusRule":
        names: list[Any] = [group["name"] for group in manifest["spec"]["groups"]]
        return {**manifest, "spec": {"groups": names}}
    if manifest["kind"] == "ConfigMap" and any(key.endswith(".json") for key in manifest["data"]):
        return {**manifest, "data": sorted(manifest["data"])}
    return manifest


def current(render: Callable[[Values], list[Manifest]]) -> dict[str, str]:
    """Each golden file's text by its name, as it should be now."""
    return {name: written(name, render(values)) for name, values in GOLDENS.items()}


def main() -> None:
    helm = importlib.import_module("helm_python")
    with helm.Chart.load(CHART) as chart:

        def render(values: Values) -> list[Manifest]:
            files = chart.render(values, name="qwarden", namespace="moderation")
            texts = (text for path, text in files.items() if not path.endswith("NOTES.txt"))
            return [each for text in texts for each in yaml.safe_load_all(text) if each]

        FOLDER.mkdir(exist_ok=True)
        for name, text in current(render).items():
            (FOLDER / f"{name}.yaml").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
