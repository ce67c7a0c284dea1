"""The commands that measure a guard on labelled files."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Any, Protocol

import typer
from typer.core import TyperGroup

from qwarden.cli.asking import ask, right
from qwarden.cli.environment import keyless, needs_eval_extra
from qwarden.cli.files import made, opened
from qwarden.cli.options import AsJson, Chunk, Direct, GuardName
from qwarden.cli.terminal import NO, OutputLost, bar, end, err, show, write, write_json


class Evaluated(Protocol):
    """What an evaluation comes to. `unanswered`: why, where no row was answered."""

    @property
    def unanswered(self) -> str | None: ...
    def write(self, folder: Path) -> None: ...
    def json(self) -> bytes: ...
    def text(self) -> str: ...


class _FilesByDefault(TyperGroup):
    """`qwarden eval FILE` and `qwarden eval stream FILE`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not args or args[0] not in self.commands:
            args = ["files", *args]
        return super().parse_args(ctx, args)


app = typer.Typer(cls=_FilesByDefault, help="Measure the guard on labelled files.")

StreamGuardName = Annotated[
    str | None,
    typer.Option("--guard", help="A Qwen3Guard-Stream directory or hub id; implies --direct."),
]
FieldNames = Annotated[
    list[str] | None,
    typer.Option("--field", help="What a field is called: label=toxicity; repeat it."),
]
OutFolder = Annotated[
    Path | None, typer.Option("--out", help="A folder for eval.json, table.md and the plots.")
]
LabelNames = Annotated[
    list[str] | None,
    typer.Option("--label", help="What a label means: toxic=Unsafe; repeat it."),
]


@app.command("files")
def evaluation(
    files: Annotated[
        list[Path], typer.Argument(help="Labelled JSONL, also gzipped; - reads standard input.")
    ],
    *,
    fields: FieldNames = None,
    labels: LabelNames = None,
    out_dir: OutFolder = None,
    bins: Annotated[
        int, typer.Option(min=1, max=1000, help="Bins of the reliability table and the ECE.")
    ] = 15,
    direct: Direct = False,
    guard: GuardName = None,
    as_json: AsJson = False,
) -> None:
    """Measure the guard on labelled files: quality tables and plots.

    A row has a label (Safe, Controversial, Unsafe), what is judged (messages, prompt and response,
    or text) and, where known, id, source, lang, task, categories and refusal. By default it asks
    the Triton of the running stack, or of QWARDEN_TRITON__URL.

    `qwarden eval stream` measures Qwen3Guard-Stream.

    \b
    qwarden eval labelled.jsonl --guard Qwen/Qwen3Guard-Gen-0.6B --out report/
    """
    needs_eval_extra("numpy", *(("matplotlib",) if out_dir is not None else ()))
    from qwarden import bootstrap, telemetry
    from qwarden.cli.guards import guard_environ
    from qwarden.inference.dispatch import Dispatcher
    from qwarden.offline.eval.evaluation import Evaluation, evaluate
    from qwarden.offline.eval.files import Reader
    from qwarden.offline.eval.labelled import labelled_of
    from qwarden.offline.eval.names import names_of

    settings = keyless(guard_environ(direct, guard))
    telemetry.log_as_json("warning")

    async def run() -> Evaluation:
        reader = Reader(names_of(fields or [], labels or []), labelled_of)
        _read_all(reader, files)
        _made(out_dir)
        guard = bootstrap.guard_of(settings)
        dispatcher = Dispatcher(guard, bootstrap.limits_of(settings))
        try:
            with err.status("loading the guard …"):
                revision = await guard.revision()
            with bar("judging", len(reader.rows)) as step:
                return await evaluate(dispatcher, reader.rows, revision, bins=bins, done=step)
        finally:
            await dispatcher.close()
            await guard.close()

    _tell(ask(run), out_dir, as_json=as_json)


@app.command("stream")
def evaluation_of_stream(
    files: Annotated[
        list[Path],
        typer.Argument(help="Of Qwen3GuardTest's format, or labelled; - reads standard input."),
    ],
    *,
    fields: FieldNames = None,
    labels: LabelNames = None,
    out_dir: OutFolder = None,
    tokenizer: Annotated[
        str | None,
        typer.Option(
            "--tokenizer",
            help="What made the files' input_ids: a tokenizer.json, or a checkpoint's directory or "
            "hub id; by default the guard's own.",
        ),
    ] = None,
    choose: Annotated[
        bool,
        typer.Option("--choose", help="Find the rules that flag most within --budget, instead."),
    ] = False,
    budget: Annotated[
        float,
        typer.Option(
            min=0, max=0.5, help="The share of Safe texts that --choose may have flagged."
        ),
    ] = 0.01,
    plot: Annotated[
        list[str] | None,
        typer.Option(
            "--plot",
            metavar="ID",
            help="Draw the scores along this row's text instead, into --out or here; repeat it.",
        ),
    ] = None,
    chunk: Chunk = None,
    direct: Direct = False,
    guard: StreamGuardName = None,
    as_json: AsJson = False,
) -> None:
    """Measure the stream guard: where its flags fall, what they find, and what it says at the end.

    \b
    qwarden eval stream thinking_loc.jsonl --guard Qwen/Qwen3Guard-Stream-0.6B --out report/
    qwarden eval stream thinking.jsonl --guard Qwen/Qwen3Guard-Stream-0.6B --choose --budget 0.02
    """
    needs_eval_extra("numpy", *(("matplotlib",) if out_dir is not None or plot else ()))
    from qwarden import telemetry
    from qwarden.cli.guards import stream_client, stream_environ
    from qwarden.offline.eval import stream_evaluation as streamed
    from qwarden.offline.eval.files import Reader
    from qwarden.offline.eval.names import names_of
    from qwarden.offline.eval.stream_rows import stream_row_of
    from qwarden.offline.eval.stream_table import choice_table
    from qwarden.offline.stream_reading import ExchangeReader

    settings = keyless(stream_environ(direct, guard))
    telemetry.log_as_json("warning")

    async def run() -> streamed.StreamEvaluation:
        own = settings.stream
        decode = None
        if tokenizer is not None:
            decode = streamed.decoder_of(tokenizer)
        elif own is not None:
            decode = streamed.decoder_of(own.checkpoint, own.hub_revision)
        reader = Reader(names_of(fields or [], labels or []), partial(stream_row_of, decode=decode))
        _read_all(reader, files)
        rows = reader.rows if not plot else streamed.named(reader.rows, plot)
        _made(out_dir)
        async with stream_client(settings) as (client, revision):
            with bar("judging", len(rows)) as step:
                reads = await streamed.read_rows(ExchangeReader(client, chunk), rows, step)
        return streamed.StreamEvaluation.of(rows, reads, revision)

    found = ask(run)
    if plot:
        for file in right(lambda: found.draw(out_dir or Path())):
            show(str(file))
        return
    if not choose:
        _tell(found, out_dir, as_json=as_json)
        return
    choices, missing = streamed.choices_of(found.rows, found.reads, budget)
    for sentence in missing:
        err.print(sentence, markup=False)
    if as_json:
        write_json(choices)
    else:
        write(choice_table(choices).encode() if choices else b"")
    if not any(choice.chosen for choice in choices):
        end(NO, "nothing was chosen")


def _read_all(reader: Any, files: list[Path]) -> None:
    """Reads labelled files to their end. Raises `ValueError`."""
    for file in files:
        with opened(file) as source:
            reader.read("standard input" if str(file) == "-" else str(file), source)
    reader.close()


def _made(folder: Path | None) -> None:
    if folder is not None:
        made(folder, "--out", "eval.json", "table.md")


def _tell(found: Evaluated, out_dir: Path | None, *, as_json: bool) -> None:
    """Writes and prints an evaluation; exits 1 where no row was answered."""
    lost = None
    if out_dir is not None:
        try:
            found.write(out_dir)
        except OSError as error:
            lost = f"--out {out_dir}: {error}; name another folder, or keep what is printed here"
        else:
            err.print(f"eval.json, table.md and the plots are in {out_dir}", markup=False)
    write(found.json() + b"\n" if as_json else found.text().encode())
    if lost is not None:
        raise OutputLost(lost)
    if found.unanswered is not None:
        end(NO, f"no row was answered; most often because {found.unanswered}")
