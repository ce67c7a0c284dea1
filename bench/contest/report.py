"""The results as tables: who did how much, and which bar is met."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

from contest import plan
from contest.texts import KINDS


def show(body: dict[str, Any], out: Console) -> None:
    """Prints all cells that are there."""
    cells: dict[str, Any] = body["cells"]
    for kind, title in (("scores", "Scores only"), ("whole", "Whole answers")):
        table = Table(title=f"{title}, float32, {body['threads']} threads", title_justify="left")
        for column in ("shape", "texts", "contestant", "rows/s", "batch", "tokens a row"):
            table.add_column(column, justify="left" if len(column) < 6 else "right")
        table.add_column("engine is faster", justify="right")
        table.add_column("bar")
        for shape in plan.NAMES:
            for texts in KINDS:
                _rows(table, shape, texts, cells.get(f"{shape}/{texts}/{kind}"))
        if table.row_count:
            out.print(table)
    _mix(cells, out)
    _agreement(cells, out)
    _sgemm(cells, out)
    _dtypes(cells, out)
    _served(cells, out)


def bars(body: dict[str, Any]) -> dict[str, bool | None]:
    """Every bar by what it is of, and whether it is met; None where it was not measured."""
    found: dict[str, bool | None] = {}
    for name, cell in body["cells"].items():
        for bar in cell.get("bars", ()):
            found[f"{name}: {bar['least']} × {bar['peer']}"] = bar["met"]
        if "agreement" in cell:
            found[f"{name}: scores within {plan.AGREEMENT}"] = cell["agreement"]["met"]
    return found


def _rows(table: Table, shape: str, texts: str, cell: dict[str, Any] | None) -> None:
    if cell is None:
        return
    wanted = {bar["peer"]: bar for bar in cell["bars"]}
    for name, entrant in cell["entrants"].items():
        first = name == "engine"
        ratio = cell["ratios"].get(name)
        bar = wanted.get(name)
        table.add_row(
            shape if first else "",
            texts if first else "",
            name,
            f"{entrant['median']:,.2f}",
            str(entrant.get("batch", "")),
            f"{cell['tokens_a_row'][name]:,.0f}",
            _range(ratio) if ratio else "",
            f"{bar['least']}: {_met(bar['met'])}" if bar else "",
            end_section=name == list(cell["entrants"])[-1],
        )


def _range(ratio: dict[str, float]) -> str:
    if ratio["rounds"] == 1:
        return f"{ratio['median']:.2f}"
    return f"{ratio['median']:.2f} ({ratio['least']:.2f} to {ratio['most']:.2f})"


def _met(met: bool | None) -> str:
    return "not measured" if met is None else "met" if met else "NOT MET"


def _mix(cells: dict[str, Any], out: Console) -> None:
    found = {
        (cell["mix"]["prompts"], cell["mix"]["responses"])
        for cell in cells.values()
        if "mix" in cell
    }
    for prompts, responses in sorted(found):
        out.print(f"Mix of a round: {prompts} prompts, {responses} responses.")
    for name, cell in cells.items():
        floor = cell.get("floor")
        if floor:
            out.print(
                f"{name}: floor {floor['value']:.4f}; categories for "
                f"{floor['rows_with_categories']:.0%} of the rows "
                f"({floor['categories_of_such_a_row']} each), a refusal for "
                f"{floor['responses_with_a_refusal']:.0%} of the responses."
            )


def _agreement(cells: dict[str, Any], out: Console) -> None:
    for name, cell in cells.items():
        for peer, found in cell.get("agreement", {}).items():
            if isinstance(found, dict):
                out.print(
                    f"{name}: scores differ from {peer} by at most {found['largest']:.1e} "
                    f"on {found['rows']} rows."
                )


def _sgemm(cells: dict[str, Any], out: Console) -> None:
    for name, cell in cells.items():
        if "sgemm" in cell:
            found = cell["sgemm"]
            out.print(
                f"{name}: {found['share_of_peak']:.0%} of the higher sgemm peak at its own shapes: "
                + ", ".join(
                    f"{way} {peak:,.0f} GFLOP/s" for way, peak in found["peak_gflops"].items()
                )
                + "."
            )


def _dtypes(cells: dict[str, Any], out: Console) -> None:
    for name, cell in cells.items():
        for dtype, ratio in cell.get("to_float32", {}).items():
            agreement = cell["agreement_with_float32"][dtype]
            out.print(
                f"{name}: {dtype} is {ratio['median']:.2f} times as fast as float32; scores differ "
                f"by {agreement['mean']:.1e} in the mean and {agreement['largest']:.1e} at most, "
                f"another word is likeliest in {agreement['another_word']} of "
                f"{agreement['rows']} rows."
            )


def _served(cells: dict[str, Any], out: Console) -> None:
    served = cells.get("stand-in/triton")
    if served:
        medians = {name: each["median"] for name, each in served["entrants"].items()}
        ratio, (bar,) = served["ratio"], served["bars"]
        out.print(
            f"Through Triton at saturation {medians['through Triton']:,.1f}/s beside "
            f"{medians['engine alone']:,.1f}/s alone: {ratio['median']:.2f} ({ratio['least']:.2f} "
            f"to {ratio['most']:.2f}); bar {bar['least']}: {_met(bar['met'])}."
        )
    latency = cells.get("stand-in/latency")
    if latency:
        parts = [
            f"{name} p50 {latency[name]['p50_ms']:.2f} ms, p99 {latency[name]['p99_ms']:.2f} ms"
            for name in ("through Triton", "bare loop")
        ]
        out.print(f"One item at a time, {latency['items']} items: {'; '.join(parts)}.")
