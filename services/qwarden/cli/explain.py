"""The command that shows one verdict with all that led to it and came of it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qwarden.cli.asking import ask
from qwarden.cli.environment import client_settings
from qwarden.cli.options import AsJson
from qwarden.cli.policy_names import policies_of, policy_of_file
from qwarden.cli.terminal import NO, WRONG_USE, bar, end, err, show, write_json
from qwarden.settings import Settings

if TYPE_CHECKING:
    from qwarden.contracts.verdict import Verdict
    from qwarden.explain.trail import Trail
    from qwarden.policy.policy import Policy


def explain(
    verdict_id: Annotated[
        str, typer.Argument(help="32 hexadecimal digits, as the verdict has them.")
    ],
    *,
    policy: Annotated[
        Path | None,
        typer.Option(help="The file of the policy that acted, where nothing else has it."),
    ] = None,
    show_content: Annotated[bool, typer.Option("--show", help="Show the content too.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show on one page why content was treated as it was.

    The scores, the rule that acted and its text, the versions of guard and policy, the facts that
    rules could read, the views, what superseded it, who was asked, and what people decided. It
    searches the topics, so that it takes as long as reading them does. Exit code 1 where no verdict
    has this id.

    \b
    qwarden explain 0159837a54f0e2450ecb2b1496f54d42
    qwarden explain 0159837a54f0e2450ecb2b1496f54d42 --policy policies/forum.yaml --show
    """
    if re.fullmatch("[0-9a-f]{32}", verdict_id) is None:
        end(WRONG_USE, f"{verdict_id!r} is no verdict's id; those have 32 hexadecimal digits")
    from qwarden.explain.page import as_json as written
    from qwarden.explain.page import page
    from qwarden.explain.reading import search_of
    from qwarden.explain.trail import rule_of

    settings = client_settings()
    named = policy_of_file(policy, settings) if policy is not None else None

    async def run() -> Trail | None:
        search = await search_of(settings.kafka, verdict_id)
        with bar("searching", search.total) as step:
            return await search.trail(step)

    trail = ask(run)
    if trail is None:
        end(NO, f"no verdict {verdict_id} is on the topic; its retention may be over")
    verdict = trail.found.verdict
    rule = rule_of(verdict, _policies(verdict, policy, named, settings))
    if as_json:
        write_json(written(trail, rule, show=show_content))
        return
    for line in page(trail, rule, show=show_content):
        show(line)
    if policy is not None and (rule is None or rule.source != str(policy)):
        err.print(f"{policy} is another version than the one that acted", style="yellow")


def _policies(
    verdict: Verdict, file: Path | None, named: Policy | None, settings: Settings
) -> Iterator[tuple[str, Policy]]:
    """What may be the policy that acted, and where it was found."""
    if named is not None:
        yield str(file), named
    if verdict.policy is not None:
        yield from policies_of(verdict.policy.name, settings)
