"""Options that several commands have."""

from __future__ import annotations

from typing import Annotated

import typer

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, a line a record.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")]
Direct = Annotated[
    bool, typer.Option("--direct", help="Run the engine in this process, without Triton.")
]
GuardName = Annotated[
    str | None,
    typer.Option("--guard", help="A Qwen3Guard-Gen directory or hub id; implies --direct."),
]
Chunk = Annotated[
    int | None,
    typer.Option(
        "--chunk",
        min=1,
        help="Send each text in pieces of so many characters, as it would come from a running "
        "model; by default at once. What is said is the same.",
    ),
]
