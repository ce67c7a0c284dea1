"""What the control topic says that people should know before they look further. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from qwarden.contracts.control import ALL_TENANTS, Halt, Key, LossAccepted, Policies
from qwarden.doctor.finding import Findings
from qwarden.policy.in_force import acting
from qwarden.policy.tenants import Tenants


def judge(
    found: Findings,
    tenants: Tenants,
    stands: Policies,
    halts: Mapping[Key, Halt],
    losses: Mapping[Key, LossAccepted],
) -> None:
    """`tenants`: as the files here give them."""
    for halt in halts.values():
        found.wrong(
            "halt",
            f"nothing is judged since {halt.at:%Y-%m-%d %H:%M} UTC, by {halt.by}: {halt.reason} "
            "When that is mended: qwarden dlq resume",
        )
    for key, stood in stands.freezes.items():
        freeze = stood.record
        whose = "every tenant" if key.tenant == ALL_TENANTS else f"the tenant {key.tenant}"
        if freeze is None:
            found.wrong(
                "freeze",
                f"the freeze of {whose} cannot be read, so it holds; write it anew: qwarden policy "
                "freeze, or lift it: qwarden policy unfreeze",
            )
        elif freeze.frozen:
            found.note(
                "freeze",
                f"nothing automatic blocks for {whose} since {freeze.at:%Y-%m-%d %H:%M} UTC "
                f"({freeze.reason}), by {freeze.by}; lift it with: qwarden policy unfreeze",
            )
    now = acting(tenants, stands, None)
    for name, fault in sorted(now.faults.items()):
        found.wrong(f"policy {name}", f"its version in force cannot act: {fault}")
    for name in sorted(now.tenants.lacking):
        found.wrong(
            f"policy {name}",
            "tenants may use it, and nobody has given it: services judge nothing; put it into "
            f"policies/{name}.yaml, or activate it: qwarden policy activate {name}",
        )
    for name in sorted(now.differing - now.faults.keys()):
        found.note(
            f"policy {name}",
            f"version {now.policies[name].version} is in force and the file here is another one; "
            f"compare them with: qwarden policy show {name}",
        )
    lost = len(losses)
    figures = f"{len(now.policies)} policies act"
    if lost:
        figures += f"; {lost} losses of records were accepted by people"
    if not halts:
        found.good("in force", f"no halt; {figures}")
