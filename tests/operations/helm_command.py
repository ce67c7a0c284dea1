"""`helm lint` and `helm template` for the pages' commands, by the library that the tests of the
chart use: Helm itself is a program of another language, and is not installed by pip."""

from __future__ import annotations

import argparse
import sys
from typing import Any

import helm_python
import yaml

from chart.releases import at, merged


def main(words: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="helm")
    parser.add_argument("command", choices=["lint", "template"])
    parser.add_argument("named", nargs="+")
    parser.add_argument("--strict", action="store_true")
    parser.add_argument("--namespace", default="default")
    parser.add_argument("--values", action="append", default=[])
    parser.add_argument("--set", action="append", default=[])
    told = parser.parse_args(words)
    layers: list[dict[str, Any]] = []
    for name in told.values:
        with open(name, encoding="utf-8") as file:  # noqa: PTH123 - as helm does
            layers.append(yaml.safe_load(file))
    for each in told.set:
        path, _, value = each.partition("=")
        layers.append(at(path, yaml.safe_load(value)))
    values = merged(*layers)
    if told.command == "lint":
        report = helm_python.lint(told.named[0], values, strict=told.strict)
        print(report["messages"])
        return 1 if report["errors"] else 0
    release, chart = told.named
    with helm_python.Chart.load(chart) as loaded:
        try:
            files = loaded.render(values, name=release, namespace=told.namespace, revision=1)
        except Exception as error:
            print(f"Error: {error}", file=sys.stderr)
            return 1
    for path, text in sorted(files.items()):
        if not path.endswith("NOTES.txt") and text.strip():
            print(f"---\n# Source: {path}\n{text}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
