"""All checks of the doctor: each by its name, at once, each within its time."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from aiokafka.errors import KafkaError

from qwarden import bootstrap
from qwarden.doctor.finding import Finding, Findings, Result
from qwarden.settings import Settings

if TYPE_CHECKING:
    from qwarden.contracts.mapping import Topic
    from qwarden.policy.tenants import Tenants

_WITHIN_S = 20.0
"""Of a check: over the 10 s that a request to a broker may take, and what comes before it."""

# The parts that a check needs are imported in it: a service's image has them all, and SQLAlchemy
# and httpx take longer to import than most checks to run.


@dataclass(frozen=True, slots=True)
class Patient:
    """What is looked at. `has_key`: whether the content key is the settings' own, and not one that
    stands in for it."""

    settings: Settings
    tenants: Tenants
    mapped: Mapping[str, Topic]
    has_key: bool
    folders: Sequence[Path] = ()


@dataclass(frozen=True, slots=True)
class Check:
    """`needs`: the check without whose good answer this one would only say the same again."""

    look: Callable[[Findings, Patient], Awaitable[None]]
    needs: str | None = None
    within_s: Callable[[Settings], float] = lambda settings: _WITHIN_S


_IN_PROCESS = "it runs in each service's process (QWARDEN_GUARD__MODE)"
_NO_GUARD = "QWARDEN_TRITON__URL is not set here: the review service asks no guard"


def _has_guard(settings: Settings) -> bool:
    """Whether somebody has said where it is: the pods of the review service know of none."""
    return "url" in settings.triton.model_fields_set


async def _kafka(found: Findings, patient: Patient) -> None:
    from qwarden.doctor.kafka_probe import look_at_broker

    await look_at_broker(found, patient.settings)


async def _topics(found: Findings, patient: Patient) -> None:
    from qwarden.doctor.kafka_probe import look_at_topics

    await look_at_topics(found, patient.settings, sorted(patient.mapped))


async def _groups(found: Findings, patient: Patient) -> None:
    from qwarden.doctor.kafka_probe import look_at_groups

    await look_at_groups(found, patient.settings, sorted(patient.mapped))


async def _control(found: Findings, patient: Patient) -> None:
    from qwarden.doctor.kafka_probe import look_at_control

    await look_at_control(found, patient.settings, patient.tenants)


async def _key(found: Findings, patient: Patient) -> None:
    from qwarden.doctor.kafka_probe import look_at_key

    if patient.has_key:
        await look_at_key(found, patient.settings)
    else:
        found.left_out("content key", "QWARDEN_CONTENT_KEY is not set here")


async def _redis(found: Findings, patient: Patient) -> None:
    from qwarden.doctor.redis_probe import look_at_cache

    if patient.settings.redis.url is None:
        found.left_out(
            "cache", "QWARDEN_REDIS__URL is not set: each process has a cache of its own alone"
        )
    else:
        await look_at_cache(found, patient.settings.redis)


async def _triton(found: Findings, patient: Patient) -> None:
    from qwarden.doctor.triton_probe import look_at_gen

    if patient.settings.guard.mode != "triton":
        found.left_out("guard", _IN_PROCESS)
    elif not _has_guard(patient.settings):
        found.left_out("guard", _NO_GUARD)
    else:
        await look_at_gen(found, patient.settings)


async def _stream(found: Findings, patient: Patient) -> None:
    from qwarden.doctor.triton_probe import look_at_stream

    settings = patient.settings
    if settings.guard.mode != "triton":
        found.left_out("guard", _IN_PROCESS)
    elif not settings.stream_guard.names and not _has_guard(settings):
        found.left_out("guard", _NO_GUARD)
    else:
        await look_at_stream(found, settings)


async def _registry(found: Findings, patient: Patient) -> None:
    from qwarden.doctor.web_probe import look_at_registry

    confluent = sorted(name for name, topic in patient.mapped.items() if topic.is_confluent)
    if patient.settings.registry.url is not None:
        await look_at_registry(found, patient.settings.registry)
    elif confluent:
        found.wrong(
            "registry",
            f"QWARDEN_REGISTRY__URL is not set, and topics/{confluent[0]}.yaml says decoder: "
            "confluent; set it to the address of the schema registry",
        )
    else:
        found.left_out("registry", "no topic needs one")


async def _database(found: Findings, patient: Patient) -> None:
    from qwarden.doctor.database_probe import look_at_database

    if patient.settings.review.database_url is None:
        found.left_out("database", "QWARDEN_REVIEW__DATABASE_URL is not set here")
    else:
        await look_at_database(found, patient.settings.review)


async def _oidc(found: Findings, patient: Patient) -> None:
    from qwarden.doctor.web_probe import look_at_issuer

    settings = patient.settings
    if settings.oidc is None:
        found.left_out("issuer", "QWARDEN_OIDC__ISSUER is not set: people sign in with links")
    else:
        await look_at_issuer(found, settings.oidc, settings.review.public_url)


async def _clocks(found: Findings, patient: Patient) -> None:
    from qwarden.doctor import redis_probe
    from qwarden.doctor.kafka_probe import look_at_timestamps

    async def of_kafka() -> None:
        try:
            await look_at_timestamps(found, patient.settings)
        except (KafkaError, OSError):
            found.left_out("Kafka", "it does not answer")

    async def of_redis() -> None:
        if patient.settings.redis.url is not None:
            try:
                await redis_probe.look_at_clock(found, patient.settings.redis)
            except redis_probe.Unreachable:
                found.left_out("Redis", "it does not answer")

    async def of_database() -> None:
        if patient.settings.review.database_url is not None:
            from qwarden.doctor import database_probe

            await database_probe.look_at_clock(found, patient.settings.review)

    await asyncio.gather(of_kafka(), of_redis(), of_database())


async def _certificates(found: Findings, patient: Patient) -> None:
    from qwarden.doctor.machine import look_at_certificates

    await look_at_certificates(found, patient.settings)


async def _machine(found: Findings, patient: Patient) -> None:
    from qwarden.doctor.machine import look_at_room

    look_at_room(found, [Path(tempfile.gettempdir()), *patient.folders])


CHECKS: Mapping[str, Check] = {
    "kafka": Check(_kafka),
    "topics": Check(_topics, needs="kafka"),
    "groups": Check(_groups, needs="kafka"),
    "control": Check(_control, needs="kafka"),
    "key": Check(_key, needs="kafka"),
    "redis": Check(_redis),
    "triton": Check(_triton, within_s=lambda settings: settings.triton.probe_s + _WITHIN_S),
    "stream": Check(_stream, within_s=lambda settings: settings.stream_guard.probe_s + _WITHIN_S),
    "registry": Check(_registry),
    "database": Check(_database),
    "oidc": Check(_oidc),
    "clocks": Check(_clocks, within_s=lambda settings: 2 * _WITHIN_S),
    "certificates": Check(_certificates),
    "machine": Check(_machine),
}
"""By the names that `--only` takes, in the order in which they are told."""


def patient_of(settings: Settings, *, has_key: bool, folders: Sequence[Path] = ()) -> Patient:
    """Raises `SettingsError` and `DocumentError` for policies, tenants and topics that are
    wrong."""
    tenants = bootstrap.tenants_of(settings, activated=True)
    mapped = bootstrap.topics_of(settings, tenants)
    return Patient(settings, tenants, mapped, has_key, folders)


async def examine(
    patient: Patient, names: Collection[str], checks: Mapping[str, Check] = CHECKS
) -> AsyncIterator[list[Finding]]:
    """What each check of these names finds, in their order, all begun at once; with them come those
    that they need. Raises what a check does not expect."""
    wanted = [name for name in checks if name in names or _is_needed(name, names, checks)]
    running: dict[str, asyncio.Task[list[Finding]]] = {}
    for name in wanted:
        running[name] = asyncio.create_task(
            _run(name, checks[name], patient, running), name=f"doctor-{name}"
        )
    try:
        for name in wanted:
            yield await running[name]
    finally:
        for task in running.values():
            task.cancel()
        await asyncio.gather(*running.values(), return_exceptions=True)


def _is_needed(name: str, names: Collection[str], checks: Mapping[str, Check]) -> bool:
    return any(checks[each].needs == name for each in names)


async def _run(
    name: str, check: Check, patient: Patient, running: Mapping[str, asyncio.Task[list[Finding]]]
) -> list[Finding]:
    found = Findings(name)
    if check.needs is not None:
        before = await running[check.needs]
        if any(each.result is Result.AWAY for each in before):
            found.left_out(name, f"it is not known: {check.needs} is away")
            return found.all
    within_s = check.within_s(patient.settings)
    try:
        async with asyncio.timeout(within_s):
            await check.look(found, patient)
    except TimeoutError:
        found.away(name, f"no answer within {within_s:g} s")
    except KafkaError as error:
        found.away(name, f"Kafka does not answer as it should: {error!r}")
    return found.all
