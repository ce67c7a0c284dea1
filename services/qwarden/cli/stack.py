"""The commands that start and end the local stack."""

from __future__ import annotations

import asyncio
import json
from typing import Annotated, Any

import typer

from qwarden.cli.asking import ask
from qwarden.cli.environment import home
from qwarden.cli.terminal import NO, err, out
from qwarden.stack.home import Home
from qwarden.stack.running import stop_running


def up(
    only: Annotated[
        list[str] | None,
        typer.Option(
            "--only",
            help="Start only these parts (valkey, triton) or services (moderator, streamer, "
            "review-service); repeat it. The broker always starts.",
        ),
    ] = None,
    without: Annotated[
        list[str] | None,
        typer.Option(
            "--without",
            help="Leave a part out: `--without triton` runs the engines in the services' own "
            "processes.",
        ),
    ] = None,
    guard: Annotated[
        list[str] | None,
        typer.Option(
            "--guard",
            help="A Qwen3Guard-Gen or -Stream directory or hub id; repeat it. By default the "
            "stand-ins (toys).",
        ),
    ] = None,
    detach: Annotated[
        bool, typer.Option("--detach", help="Return when everything is ready; `qwarden down` ends.")
    ] = False,
) -> None:
    """Start the local stack and the services, until Ctrl-C.

    Addresses: .qwarden/stack.json. Settings with which one more service joins: .qwarden/stack.env.
    That folder is the checkout's, from wherever this is called, so that `qwarden tail` finds the
    stack from everywhere; QWARDEN_STACK__HOME names another.
    A broker named by QWARDEN_KAFKA__BOOTSTRAP_SERVERS is used instead of a local one.

    \b
    qwarden up --without triton --detach
    qwarden up --guard Qwen/Qwen3Guard-Gen-0.6B
    """
    from qwarden.cli.guards import named_checkpoint
    from qwarden.stack.detached import start_detached
    from qwarden.stack.local import plan
    from qwarden.stack.stack import Stack, run

    wanted = plan(
        only=only or [],
        without=without or [],
        guards=[named_checkpoint(each) for each in guard or []],
        tell=err.print,
    )
    parts: dict[str, Any] = {
        "services": wanted.services,
        "parts": wanted.parts,
        "settings": wanted.settings,
        "progress": _say,
    }
    if detach:
        start_detached(home(), **parts)
        _where(home())
        return

    def ready() -> None:
        _where(home())
        err.print("Ctrl-C ends it.")

    run(Stack(home(), **parts), ready)


def demo(
    once: Annotated[
        bool, typer.Option("--once", help="End when every sample has its outcome; 1 if one lacks.")
    ] = False,
    without: Annotated[
        list[str] | None,
        typer.Option("--without", help="As for `qwarden up`: `--without triton`."),
    ] = None,
) -> None:
    """Start everything, publish the sample events, and show every verdict as it comes."""
    from qwarden.stack.demo import Demo
    from qwarden.stack.local import plan
    from qwarden.stack.stack import Stack, ended_by_signals

    wanted = plan(without=without or [], tell=err.print)
    stack = Stack(
        home(),
        services=wanted.services,
        parts=wanted.parts,
        settings=wanted.settings,
        progress=_say,
    )
    with ended_by_signals(stack), stack:

        async def run() -> bool:
            ended = asyncio.create_task(asyncio.to_thread(stack.wait))
            answered = await Demo(home(), out, services=wanted.services).run(ended, once=once)
            if not ended.done():
                stack.cancel()
                await ended
            return answered

        answered = ask(run)
    if once and not answered:
        raise SystemExit(NO)


def down() -> None:
    """End the stack that `qwarden up` started, and wait until all of it is gone."""
    ran = stop_running(home())
    home().forget()  # what a killed stack has left behind
    err.print("The stack has ended." if ran else "No stack runs here.")


def _where(home: Home) -> None:
    addresses = home.addresses() or {}
    err.print("The stack is ready:")
    err.print(json.dumps(addresses, indent=2))
    for name, service in addresses.get("services", {}).items():
        err.print(f"metrics of the {name}: http://{service['http']}/metrics")


def _say(part: str, message: str, fraction: float | None) -> None:
    share = "" if fraction is None or fraction >= 1 else f" {fraction:.0%}"
    err.print(f"[bold]{part:>10}[/] {message}{share}")
