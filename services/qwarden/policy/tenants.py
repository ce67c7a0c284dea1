"""Tenants: which policies each may use, and whether it shares the cache."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Annotated, Any

from pydantic import AfterValidator, Field, ValidationInfo

from qwarden.contracts.refusal import ErrorClass, Refused, listed
from qwarden.guard.row import View
from qwarden.policy.document import Document, DocumentError, as_its_file, parse
from qwarden.policy.file import FALLBACK, NAME, PolicyFile
from qwarden.policy.policy import Policy
from qwarden.policy.sources import BUILT_IN, Loaded, load


def _known(policy: str, info: ValidationInfo) -> str:
    known = (info.context or {}).get("policies", (policy,))
    if policy not in known:
        raise ValueError(f"no policy is called {policy!r}; known are {listed(known)}")
    if re.search(NAME, policy) is None:
        raise ValueError(f"no policy can be called {policy!r}; names are as forum-2")
    return policy


FRESH_HORIZON_S = 600.0
"""Ten minutes: by then people have seen what was posted, and what is posted now is more urgent."""


class TenantFile(Document):
    """The file `tenants/NAME.yaml`."""

    name: Annotated[str, AfterValidator(as_its_file)] = Field(min_length=1, max_length=256)
    policies: list[Annotated[str, AfterValidator(_known)]] = Field(min_length=1)
    """The policies that its events may name; the first is used where they name none."""
    relay: bool = True
    """Whether its events may wait on the backlog's lane: where they must keep the order of
    publication, whatever is old or too much, they may not."""
    fresh_horizon_s: float = Field(default=FRESH_HORIZON_S, gt=0)
    """An event that is older lets newer ones go first: it waits on the backlog's lane."""
    tokens_a_minute: int | None = Field(default=None, gt=0)
    """What one moderator judges of its events at once; what is more waits on the backlog's lane.
    Without it a tenant that floods delays the others."""
    share_cache: bool = False
    """Whether assessments are shared with the other tenants that say so. A hit, and its speed,
    then tells one what another has sent."""


@dataclass(frozen=True, slots=True)
class Tenant:
    """One tenant with its policies resolved."""

    name: str
    policies: Mapping[str, Policy]
    default: Policy
    cache_scope: str
    relay: bool = True
    fresh_horizon_s: float = FRESH_HORIZON_S
    tokens_a_minute: int | None = None

    def with_views(self, views: Sequence[View]) -> Tenant:
        """This tenant, whose policies all judge these views."""
        policies = {name: policy.with_views(views) for name, policy in self.policies.items()}
        return replace(self, policies=policies, default=policies[self.default.name])


@dataclass(frozen=True, slots=True)
class Freezes:
    """What stands of freezes: the offset of each one's last record, and whether it is frozen since;
    `everybody`: of every tenant."""

    of: Mapping[str, tuple[int, bool]] = field(default_factory=dict)
    everybody: tuple[int, bool] = (0, False)

    def holds(self, tenant: str) -> bool:
        """Whether nothing automatic ends in `block` for a tenant's content."""
        return self.everybody[1] or self.of.get(tenant, (0, False))[1]

    def acting(self, tenant: str, policy: Policy) -> Policy:
        """A policy as it acts on a tenant's content while these stand, also one that acted
        before."""
        at, is_frozen = self.of.get(tenant, (0, False))
        everybody_at, everybody_is = self.everybody
        serial, frozen = max(policy.serial, at, everybody_at), is_frozen or everybody_is
        return standing(policy, serial, frozen)


@dataclass(frozen=True, slots=True)
class Tenants:
    """All tenants that are known, and what happens to those that are not: they get `default`,
    unless `strict`. `lacking`: the policies that tenants may use and that nobody has given: they
    must come into force before anything is judged."""

    known: Mapping[str, Tenant]
    strict: bool
    default: Policy = BUILT_IN["default"]
    freezes: Freezes = Freezes()
    lacking: frozenset[str] = frozenset()

    def with_views(self, views: Sequence[View]) -> Tenants:
        """The same tenants, whose policies all judge these views."""
        return replace(
            self,
            known={name: tenant.with_views(views) for name, tenant in self.known.items()},
            default=self.default.with_views(views),
        )

    def with_policies(
        self, policies: Mapping[str, Policy], freezes: Freezes, lacking: frozenset[str]
    ) -> Tenants:
        """The same tenants with these policies of the same names, under these freezes."""
        known = {}
        for name, tenant in self.known.items():
            own = {each: freezes.acting(name, policies[each]) for each in tenant.policies}
            known[name] = replace(tenant, policies=own, default=own[tenant.default.name])
        default = policies[self.default.name]
        return replace(self, known=known, default=default, freezes=freezes, lacking=lacking)

    def policies(self) -> dict[str, Policy]:
        """Every policy that may act, by name: the tenants' own, and `default`, which acts for those
        that are not known."""
        found = {self.default.name: self.default}
        for tenant in self.known.values():
            found |= tenant.policies
        return found

    def of(self, name: str, *, event_id: str) -> Tenant:
        """The tenant of that name. An unknown one gets the policy `default`, unless `strict`:
        then `Refused` with the names that are known."""
        tenant = self.known.get(name)
        if tenant is not None:
            return tenant
        if self.strict:
            raise Refused(
                ErrorClass.UNKNOWN_TENANT,
                f"the tenant {name!r} is unknown; known are: {listed(self.known)}. Add "
                "tenants/NAME.yaml, or set policy.strict_tenants to false",
                event_id=event_id,
                tenant=name,
            )
        return _unknown(name, self.freezes.acting(name, self.default))


# Of each cache the size is that of many fleets' tenants; what is on top is made anew, since names
# that anybody makes up must not fill the memory.
@lru_cache(maxsize=1024)
def _unknown(name: str, default: Policy) -> Tenant:
    return Tenant(name, {default.name: default}, default, name)


def standing(policy: Policy, serial: int, frozen: bool) -> Policy:
    """As `Policy.standing`, which makes a policy: the same one as long as it is in use."""
    if (serial, frozen) == (policy.serial, policy.frozen):
        return policy
    return _standing(policy, serial, frozen)


@lru_cache(maxsize=1024)
def _standing(policy: Policy, serial: int, frozen: bool) -> Policy:
    return policy.standing(serial=serial, frozen=frozen)


def _lacking(name: str) -> Policy:
    """What stands for a policy that nobody has given. Nothing is judged while there is one; if it
    were, people would see it."""
    said = {
        **FALLBACK.model_dump(mode="json"),
        "ground": "terms",
        "clause": "no policy is in force",
    }
    return Policy(
        PolicyFile.model_validate(
            {"name": name, "rules": [{"name": "not-in-force", "then": "review", **said}]}
        )
    )


def policy_of(tenant: Tenant, name: str | None, *, event_id: str) -> Policy:
    """The policy that an event named, or the tenant's default. Raises `Refused`."""
    if name is None:
        return tenant.default
    policy = tenant.policies.get(name)
    if policy is None:
        raise Refused(
            ErrorClass.UNKNOWN_POLICY,
            f"the tenant {tenant.name!r} has no policy {name!r}; it may use: "
            f"{listed(tenant.policies)}",
            event_id=event_id,
            tenant=tenant.name,
        )
    return policy


def read_tenants(
    policies: Mapping[str, str],
    tenants: Mapping[str, str],
    *,
    strict: bool,
    activated: bool = False,
) -> Tenants:
    """All of `QWARDEN_POLICY__PATH`: each mapping is from a file's name without `.yaml` to text.
    `activated`: policies without a file may be in force on the control topic.

    Raises `DocumentError` with a line for everything that is wrong in any of the files.
    """
    errors: list[str] = []
    loaded = Loaded(BUILT_IN)
    try:
        loaded = load(policies)
    except DocumentError as error:
        errors.append(str(error))
    # A policy whose file is wrong is known all the same: one error is enough.
    names = {*BUILT_IN, *policies}
    documents: list[TenantFile] = []
    for name, text in sorted(tenants.items()):
        context: dict[str, Any] = {"name": name}
        if not activated:
            context["policies"] = names
        try:
            documents.append(
                parse(text, file=f"tenants/{name}.yaml", kind=TenantFile, context=context)
            )
        except DocumentError as error:
            errors.append(str(error))
    if errors:
        raise DocumentError("\n".join(errors))
    asked = {policy for document in documents for policy in document.policies}
    lacking = frozenset(asked - loaded.policies.keys())
    found = {**loaded.policies, **{name: _lacking(name) for name in lacking}}
    known = {
        document.name: Tenant(
            name=document.name,
            policies={policy: found[policy] for policy in document.policies},
            default=found[document.policies[0]],
            cache_scope="" if document.share_cache else document.name,
            relay=document.relay,
            fresh_horizon_s=document.fresh_horizon_s,
            tokens_a_minute=document.tokens_a_minute,
        )
        for document in documents
    }
    return Tenants(known, strict, lacking=lacking)
