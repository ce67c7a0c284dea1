"""Which replica a session is sent to: who moves when one comes or goes."""

from __future__ import annotations

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from examples import examples
from qwarden.inference.rendezvous import owner_of

SESSIONS = [(f"tenant {n % 3}", f"session {n}") for n in range(2000)]

_addresses = st.lists(
    st.integers(1, 250).map(lambda n: f"10.0.0.{n}:8001"), min_size=1, max_size=8, unique=True
)


@given(st.text(), st.text(), _addresses, st.randoms())
def test_two_clients_send_one_session_to_two_replicas(
    tenant: str, session: str, addresses: list[str], chance: object
) -> None:
    owner = owner_of(tenant, session, addresses)
    assert owner in addresses
    assert owner_of(tenant, session, frozenset(addresses)) == owner
    assert owner_of(tenant, session, list(reversed(addresses))) == owner
    # One that goes without being the owner moves nothing.
    assert owner_of(tenant, session, [owner, *addresses[::2]]) == owner


@settings(max_examples=examples(20))
@given(_addresses.filter(lambda addresses: len(addresses) > 1))
def test_a_replica_that_comes_moves_more_than_its_share(addresses: list[str]) -> None:
    *were, new = addresses
    moved = 0
    for tenant, session in SESSIONS:
        before = owner_of(tenant, session, were)
        now = owner_of(tenant, session, addresses)
        assert now in (before, new), "a session moves between two that were there all the time"
        moved += now != before
    share = len(SESSIONS) / len(addresses)
    # Six standard deviations of a fair draw.
    assert abs(moved - share) < 6 * (share * (1 - 1 / len(addresses))) ** 0.5


def test_a_replica_that_goes_leaves_all_its_sessions_to_one_other() -> None:
    addresses = [f"10.0.0.{n}:8001" for n in range(5)]
    inherited = Counter(
        owner_of(tenant, session, addresses[1:])
        for tenant, session in SESSIONS
        if owner_of(tenant, session, addresses) == addresses[0]
    )
    assert set(inherited) == set(addresses[1:])
    assert max(inherited.values()) < 2 * min(inherited.values())


def test_tenants_share_the_sessions_of_one_name() -> None:
    addresses = [f"10.0.0.{n}:8001" for n in range(8)]
    assert len({owner_of(f"tenant {n}", "session", addresses) for n in range(100)}) == 8
    differ = [owner_of("a" * n, "a" * (9 - n), addresses) for n in range(9)]
    assert len(set(differ)) > 1, "where the tenant ends and the session begins makes no difference"


def test_a_client_of_another_version_sends_a_session_elsewhere() -> None:
    """While a fleet is upgraded, both versions have the same replicas."""
    addresses = [f"10.0.0.{n}:8001" for n in range(8)]
    owners = [addresses.index(owner_of("demo", f"s{n}", addresses)) for n in range(24)]
    assert owners == [5, 6, 1, 0, 1, 7, 7, 5, 7, 6, 1, 1, 0, 2, 5, 6, 2, 7, 6, 4, 3, 5, 1, 2]


def test_half_a_surrogate_pair_in_a_name_ends_the_client() -> None:
    assert owner_of("\ud800", "s\udc00", ["10.0.0.1:8001"]) == "10.0.0.1:8001"
