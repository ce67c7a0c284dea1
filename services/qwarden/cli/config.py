"""The commands that show and check the settings."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.json import JSON

from qwarden import settings as settings_module
from qwarden.cli.environment import client_settings, environ
from qwarden.cli.files import opened
from qwarden.cli.options import AsJson
from qwarden.cli.terminal import MISSING, NO, WRONG_USE, end, err, show, write_json
from qwarden.settings import Settings

if TYPE_CHECKING:
    from qwarden.contracts.mapping import Topic
    from qwarden.moderator.case import Case
    from qwarden.policy.tenants import Tenants

app = typer.Typer(help="The settings that a service would start with.", no_args_is_help=True)


@app.command("show")
def config_show(*, as_json: AsJson = False) -> None:
    """Print all settings, secrets hidden, and exit 2 where one is wrong."""
    found = settings_module.shown(settings_module.load(environ()))
    if as_json:
        write_json(found)
    else:
        show(JSON(json.dumps(found)))


@app.command("check")
def config_check(
    *,
    topic: Annotated[
        str | None, typer.Option(help="Show what a sample record of this topic becomes.")
    ] = None,
    sample: Annotated[
        Path | None,
        typer.Option(help="A file with that record's value, byte for byte; none: it has no value."),
    ] = None,
    key: Annotated[str | None, typer.Option(help="That record's key.")] = None,
    as_json: AsJson = False,
) -> None:
    """Check the settings and the policies, tenants and topics that they name; start nothing.

    \b
    qwarden config check --topic shop.comments --sample record.bin
    """
    from qwarden import bootstrap, kafka, tls
    from qwarden.moderator.sample import described, told

    if topic is None and (sample is not None or key is not None):
        end(WRONG_USE, "A sample is of a topic; name it with --topic.")
    # A sample is shown and not judged, so that nothing of it is hashed.
    settings = settings_module.load(environ()) if topic is None else client_settings()
    kafka.client_arguments(settings.kafka)
    for certificates in settings.certificates:
        tls.context_of(certificates)
    tenants = bootstrap.tenants_of(settings, activated=True)
    topics = bootstrap.topics_of(settings, tenants)
    if not as_json:
        _say(tenants, topics)
    case = None
    if topic is not None:
        value = None
        if sample is not None:
            with opened(sample) as source:
                value = source.read()
        case = asyncio.run(_sampled(settings, tenants, topic=topic, value=value, key=key))
    if as_json:
        write_json(
            {
                "tenants": sorted(tenants.known),
                "policies_without_a_file": sorted(tenants.lacking),
                "topics": sorted(topics),
                "sample": None if case is None else told(case),
            }
        )
    elif case is not None:
        show(described(case))


def _say(tenants: Tenants, topics: Mapping[str, Topic]) -> None:
    names = ", ".join(sorted(tenants.known)) or "none (every tenant gets the policy default)"
    err.print(f"The settings are good. Tenants with a file: {names}.")
    if tenants.lacking:
        err.print(
            f"Policies without a file: {', '.join(sorted(tenants.lacking))}. Services judge "
            "nothing until they are in force; see: qwarden policy show"
        )
    if topics:
        err.print(f"Topics with a file: {', '.join(sorted(topics))}.")


async def _sampled(
    settings: Settings,
    tenants: Tenants,
    *,
    topic: str,
    value: bytes | None,
    key: str | None,
) -> Case:
    from qwarden import bootstrap
    from qwarden.contracts.refusal import Refused
    from qwarden.moderator.sample import UnknownTopic, case_of_sample
    from qwarden.registry.port import RegistryAway

    try:
        async with bootstrap.door(settings, tenants) as (admission, schemas):
            return await case_of_sample(
                admission,
                schemas,
                topic=topic,
                value=value,
                key=None if key is None else key.encode(),
                within_s=2 * settings.registry.timeout_s,
            )
    except UnknownTopic as unknown:
        end(WRONG_USE, str(unknown))
    except RegistryAway as away:
        end(MISSING, str(away))
    except Refused as refused:
        end(NO, f"The record is refused ({refused.error_class}): {refused.reason}")
