"""Which records have all their outcomes, where some have two."""

from __future__ import annotations

from qwarden.delivery.account import Account

TASKS = ("response", "thinking")


def test_a_record_counts_as_answered_without_one_of_its_verdicts() -> None:
    account = Account()
    account.expect("a", TASKS)
    account.expect("b")
    account.saw("a", "1", "response")
    account.saw("b", "2", "prompt")
    assert (account.expected, account.answered()) == (2, 1)
    assert account.missing() == {"a"}
    account.saw("a", "3", "thinking")
    assert account.missing() == set()


def test_a_dead_letter_leaves_a_record_of_two_tasks_waiting() -> None:
    account = Account()
    account.expect("a", TASKS)
    account.saw("a", "dead-letter")
    assert account.missing() == set()


def test_two_verdicts_on_two_tasks_are_a_contradiction_or_a_repeat() -> None:
    account = Account(["a"])
    account.saw("a", "1", "response")
    account.saw("a", "2", "thinking")
    assert account.contradicted() == set()
    assert account.repeats() == 0


def test_two_verdicts_on_one_task_pass_for_one() -> None:
    account = Account(["a", "b"])
    for identity in ("1", "1", "2"):
        account.saw("a", identity, "response")
        account.saw("b", "3", "response")
    assert account.contradicted() == {"a"}
    assert account.repeats() == 4


def test_a_dead_letter_beside_a_verdict_passes_for_one_outcome() -> None:
    account = Account(["a"])
    account.saw("a", "1", "response")
    account.saw("a", "dead-letter")
    assert account.contradicted() == {"a"}


def test_an_outcome_of_a_record_that_nobody_waits_for_counts_as_one() -> None:
    account = Account(["a"])
    account.saw("b", "1", "prompt")
    assert (account.answered(), account.missing()) == (0, {"a"})
