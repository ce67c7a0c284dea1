"""What the commands of this folder have in common: how they are asked, and what they say."""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
from pathlib import Path
from typing import TypeVar

import torch

N = TypeVar("N", bound=torch.nn.Module)


def parser_of(description: str, epilog: str) -> argparse.ArgumentParser:
    """A command line with the option that all have."""
    parser = argparse.ArgumentParser(
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--threads", type=int, help="CPU threads (default: torch decides)")
    return parser


def say(line: str) -> None:
    """Progress goes to standard error."""
    print(line, file=sys.stderr, flush=True)


def begin_training(options: argparse.Namespace) -> None:
    """Makes OUT, and has an interrupt save what there is."""
    for ending in (signal.SIGINT, signal.SIGTERM):  # also where a shell had them ignored
        signal.signal(ending, signal.default_int_handler)
    options.out.mkdir(parents=True, exist_ok=True)
    set_threads(options)
    torch.manual_seed(options.seed)


def set_threads(options: argparse.Namespace) -> None:
    """As ``--threads`` says."""
    if options.threads:
        torch.set_num_threads(options.threads)


def copy_template(template: Path, out: Path) -> None:
    """Beside the weights, where it is not already."""
    copy = out / "chat_template.jinja"
    if copy.resolve() != template.resolve():
        shutil.copyfile(template, copy)


def on_device(network: N) -> N:
    """Puts a network on the device that there is."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    say(f"{sum(value.numel() for value in network.parameters()):,} parameters on {device}")
    torch.nn.Module.to(network, device)
    return network
