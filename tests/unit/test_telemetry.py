"""What operators see, and what must not be in it."""

from __future__ import annotations

import json
import logging
import random
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from prometheus_client import REGISTRY

from qwarden import catalogue, telemetry
from qwarden.contracts import headers
from qwarden.contracts.refusal import ErrorClass, Refused
from qwarden.contracts.verdict import Basis, Verdict
from qwarden.control.memory import MemoryControl, MemoryTopic
from qwarden.enforcement.following import Following
from qwarden.guard.language import COMMON
from qwarden.guard.taxonomy import CATEGORIES
from qwarden.metric import DESCRIBED, Kind, Label, Metric, registry_of
from qwarden.outcomes.publication import Outcomes, Publication
from qwarden.outcomes.source import Source
from qwarden.policy.tenants import read_tenants
from qwarden.telemetry import JsonFormatter, TenantLabels
from qwarden.tracing import OFF

ROOT = Path(__file__).parents[2]
SOURCE = Source("content.events", 1, 2, 1_700_000_000_000, None, b"{}", ())


def test_made_up_tenants_grow_the_metrics_without_bound() -> None:
    label = TenantLabels(frozenset({"paper"}), most=3)
    assert [label(f"t{n}") for n in range(5)] == ["t0", "t1", "t2", "other", "other"]
    assert label("paper") == "paper"
    assert label("t1") == "t1"


def verdicts(count: int) -> Iterator[Verdict]:
    """Each with words of its own wherever a producer or a checkpoint may choose them."""
    conformance = ROOT / "tests" / "contract" / "conformance" / "outputs" / "verdict-safe.json"
    record = json.loads(conformance.read_text(encoding="utf-8"))
    one = msgspec.convert(record["record"], Verdict)
    chooser = random.Random(1)
    for n in range(count):
        yield msgspec.structs.replace(
            one,
            tenant=f"tenant {n}",
            language=chooser.choice([f"q{n}", f"de-{n}", "", None]),
            categories=chooser.choice([[f"Category {n}"], [chooser.choice(CATEGORIES)], [], None]),
            basis=chooser.choice(list(Basis)),
            cause=chooser.choice([f"cause {n}", "no_answer", None]),
        )


def _series(name: str) -> list[dict[str, str]]:
    (family,) = [each for each in REGISTRY.collect() if each.name == name]
    return [each.labels for each in family.samples]


def _values(metric: Metric, label: str) -> set[str]:
    """A label's values that were seen."""
    series = _series(metric.name.removesuffix("_total"))
    return {each[label] for each in series if label in each}


@pytest.mark.long
def test_a_thousand_made_up_words_are_a_thousand_series() -> None:
    tenants = TenantLabels(frozenset({"demo"}), most=50)
    outcomes = Outcomes(Publication(0.0, "test", 1000), OFF, tenants, headers.MODERATOR)
    # A process has one set of tenants' labels; the tests before this one have had theirs.
    before = {metric.name: _values(metric, "tenant") for metric in DESCRIBED}
    for n, verdict in enumerate(verdicts(1_000)):
        outcomes.count(verdict)
        refused = Refused(ErrorClass.NOT_JSON, "no JSON", tenant=f"tenant {n}")
        outcomes.dead_letter(SOURCE, refused, 0.0)
        telemetry.REVIEW_REQUESTS.add(telemetry.method_label(f"VERB{n}"), "4xx")
    for metric in DESCRIBED:
        for label in metric.labels:
            found = _values(metric, label.name)
            if label.values:
                assert found <= set(label.values), f"{metric.name} has other values of {label.name}"
            elif label.name == "tenant":
                new = found - before[metric.name]
                assert len(new) <= 1 + 50 + 2, "those known, fifty others, other and unknown"
    ours = [each for each in _series("qwarden_verdicts") if each["tenant"].startswith("tenant ")]
    assert len({each["tenant"] for each in ours}) == 50
    # Of the dimensions that producers can fill: 52 tenants, by the categories and `other`, `none`.
    assert len(ours) <= 52 * (len(CATEGORIES) + 2)
    assert len(_series("qwarden_languages")) <= len(COMMON) + 3


@pytest.mark.long
def test_three_hundred_policies_are_three_hundred_series() -> None:
    names = [f"p{n}" for n in range(300)]
    texts = {name: f"name: {name}\nextends: default\n" for name in names}
    tenant = f"name: demo\npolicies: [{', '.join(names)}]\n"
    files = read_tenants(texts, {"demo": tenant}, strict=False)
    before = len(_series("qwarden_policy_info"))
    following = Following(files, MemoryControl(MemoryTopic()), lambda tenants: None)
    following.changed()
    assert len(_series("qwarden_policy_info")) <= before + 200
    named = {each["policy"] for each in _series("qwarden_policy_unusable")}
    assert len({each for each in named if each.startswith("p") and each[1:].isdecimal()}) <= 200
    assert "other" in named, "a fault of one of the others is seen"


def test_a_label_has_no_bound() -> None:
    with pytest.raises(ValueError, match="bounds"):
        Label("event_id")


def test_a_metric_is_exported_without_a_word_about_it() -> None:
    described = {each.name: each for each in catalogue.services()}
    assert len(described) == len(catalogue.services()), "each is described once"
    for family in REGISTRY.collect():
        if family.name.startswith("qwarden_"):
            name = f"{family.name}_total" if family.type == "counter" else family.name
            assert described[name].kind is Kind(family.type)
            assert described[name].text == family.documentation
            for sample in family.samples:
                named = {each.name for each in described[name].labels}
                assert sample.labels.keys() - {"le"} == named or sample.name.endswith("_created")


@pytest.mark.parametrize("service", ["moderator", "streamer", "review-service"])
def test_a_figure_of_others_stands_at_nought_in_a_service_and_reads_as_an_outage(
    service: str,
) -> None:
    exported = {each.name for each in registry_of(service).collect()}
    for metric in catalogue.services():
        name = metric.name.removesuffix("_total")
        assert (name in exported) is (service in metric.of), metric.name
    assert "process_resident_memory" in {name.removesuffix("_bytes") for name in exported}


def test_a_metric_s_name_does_not_say_its_unit() -> None:
    every = [*catalogue.services(), *catalogue.engines()]
    for metric in every:
        assert metric.name.endswith("_total") is (metric.kind is Kind.COUNTER), metric.name
        for word in ("seconds", "bytes", "tokens", "records"):
            if metric.name.removesuffix("_total").endswith(f"_{word}"):
                assert metric.unit in (word, "seconds since 1970", "count"), metric.name


def test_the_page_of_metrics_is_of_another_version() -> None:
    stands = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    assert stands == catalogue.page(), "write it: python -m qwarden.catalogue > docs/metrics.md"
    for metric in (*catalogue.services(), *catalogue.engines(), *catalogue.TRITON):
        assert f"| `{metric.name}` |" in stands


def test_a_log_line_is_no_json_when_its_message_has_quotes_or_an_error() -> None:
    try:
        raise ValueError("broken\nin two lines")
    except ValueError as error:
        record = logging.LogRecord(
            "qwarden", logging.ERROR, "f", 1, 'said "%s"', ("x",), (ValueError, error, None)
        )
    line = json.loads(JsonFormatter().format(record))
    assert line["message"] == 'said "x"'
    assert line["level"] == "error"
    assert "broken" in line["error"]
