"""The rules that scale, as they are shipped, and without their gate."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import yaml

SHIPPED = Path(__file__).resolve().parents[2] / "deploy" / "prometheus" / "autoscaling.rules.yaml"
DESIRED = "qwarden:desired_replicas:"
GATE = "qwarden:may_grow"

_UNITS = {"s": 1, "m": 60, "h": 3600}
_TIME = re.compile(r"\b(\d+)([smh])\b")
_WINDOW = re.compile(r"\[\w+\]|\boffset \w+")
_LATE = re.compile(r"(qwarden:group_age_seconds(?:\{[^}]*\})?\)? > (?:bool )?)(\d+)")
_AHEAD = re.compile(r"(predict_linear\([^)]*?, )(\d+)")


@dataclass(frozen=True, slots=True)
class Rule:
    """One that records: the name of its series, what they are, and labels that they get."""

    record: str
    expr: str
    labels: tuple[tuple[str, str], ...]

    @property
    def reads(self) -> frozenset[str]:
        """The recorded series that it reads."""
        return frozenset(re.findall(r"\bqwarden:[a-z_:]+", self.expr))


def shipped() -> str:
    """The file's text."""
    return SHIPPED.read_text(encoding="utf-8")


def without_gate(text: str) -> str:
    """The same rules, but what is late always asks for more pods."""
    document = yaml.safe_load(text)
    opened = 0
    for group in document["groups"]:
        for rule in group["rules"]:
            if rule.get("record") == GATE:
                workload = rule["labels"]["workload"]
                rule["expr"] = f'1 + 0 * qwarden:pods{{workload="{workload}"}}'
                opened += 1
    assert opened, f"{SHIPPED.name} records no {GATE}; without it this compares a rule with itself"
    return yaml.safe_dump(document, sort_keys=False, width=1000)


def hurried(text: str, factor: float) -> str:
    """The same rules with every time in them divided: windows, offsets, intervals and `for`, and
    the age at which something is late. How far ahead is looked is a window too."""
    document = yaml.safe_load(text)

    def divided(found: re.Match[str]) -> str:
        return f"{round(int(found[1]) * _UNITS[found[2]] * 1000 / factor)}ms"

    for group in document["groups"]:
        group["interval"] = re.sub(_TIME, divided, group["interval"])
        for rule in group["rules"]:
            expr = re.sub(
                _LATE, lambda found: f"{found[1]}{float(found[2]) / factor:g}", rule["expr"]
            )
            expr = re.sub(_AHEAD, lambda found: f"{found[1]}{float(found[2]) / factor:g}", expr)
            rule["expr"] = re.sub(_WINDOW, lambda at: re.sub(_TIME, divided, at[0]), expr)
            if "for" in rule:
                rule["for"] = re.sub(_TIME, divided, rule["for"])
    return yaml.safe_dump(document, sort_keys=False, width=1000)


def recorded(text: str) -> list[Rule]:
    """The rules that record, in their order, without those of streams: the simulated fleet has no
    streamer, and half of all questions would be asked about nothing."""
    return [
        Rule(rule["record"], rule["expr"], tuple(sorted(rule.get("labels", {}).items())))
        for group in yaml.safe_load(text)["groups"]
        for rule in group["rules"]
        if "record" in rule and not re.search("stream", f"{rule['record']} {rule.get('labels')}")
    ]
