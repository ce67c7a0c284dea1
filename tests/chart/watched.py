"""What Prometheus has of a fleet: series, their labels, and what those can be; and what an
expression asks of it. Rules and dashboards are held against this."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from qwarden import catalogue

ROOT = Path(__file__).parents[2]
RULES = sorted((ROOT / "deploy" / "prometheus").glob("*.rules.yaml"))

TARGET_LABELS = frozenset({"namespace", "job", "instance", "pod", "workload"})
"""What each series gets from whoever scrapes it; `workload` from the chart's ServiceMonitor."""

COMMON: dict[str, tuple[str, ...]] = {
    "up": (),
    "process_start_time_seconds": (),
    "process_cpu_seconds_total": (),
    "process_resident_memory_bytes": (),
}
"""What Prometheus says of each target, and the Python client of each process."""

DEPLOYED: dict[str, dict[str, tuple[str, ...]]] = {
    "qwarden:deployed": {"part": ("service", "triton")},
    "qwarden:autoscaled": {},
}
"""What the chart records of each release, beside the rules that it ships as they are."""

_WORDS = frozenset(
    {"and", "or", "unless", "by", "without", "on", "ignoring", "group_left", "group_right"}
    | {"bool", "offset", "sum", "max", "min", "avg", "count", "topk", "quantile", "inf", "Inf"}
)
"""Names in an expression that are no series, and that no bracket need follow."""


@dataclass(frozen=True, slots=True)
class Series:
    """A series by its name. `values`: of each label those that it can have; empty where they are
    bounded otherwise."""

    name: str
    values: Mapping[str, tuple[str, ...]]

    @property
    def labels(self) -> frozenset[str]:
        return TARGET_LABELS | self.values.keys()


@cache
def exported() -> dict[str, Series]:
    """All that services and Triton export, by name."""
    found = {name: Series(name, dict.fromkeys(labels, ())) for name, labels in COMMON.items()}
    for metric in (*catalogue.services(), *catalogue.engines(), *catalogue.TRITON):
        labels = {label.name: label.values for label in metric.labels}
        for name in metric.series:
            le = {"le": ()} if name == f"{metric.name}_bucket" else {}
            # Streamer and stream guard have some of the same names.
            before = found[name].values if name in found else {}
            found[name] = Series(name, {**before, **labels, **le})
    return found


@cache
def recorded() -> dict[str, Series]:
    """What the rules record, with the labels that they aggregate by or give it, as far as those
    can be read from them."""
    found = {name: Series(name, labels) for name, labels in DEPLOYED.items()}
    for rule in rules():
        if "record" in rule:
            of = set(re.findall(r"\w+", " ".join(re.findall(r"\bby \(([^)]*)\)", rule["expr"]))))
            for name in re.findall(r"\bqwarden:[\w:]+", rule["expr"]):
                of |= found[name].labels if name in found else set()
            of |= set(rule.get("labels", {}))
            before = found[rule["record"]].values if rule["record"] in found else {}
            found[rule["record"]] = Series(rule["record"], dict(before) | dict.fromkeys(of, ()))
    return found


def rules(paths: Iterable[Path] = RULES) -> list[dict[str, Any]]:
    """Each rule of these files, as it stands there."""
    return [rule for path in paths for group in _groups(path) for rule in group["rules"]]


@cache
def _groups(path: Path) -> list[dict[str, Any]]:
    groups: list[dict[str, Any]] = yaml.safe_load(path.read_text(encoding="utf-8"))["groups"]
    return groups


@dataclass(frozen=True, slots=True)
class Selector:
    """A series that an expression asks for; (label, operator, value) of each of its matchers."""

    name: str
    matchers: tuple[tuple[str, str, str], ...]


_SELECTOR = re.compile(r"(?<![\w:$])([a-zA-Z_][\w:]*)\s*(?:\{([^}]*)\})?(?![\w:]*\()")
_MATCHER = re.compile(r'([a-zA-Z_]\w*)\s*(=~|!~|!=|=)\s*"([^"]*)"')
_GROUPING = re.compile(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\(([^)]*)\)")


def selectors(expression: str) -> list[Selector]:
    """The series that an expression asks for."""
    without = _GROUPING.sub(" ", expression)
    without = re.sub(r"\[[^\]]*\]|\boffset\s+\w+", " ", without)
    found = []
    for match in _SELECTOR.finditer(_outside_strings(without)):
        name = match[1]
        start = match.start(2)
        inside = without[start : match.end(2)] if match[2] is not None else ""
        if name not in _WORDS:
            found.append(Selector(name, tuple(_MATCHER.findall(inside))))
    return found


def grouping(expression: str) -> set[str]:
    """The labels that an expression aggregates or joins by."""
    return set(re.findall(r"\w+", " ".join(_GROUPING.findall(expression))))


def faults(expression: str, known: Mapping[str, Series]) -> list[str]:
    """What an expression asks for that nobody has, in sentences."""
    said = []
    labels = set(TARGET_LABELS)
    for each in selectors(expression):
        series = known.get(each.name)
        if series is None:
            said.append(f"nobody exports or records {each.name}")
            continue
        labels |= series.labels
        for label, operator, value in each.matchers:
            if label not in series.labels:
                said.append(f"{each.name} has no label {label}")
            elif "$" not in value and operator in ("=", "!=", "=~", "!~"):
                possible = series.values.get(label, ())
                # An empty value is: no such label.
                wanted = [one for one in (value.split("|") if "~" in operator else [value]) if one]
                said += [
                    f"{each.name} never has {label}={one}"
                    for one in wanted
                    if possible and not any(_is(one, operator, each) for each in possible)
                ]
    said += [f"nothing there has the label {label}" for label in grouping(expression) - labels]
    return said


def _is(wanted: str, operator: str, value: str) -> bool:
    return wanted == value if "~" not in operator else re.fullmatch(wanted, value) is not None


def _outside_strings(expression: str) -> str:
    """With the same places, but strings blanked, so that a brace inside one ends nothing."""
    return re.sub(r'"[^"]*"', lambda found: '"' + " " * (len(found[0]) - 2) + '"', expression)
