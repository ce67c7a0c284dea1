"""The Gen engine beside transformers and vLLM, and through Triton beside itself, in one run.

`make bench-gen` runs it. All contestants get the same weights and texts, on the CPU and its
threads alone, one after the other, in an order that goes round; no text comes twice, so that no
cache of a whole text can serve it. Each peer runs in the batch that a sweep in the same run found
best for it. Two comparisons: *scores*, where all read the three words behind a forced `Safety:`,
and *whole*, where peers generate as many tokens as a real answer has, and the engine gives
categories to a fifth of the rows and a refusal to every response.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from contest import cells, plan, report, served, shapes
from contest.results import Results
from contest.texts import KINDS, PROMPTS
from contest.tokenizer import tokenizer
from machine import machine
from qwarden.stack.home import Home
from qwarden_engine.settings import usable_cores

BENCH = Path(__file__).parent
PARTS = (*plan.PEERS, "dtypes", "triton", "latency")

out = Console(highlight=False, width=None if sys.stdout.isatty() else 120)
began = time.monotonic()


def say(sentence: str) -> None:
    """Progress, on standard error, with the seconds since the start."""
    print(f"{time.monotonic() - began:7.1f} s  {sentence}", file=sys.stderr, flush=True)


def vllm_python(folder: Path) -> Path | None:
    """The Python of vLLM's environment, which is made where it is not there; None where vLLM
    cannot run."""
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        say("vLLM is left out: its build for CPUs is for Linux on x86-64")
        return None
    command = ["bash", str(BENCH / "contest" / "vllm.sh"), sys.executable, str(folder)]
    if subprocess.run(command, stdout=sys.stderr, check=False).returncode:
        say("vLLM is left out: its environment could not be made; the lines above say why")
        return None
    return folder / "bin" / "python"


def _chosen(given: str, known: tuple[str, ...], name: str) -> list[str]:
    chosen = [each for each in given.split(",") if each]
    unknown = sorted(set(chosen) - set(known))
    if unknown:
        raise typer.BadParameter(f"{', '.join(unknown)}: {name} are {', '.join(known)}")
    return chosen


def main(
    *,
    shape: Annotated[str, typer.Option("--shapes", help="Of these.")] = ",".join(plan.NAMES),
    text: Annotated[str, typer.Option("--texts", help="Of these.")] = ",".join(KINDS),
    only: Annotated[str, typer.Option(help="Of these.")] = ",".join(PARTS),
    rounds: Annotated[int | None, typer.Option(help="A cell, in place of the plan's.")] = None,
    quick: Annotated[bool, typer.Option(help="One round of few texts: does it run?")] = False,
    without_vllm: Annotated[bool, typer.Option(help="Leave vLLM out.")] = False,
    vllm_processes: Annotated[bool, typer.Option(help="vLLM in its own, slower here.")] = False,
    engine: Annotated[
        str, typer.Option(help="Its settings, as JSON: '{\"token_budget\": 1024}'.")
    ] = "{}",
    resume: Annotated[bool, typer.Option(help="Keep the cells that are in the file.")] = False,
    to: Annotated[Path, typer.Option("--out", help="The results.")] = BENCH / "results/gen.json",
) -> None:
    """Measure the engine beside its peers; each cell is written as soon as it is there."""
    names = _chosen(shape, plan.NAMES, "shapes")
    texts, parts = _chosen(text, tuple(KINDS), "texts"), _chosen(only, PARTS, "parts")
    home, threads = Home(), usable_cores()
    folder = home.cache("bench")
    peers = any(part in parts for part in plan.PEERS)
    terms = cells.Terms(
        threads=threads,
        logs=folder / "logs",
        vllm=vllm_python(home.cache("peers") / "vllm") if peers and not without_vllm else None,
        vllm_processes=vllm_processes,
        rounds=rounds,
        quick=quick,
        more=json.loads(engine),
        say=say,
    )
    file, which = tokenizer(folder / "tokenizers")
    say(f"random weights have {which}")
    head = {
        "what": "the Gen engine beside transformers and vLLM on a CPU, and through Triton",
        "machine": machine(),
        "load_before": round(os.getloadavg()[0], 2),
        "threads": threads,
        "vllm_processes": vllm_processes,
        "prompts": PROMPTS,
        "texts": KINDS,
        "tokenizer_of_random_weights": which,
    }
    results = Results(to, head, resume=resume)
    for name in names:
        if not set(parts) - {"triton", "latency"}:
            break
        checkpoint = shapes.checkpoint(name, folder / "checkpoints", file)
        cells.measure(name, checkpoint, results, terms, texts=texts, only=parts)
    served.measure(parts, results, terms)
    report.show(results.body, out)
    for bar, met in report.bars(results.body).items():
        if not met:
            out.print(f"{'not measured' if met is None else 'NOT MET'}: {bar}")
    say(f"written to {to}")


if __name__ == "__main__":
    typer.run(main)
