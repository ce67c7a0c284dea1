"""All that operators can ask Prometheus for, and docs/metrics.md written from it:

    python -m qwarden.catalogue > docs/metrics.md

The services' own metrics are described where they are made (`telemetry.py`), the engine's beside
its counts; Triton's own and those of a command are described here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from qwarden import telemetry
from qwarden.contracts.verdict import Action
from qwarden.metric import DESCRIBED, Kind, Label, Metric, unit_of
from qwarden_engine import counts
from qwarden_engine.stream import counts as stream_counts

GEN, STREAM = "qwen3guard_gen", "qwen3guard_stream"
_TRITON = ("triton",)
_MODEL = (Label("model", (GEN, STREAM)), Label("version", ("1",)))
_GPU = (Label("gpu_uuid", bound="the GPUs that Triton sees"),)


def _of_triton(
    name: str, kind: Kind, text: str, unit: str, labels: tuple[Label, ...] = _MODEL
) -> Metric:
    return Metric(name, kind, text, unit, labels, _TRITON)


TRITON: tuple[Metric, ...] = (
    _of_triton(
        "nv_inference_request_success", Kind.COUNTER, "Requests that were answered.", "count"
    ),
    _of_triton(
        "nv_inference_request_failure",
        Kind.COUNTER,
        "Requests that were not, by why: REJECTED (its queue was full, or the wait too long), "
        "CANCELED (the client left), BACKEND (the model's own error), OTHER.",
        "count",
        (*_MODEL, Label("reason", ("REJECTED", "CANCELED", "BACKEND", "OTHER"))),
    ),
    _of_triton("nv_inference_count", Kind.COUNTER, "Rows or appends that were answered.", "count"),
    _of_triton(
        "nv_inference_exec_count",
        Kind.COUNTER,
        "Batches that were handed to the model: rows a batch is the one above over this.",
        "count",
    ),
    _of_triton(
        "nv_inference_request_duration_us",
        Kind.COUNTER,
        "Time of requests from their coming to their answer, summed.",
        "microseconds",
    ),
    _of_triton(
        "nv_inference_queue_duration_us",
        Kind.COUNTER,
        "Of that, time in Triton's own queue, before the engine has them.",
        "microseconds",
    ),
    _of_triton(
        "nv_inference_compute_infer_duration_us",
        Kind.COUNTER,
        "Of that, time in the engine: its own wait (qwarden_engine_queue_seconds_total) and its "
        "forwards.",
        "microseconds",
    ),
    _of_triton(
        "nv_inference_pending_request_count",
        Kind.GAUGE,
        "Requests that wait in Triton's own queue: behind those that the engine has taken.",
        "number",
    ),
    _of_triton(
        "nv_gpu_utilization", Kind.GAUGE, "Share of time that the GPU works.", "ratio", _GPU
    ),
    _of_triton("nv_gpu_memory_used_bytes", Kind.GAUGE, "Of the GPU's memory, used.", "bytes", _GPU),
    _of_triton("nv_gpu_memory_total_bytes", Kind.GAUGE, "The GPU's memory.", "bytes", _GPU),
)
"""Those of Triton's own that the dashboards, rules and runbooks read (2.51; its documentation has
the others)."""

SHADOW = Metric(
    "qwarden_policy_shadow_verdicts_total",
    Kind.COUNTER,
    "Verdicts that came, by what was done and what the shadow's policy would have done.",
    "count",
    (
        Label("policy", bound="the policy that is followed"),
        Label("version", bound="that of the shadow"),
        Label("old", (*Action, "undecided")),
        Label("new", (*Action, "undecided")),
    ),
    ("qwarden policy diff --follow",),
)


def _engine_s(
    prefix: str, model: str, counters: dict[str, str], gauges: dict[str, str]
) -> Iterator[Metric]:
    named = [(f"{prefix}_{name}_total", Kind.COUNTER, text) for name, text in counters.items()]
    named += [(f"{prefix}_{name}", Kind.GAUGE, text) for name, text in gauges.items()]
    for name, kind, text in named:
        yield Metric(name, kind, text, unit_of(name, kind), (), (model,))


def engines() -> list[Metric]:
    """Those that the models export among Triton's own. The streamer has some of the same names, as
    it sees it: on Triton they have no labels."""
    return [
        *_engine_s("qwarden_engine", GEN, counts.HELP, counts.GAUGES),
        *_engine_s("qwarden_stream", STREAM, stream_counts.HELP, stream_counts.GAUGES),
    ]


def services() -> list[Metric]:
    """Those of the services' own /metrics."""
    assert telemetry.EVENTS, "its import describes them"
    return list(DESCRIBED)


def page() -> str:
    """docs/metrics.md."""
    parts = [
        _HEAD,
        "## Services\n\n" + _table(services()),
        "## The engines, on Triton's /metrics\n\n" + _ENGINES + _table(engines()),
        "## Triton's own\n\n" + _JOINED + _table(TRITON),
        "## Of a command\n\n" + _table([SHADOW]),
    ]
    return "\n\n".join(part.rstrip("\n") for part in parts) + "\n"


def _table(metrics: Sequence[Metric]) -> str:
    lines = ["| metric | kind, unit | labels | what it says | from |", "|---|---|---|---|---|"]
    for each in metrics:
        labels = "<br>".join(_label(label) for label in each.labels)
        lines.append(
            f"| `{each.name}` | {each.kind}, {each.unit} | {labels} | {_cell(each.text)} "
            f"| {', '.join(each.of)} |"
        )
    return "\n".join(lines)


def _label(label: Label) -> str:
    values = label.bound or ", ".join(label.values)
    if len(label.values) > _MOST_SHOWN:
        shown = ", ".join(label.values[:_MOST_SHOWN])
        values = f"{shown}, … ({len(label.values)} in all)"
    return f"`{label.name}`: {_cell(values)}"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


_MOST_SHOWN = 12
"""Values of a label that the page names; of a label with more it says how many there are."""

_HEAD = """\
# Metrics

Written by `python -m qwarden.catalogue` from where each metric is made. Services serve theirs at
`/metrics` beside the probes, Triton at its metrics port (8002). No value and no label holds
content, and every label has a bound: `other` stands for what a bound has no room for. Prometheus
adds `namespace`, `pod`, `job` and `service` where its operator scrapes; a label of ours with one of
these names is then `exported_service`.

A histogram NAME has the series `NAME_bucket`, `NAME_count` and `NAME_sum`. `from` says who exports
it, and nobody else does.

The `qwarden_group_*` figures and the topic's retention are each process's own answer from the
broker about its whole group, so that a dead consumer hides nothing: take the maximum over
processes, by group and topic, and alert on their absence. The age of what one process has in hand
is `qwarden_oldest_uncommitted_seconds`."""

_ENGINES = """\
Batches: `qwarden_engine_jobs_total` over `qwarden_engine_forwards_total` is rows a micro-batch;
`tokens` over `forward_seconds` is tokens a second of work; `padding` over `tokens` what decoding
categories wastes. `qwarden_stream_appends_total`, `_replays_total` and `_replayed_tokens_total` are
exported by streamers too, as they see it: ask for one job's.

"""

_JOINED = """\
Where a request's time went: `nv_inference_queue_duration_us` (Triton's queue), then
`qwarden_engine_queue_seconds_total` (the engine's own), then
`qwarden_engine_forward_seconds_total`.

"""


def main() -> None:
    """Prints the page."""
    print(page(), end="")


if __name__ == "__main__":
    main()
