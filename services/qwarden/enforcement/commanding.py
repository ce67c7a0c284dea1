"""What a person's command puts in force: a version of a policy, the one before it, a freeze."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime

import msgspec

from qwarden.contracts.control import (
    ALL_TENANTS,
    Freeze,
    InForce,
    Policies,
    PolicyBody,
    body_key,
    freeze_key,
    in_force_key,
)
from qwarden.contracts.verdict import encode
from qwarden.control.kafka import commanding
from qwarden.policy.file import PolicyFile
from qwarden.policy.in_force import Unusable, read_body
from qwarden.policy.policy import body_of, version_of
from qwarden.settings import Kafka


class NotPossible(Exception):
    """What was asked for cannot be done; the message says why, and what can."""


@dataclass(frozen=True, slots=True)
class Change:
    """What came into force. `record`: None where nothing did, because it was in force already or
    people have decided otherwise since it was declared. `was`, `now`: what acted and acts; None for
    each service's own file."""

    record: InForce | None
    was: PolicyFile | None
    now: PolicyFile | None


async def standing(kafka: Kafka) -> Policies:
    """What stands on the control topic. Raises `KafkaError` and `ControlUnusable`."""
    async with commanding(kafka) as control:
        return control.policies()


async def activate(
    kafka: Kafka, file: PolicyFile, *, at: datetime, by: str, if_changed: bool = False
) -> Change:
    """Puts a resolved policy in force that passed its checks: its body first, acknowledged, then
    what names it. What stands there already is not written again. `if_changed`: a release asks,
    which declares the same with each upgrade; nothing happens where it declared this version last,
    so that what people have activated or taken back since stays.

    Raises `NotPossible` for one that no service could read, `KafkaError` and `ControlUnusable`.
    """
    version = version_of(file)
    body = PolicyBody(
        policy=file.name, version=version, body=json.loads(body_of(file)), at=at, by=by
    )
    try:
        read_body(msgspec.json.decode(encode(body), type=PolicyBody))
    except Unusable as error:
        raise NotPossible(f"no service could use it: {error}") from None
    async with commanding(kafka) as control:
        stands = control.policies()
        there = stands.bodies.get(body.key())
        if there is None or there.body != body.body:
            await control.write(body)
        was = _in_force(stands, file.name)
        named = was.version if was is not None else None
        acts = _file(stands, file.name, named)
        declared = was.declared if was is not None else None
        if if_changed:
            if declared == version:
                return Change(None, acts, acts)
            declared = version
        if was is not None and named == version:
            if declared != was.declared:
                await control.write(msgspec.structs.replace(was, declared=declared))
            return Change(None, acts, file)
        record = InForce(
            policy=file.name, version=version, previous=named, at=at, by=by, declared=declared
        )
        await control.write(record)
        return Change(record, acts, file)


async def rollback(kafka: Kafka, name: str, *, at: datetime, by: str) -> Change:
    """Puts the version before in force, or each service's file where there was none.

    Raises `NotPossible`, `KafkaError` and `ControlUnusable`.
    """
    async with commanding(kafka) as control:
        stands = control.policies()
        was = _in_force(stands, name)
        if was is None or was.version is None:
            raise NotPossible(
                f"no version of the policy {name!r} is in force that can be undone: each service's "
                "own file acts; `qwarden policy show` says what is"
            )
        now = _file(stands, name, was.previous)
        if was.previous is not None and now is None:
            raise NotPossible(
                f"the version before, {was.previous}, cannot be used any more; activate a file "
                "with: qwarden policy activate FILE"
            )
        # Not the version that is undone: a second rollback would bring it back.
        record = InForce(
            policy=name,
            version=was.previous,
            previous=None,
            at=at,
            by=by,
            declared=was.declared,
        )
        await control.write(record)
        return Change(record, _file(stands, name, was.version), now)


async def freeze(
    kafka: Kafka, tenant: str, *, frozen: bool, reason: str, at: datetime, by: str
) -> Freeze | None:
    """Freezes a tenant, or everybody, or lifts that; None where it stands so already.

    Raises `KafkaError` and `ControlUnusable`.
    """
    async with commanding(kafka) as control:
        stands = control.policies().freezes.get(freeze_key(tenant))
        record = stands.record if stands is not None else None
        if (record is not None and record.frozen) == frozen:
            return None
        record = Freeze(tenant=tenant, frozen=frozen, reason=reason, at=at, by=by)
        await control.write(record)
        return record


def frozen_tenants(stands: Policies) -> dict[str, Freeze]:
    """The freezes in force, by tenant; that of everybody under `*`, first."""
    records = [each.record for each in stands.freezes.values() if each.record is not None]
    found = {record.tenant: record for record in records if record.frozen}
    return dict(sorted(found.items(), key=lambda each: (each[0] != ALL_TENANTS, each[0])))


def _in_force(stands: Policies, name: str) -> InForce | None:
    pointer = stands.in_force.get(in_force_key(name))
    return pointer.record if pointer is not None else None


def _file(stands: Policies, name: str, version: str | None) -> PolicyFile | None:
    """A version of a policy; None where it is not there, or may not act."""
    body = stands.bodies.get(body_key(name, version or ""))
    if body is None:
        return None
    try:
        return read_body(body).file
    except Unusable:
        return None
