"""The command that looks at everything the fleet stands on."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from qwarden.cli.environment import environ, home, keyless
from qwarden.cli.options import AsJson
from qwarden.cli.terminal import WRONG_USE, end, err, show, write_json

if TYPE_CHECKING:
    from qwarden.doctor.finding import Finding

_COLOURS = {"good": "green", "note": "yellow", "wrong": "red", "away": "red", "left out": "dim"}


def doctor(
    only: Annotated[
        list[str] | None,
        typer.Option("--only", help="A check by its name; repeated for several. By default all."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Look at every dependency, topic, schema, model and clock, and say what is wrong.

    It looks from where it runs: in a pod of a service it sees what that service sees. It reads,
    and writes nothing but one entry of the cache, for five seconds.

    Exit code 0: nothing is wrong; 1: something is; 3: something does not answer.

    \b
    qwarden doctor
    qwarden doctor --only kafka --only topics
    """
    from qwarden.doctor import examination
    from qwarden.doctor.finding import exit_code, summary

    names = list(dict.fromkeys(only or examination.CHECKS))
    for name in names:
        if name not in examination.CHECKS:
            known = ", ".join(examination.CHECKS)
            end(WRONG_USE, f"--only: there is no check {name!r}; there are {known}")
    chosen = environ()
    patient = examination.patient_of(
        keyless(chosen), has_key="QWARDEN_CONTENT_KEY" in chosen, folders=[home().root]
    )
    # What the clients log of a server that is away is said in a sentence.
    logging.disable(logging.ERROR)

    async def run() -> list[Finding]:
        found: list[Finding] = []
        async for some in examination.examine(patient, names):
            found += some
        return found

    with err.status("looking") if err.is_terminal else _Nothing():
        found = asyncio.run(run())
    if as_json:
        for each in found:
            write_json(each)
    else:
        for line in _lines(found):
            show(line)
        show(summary(found))
    code = exit_code(found)
    if code:
        raise SystemExit(code)


def _lines(found: list[Finding]) -> Iterator[Text]:
    """A line each, whole whatever the window's width: sentences hold commands that are copied."""
    widest = max((len(each.check) for each in found), default=0)
    for each in found:
        yield Text.assemble(
            (each.result.value.ljust(10), _COLOURS[each.result.value]),
            each.check.ljust(widest + 2),
            (f"{each.about}: ", "bold"),
            each.sentence,
        )


class _Nothing:
    """In place of a spinner, where nobody looks at one."""

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...
