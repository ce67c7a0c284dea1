"""The evidence sample: by the verdict's id alone, and near its rate."""

from __future__ import annotations

import hashlib

import pytest

from qwarden.contracts.escalation import is_sampled

IDS = [hashlib.blake2b(str(n).encode(), digest_size=16).hexdigest() for n in range(20_000)]


@pytest.mark.parametrize("rate", [0.001, 0.01, 0.1, 0.5, 0.9])
def test_a_sample_is_neither_empty_nor_everything(rate: float) -> None:
    taken = sum(is_sampled(each, rate) for each in IDS)
    spread = 4 * (len(IDS) * rate * (1 - rate)) ** 0.5
    assert abs(taken - len(IDS) * rate) < spread


def test_no_verdict_is_sampled_at_rate_0_and_every_one_at_1() -> None:
    extremes = ["0" * 32, "f" * 32, *IDS[:100]]
    assert not any(is_sampled(each, 0.0) for each in extremes)
    assert all(is_sampled(each, 1.0) for each in extremes)


def test_a_redelivered_verdict_is_not_sampled_otherwise() -> None:
    first = [is_sampled(each, 0.1) for each in IDS]
    assert first == [is_sampled(each, 0.1) for each in IDS]


def test_a_higher_rate_keeps_all_that_a_lower_one_kept() -> None:
    assert all(is_sampled(each, 0.2) for each in IDS if is_sampled(each, 0.1))
