"""Which policies act: those of the files, those that were activated, and freezes. Pure.

Invariants, each held by `tests/property/test_in_force.py`:
- What acts follows from the files, from what stands on the control topic and, only where that
  cannot be used, from what acted before.
- A version acts only if its body is there, is of its name and hash, and passes the checks and cases
  that a file must pass. Else what acted before acts on; a service that begins takes the version
  before it, else its file.
- The serial of a tenant's policy is the offset of the last record of: which version of the policy
  is in force, the tenant's freeze, everybody's. It never goes down, unless somebody has withdrawn
  one of these with a null value.
- Under a freeze of its tenant, or of everybody, no policy blocks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import ValidationError

from qwarden.contracts.control import (
    ALL_TENANTS,
    Freeze,
    InForce,
    Key,
    Policies,
    PolicyBody,
    Stands,
    body_key,
    in_force_key,
)
from qwarden.policy.file import PolicyFile
from qwarden.policy.policy import Policy, version_of
from qwarden.policy.sources import BUILT_IN, findings, from_body
from qwarden.policy.tenants import Freezes, Tenants, standing


class Unusable(ValueError):
    """A policy's body that may not act; the message says why."""


@dataclass(frozen=True, slots=True)
class Read:
    """A body that was looked at, and the policy that it is, or why it is none."""

    body: PolicyBody
    policy: Policy | None
    fault: str = ""


@dataclass(frozen=True, slots=True)
class Acting:
    """What acts now.

    `policies`: by name, each with the offset of what last said which version acts, under no freeze.
    `faults`: of policies whose version in force cannot be used, a sentence each. `differing`: the
    policies whose file says something else than what acts. `read`: the bodies looked at so far.
    """

    tenants: Tenants
    policies: Mapping[str, Policy]
    faults: Mapping[str, str]
    differing: frozenset[str]
    read: Mapping[Key, Read]


def acting(files: Tenants, stands: Policies, before: Acting | None) -> Acting:
    """What acts where the tenants' files say `files` and this stands on the control topic.
    `before`: what acted until now, or None where a service begins."""
    own = files.policies()
    reading = _Reading(stands, {} if before is None else before.read)
    policies: dict[str, Policy] = {}
    faults: dict[str, str] = {}
    for name, file in own.items():
        pointer = stands.in_force.get(in_force_key(name))
        has_file = name not in files.lacking
        policy = file
        if pointer is None and not has_file and before is not None:
            policy = before.policies[name]  # it was withdrawn, and there is nothing else
        if pointer is not None:
            try:
                policy = reading.named_by(name, pointer, has_file=has_file) or file
            except Unusable as error:
                faults[name] = str(error)
                policy = _kept(name, pointer, reading, before) or file
            policy = standing(policy, pointer.offset, frozen=False)
        policies[name] = policy
    versions = {name: policy.version for name, policy in policies.items()}
    lacking = frozenset(each for each in files.lacking if versions[each] == own[each].version)
    differing = {name for name, policy in own.items() if versions[name] != policy.version}
    return Acting(
        files.with_policies(policies, freezes_of(stands), lacking),
        policies,
        faults,
        frozenset(differing - files.lacking),
        reading.read,
    )


def version_in_force(name: str, stands: Policies) -> Policy | None:
    """The version of a policy that is in force; None where each service's file is. Raises
    `Unusable` for one that cannot act."""
    pointer = stands.in_force.get(in_force_key(name))
    return None if pointer is None else _Reading(stands, {}).named_by(name, pointer, has_file=True)


def freezes_of(stands: Policies) -> Freezes:
    """The freezes that stand, those that are lifted too: their offsets count."""
    of = {key.tenant: (each.offset, _is_frozen(each)) for key, each in stands.freezes.items()}
    everybody = of.pop(ALL_TENANTS, (0, False))
    return Freezes(of, everybody)


def read_body(body: PolicyBody) -> Policy:
    """The policy that a body is. Raises `Unusable` for one that may not act."""
    about = f"the version {body.version} of the policy {body.policy!r}"
    try:
        file = PolicyFile.model_validate(body.body, context={"name": body.policy})
        version = version_of(file)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise Unusable(f"{about} cannot be read: {where}: {first['msg']}") from None
    if version != body.version:
        raise Unusable(f"{about} has another content: its hash is {version}")
    wrong = [finding.sentence for finding in findings(from_body(file)) if finding.is_error]
    if wrong:
        raise Unusable(f"{about} fails its checks: {wrong[0]}")
    return Policy(file)


class _Reading:
    """The bodies, each looked at once."""

    def __init__(self, stands: Policies, read: Mapping[Key, Read]) -> None:
        self._bodies = stands.bodies
        # What was withdrawn or replaced is looked at anew.
        self.read = {key: each for key, each in read.items() if stands.bodies.get(key) is each.body}

    def named_by(self, name: str, pointer: Stands[InForce], *, has_file: bool) -> Policy | None:
        """The version that acts, or None for the file. Raises `Unusable`."""
        if name in BUILT_IN:
            raise Unusable(f"the policy {name!r} is built in, and nothing acts instead of it")
        if pointer.record is None:
            raise Unusable(f"what says which version of the policy {name!r} acts cannot be read")
        version = pointer.record.version
        if version is None and not has_file:
            raise Unusable(
                f"the file of the policy {name!r} is in force, and there is none here; activate it "
                "with: qwarden policy activate FILE"
            )
        return None if version is None else self.of(name, version)

    def of(self, name: str, version: str) -> Policy:
        """A version of a policy. Raises `Unusable`."""
        key = body_key(name, version)
        found = self.read.get(key)
        if found is None:
            body = self._bodies.get(key)
            if body is None:
                raise Unusable(
                    f"the version {version} of the policy {name!r} is not on the control topic; "
                    "bring it there with: qwarden policy activate FILE"
                )
            try:
                found = Read(body, read_body(body))
            except Unusable as error:
                found = Read(body, None, str(error))
            self.read[key] = found
        if found.policy is None:
            raise Unusable(found.fault)
        return found.policy


def _kept(
    name: str, pointer: Stands[InForce], reading: _Reading, before: Acting | None
) -> Policy | None:
    """What acts instead of a version that cannot; None for the file."""
    if before is not None:
        return before.policies[name]
    if pointer.record is None or pointer.record.previous is None or name in BUILT_IN:
        return None
    try:
        return reading.of(name, pointer.record.previous)
    except Unusable:
        return None


def _is_frozen(stands: Stands[Freeze]) -> bool:
    return stands.record is None or stands.record.frozen
