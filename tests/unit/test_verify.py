"""The account: what a record lacks, what passes for a repeat, and what counts as a fault."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, ClassVar, cast

import pytest

from qwarden.backoff import Backoff
from qwarden.contracts import topics
from qwarden.contracts.mapping import Expression, Topic
from qwarden.contracts.verdict import Verdict, encode
from qwarden.delivery.window import Partition
from qwarden.outcomes.source import Source
from qwarden.registry.memory import MemoryRegistry
from qwarden.registry.port import RegistryAway, Schema
from qwarden.registry.schemas import Schemas
from qwarden.verify.account import Account, Place, place_of
from qwarden.verify.reader import Reader, Scope
from qwarden.verify.report import Finding, Report, lines, sentence, table
from qwarden.verify.theirs import Theirs
from unit.builders import admission, verdict, withdrawal

TASKS = ("response", "thinking")
BOUNDS = {Partition("content.events", 0): 100, Partition("content.backlog", 0): 100}
REVIEW = {"action": "review", "safety": "Controversial"}


def event(account: Account, offset: int, tasks: tuple[str, ...] = ("prompt",)) -> str:
    """A record of content.events with the key `k`; returns its origin."""
    place = Place("content.events", 0, offset)
    account.record(place, key=b"k", tasks=tasks)
    return str(place)


def relay(account: Account, offset: int, origin: str, **more: str) -> None:
    place = Place("content.backlog", 0, offset)
    account.record(place, key=b"k", tasks=("prompt",), origin=origin, **more)


def publish(account: Account, origin: str, said: Verdict, offset: int | None = None) -> None:
    account.verdict(origin, said, None if offset is None else (0, offset))


def found(account: Account, bounds: dict[Partition, int] | None = None) -> dict[Finding, int]:
    """Only what is not zero."""
    report = account.judge(BOUNDS if bounds is None else bounds)
    return {finding: count for finding, count in report.found.items() if count}


# While a run goes on.


def test_a_record_counts_as_answered_without_one_of_its_verdicts() -> None:
    account = Account()
    account.expect("a", TASKS)
    account.expect("b")
    account.verdict("a", verdict("1", task="response"))
    account.verdict("b", verdict("2"))
    assert (account.expected, account.answered()) == (2, 1)
    assert account.missing() == {"a"}
    account.verdict("a", verdict("3", task="thinking"))
    assert account.missing() == set()


def test_a_dead_letter_leaves_a_record_of_two_tasks_waiting() -> None:
    account = Account()
    account.expect("a", TASKS)
    account.dead_letter("a")
    assert account.missing() == set()


def test_two_verdicts_on_two_tasks_are_a_contradiction_or_a_repeat() -> None:
    account = Account(["a"])
    account.verdict("a", verdict("1", task="response"))
    account.verdict("a", verdict("2", task="thinking"))
    assert account.contradicted() == set()
    assert account.repeats() == 0


def test_two_verdicts_on_one_task_pass_for_one() -> None:
    account = Account(["a", "b"])
    for identity in ("1", "1", "2"):
        account.verdict("a", verdict(identity))
        account.verdict("b", verdict("3"))
    assert account.contradicted() == {"a"}
    assert account.repeats() == 3


def test_a_dead_letter_beside_a_verdict_passes_for_one_outcome() -> None:
    account = Account(["a"])
    account.verdict("a", verdict("1"))
    account.dead_letter("a")
    assert account.contradicted() == {"a"}


def test_an_outcome_of_a_record_that_nobody_waits_for_counts_as_one() -> None:
    account = Account(["a"])
    account.verdict("b", verdict("1"))
    assert (account.answered(), account.missing()) == (0, {"a"})


# In the end.


def test_an_event_without_anything_is_in_order() -> None:
    account = Account()
    event(account, 3)
    assert found(account) == {Finding.NO_VERDICT: 1}
    assert found(account, {Partition("content.events", 0): 3}) == {}
    assert found(account, {}) == {}, "a group that has committed nothing has nothing to judge"


@pytest.mark.parametrize(
    ("said", "lacks"),
    [
        ({}, []),
        ({"action": "block"}, [Finding.NO_EVIDENCE]),
        (REVIEW, [Finding.NO_ESCALATION, Finding.NO_EVIDENCE]),
        ({"edit": 1}, [Finding.NO_ESCALATION]),
        ({"basis": "degraded"}, [Finding.NO_EVIDENCE]),
        ({"basis": "expired"}, [Finding.NO_EVIDENCE]),
    ],
)
def test_a_verdict_is_enough_where_it_owes_more(
    said: dict[str, object], lacks: list[Finding]
) -> None:
    account = Account()
    origin = event(account, 0)
    account.verdict(origin, verdict("1", **said))
    assert found(account) == dict.fromkeys(lacks, 1)
    account.escalation(origin, verdict("1", **said))
    account.evidence(origin, verdict("1", **said))
    assert found(account) == {}


def test_a_deletion_that_closes_nothing_is_in_order() -> None:
    account = Account()
    origin = event(account, 0, ())
    account.verdict(origin, withdrawal("1"))
    assert found(account) == {Finding.NO_ESCALATION: 1}
    account.escalation(origin, withdrawal("1"))
    assert found(account) == {}


def test_a_producers_own_repeat_is_a_duplicate() -> None:
    account = Account()
    for offset in (0, 1):
        account.verdict(event(account, offset), verdict("1"))
    assert found(account) == {}


def test_a_redelivery_that_was_torn_is_no_duplicate_or_two() -> None:
    account = Account()
    origin = event(account, 0)
    for _ in range(2):
        account.verdict(origin, verdict("1", **REVIEW))
    account.escalation(origin, verdict("1", **REVIEW))
    account.evidence(origin, verdict("1", **REVIEW))
    assert found(account) == {Finding.DUPLICATED: 1}


def test_a_torn_verdict_whose_repeat_has_another_id_is_a_loss() -> None:
    account = Account()
    origin = event(account, 0)
    account.verdict(origin, verdict("1", **REVIEW))
    account.verdict(origin, verdict("2"))
    assert found(account) == {Finding.REVISED: 1}


@pytest.mark.parametrize("other", [{"safety": "Unsafe"}, {"categories": ["PII"]}, {"action": None}])
def test_two_values_under_one_id_pass_for_a_repeat(other: dict[str, object]) -> None:
    account = Account()
    first, second = event(account, 0), event(account, 1)
    account.verdict(first, verdict("1"))
    account.evidence(second, verdict("1", **other))
    account.verdict(second, verdict("1"))
    assert found(account) == {Finding.DIFFERENT: 1}
    assert account.contradicted() == {second}
    assert account.judge(BOUNDS).examples[0].origin == second


def test_a_relay_that_waits_in_the_backlog_is_a_loss() -> None:
    account = Account()
    origin = event(account, 0)
    relay(account, 5, origin)
    content = {Partition("content.events", 0): 1}
    assert found(account, content | {Partition("content.backlog", 0): 5}) == {}
    assert found(account, content | {Partition("content.backlog", 0): 6}) == {Finding.NO_VERDICT: 1}
    account.verdict(origin, verdict("1"))
    assert found(account, content | {Partition("content.backlog", 0): 6}) == {}
    assert account.judge(content).rows[1].ahead == 1


def test_a_replay_that_got_no_answer_hides_behind_its_dead_letter() -> None:
    account = Account()
    origin = event(account, 0)
    account.dead_letter(origin)
    assert found(account) == {}
    for offset in (0, 1):  # The second by a command that did not know of the first.
        relay(account, offset, origin, replay_of="moderation.dead-letters/0/0")
    assert found(account) == {Finding.NO_VERDICT: 1}
    account.verdict(origin, verdict("1"))
    assert found(account) == {}, "and it is no revision"
    again = Account()
    again.dead_letter(event(again, 0))
    relay(again, 0, origin, replay_of="moderation.dead-letters/0/0")
    again.dead_letter(origin)
    assert found(again) == {}


def test_a_record_of_the_backlog_that_names_nobody_is_passed_over() -> None:
    account = Account()
    account.record(Place("content.backlog", 0, 4), key=None, tasks=("prompt",))
    assert found(account) == {Finding.NO_VERDICT: 1}


@pytest.mark.parametrize("ends", ["verdicts", "dead letter"])
def test_a_relay_of_what_the_topic_has_deleted_is_passed_over(ends: str) -> None:
    account = Account()
    relay(account, 4, "content.events/0/7")
    assert found(account) == {Finding.NO_VERDICT: 1}
    if ends == "verdicts":
        account.verdict("content.events/0/7", verdict("1"))
    else:
        account.dead_letter("content.events/0/7")
    assert found(account) == {}


def test_a_key_out_of_order_passes_for_a_repeat() -> None:
    account = Account()
    first, second, third = (event(account, offset) for offset in range(3))
    publish(account, second, verdict("2"), 0)
    publish(account, first, verdict("1"), 1)
    publish(account, third, verdict("3"), 2)
    assert found(account) == {Finding.DISORDERED: 1}
    example = account.judge(BOUNDS).examples[0]
    assert (example.origin, example.beside, example.key) == (second, first, "k")


def test_a_repeat_after_a_crash_is_a_key_out_of_order() -> None:
    account = Account()
    first, second = event(account, 0), event(account, 1)
    for offset, (origin, identity) in enumerate(
        [(first, "1"), (second, "2"), (first, "1"), (second, "2")]
    ):
        publish(account, origin, verdict(identity), offset)
    assert found(account) == {Finding.DUPLICATED: 2}


def test_a_dead_letter_that_became_a_verdict_is_a_key_out_of_order() -> None:
    account = Account()
    first, second = event(account, 0), event(account, 1)
    account.dead_letter(first)
    publish(account, second, verdict("2"), 0)
    publish(account, first, verdict("1"), 1)
    assert found(account) == {Finding.REVISED: 1}


def test_a_topic_that_grew_puts_its_keys_out_of_order() -> None:
    account = Account()
    first, second = event(account, 0), event(account, 1)
    account.verdict(first, verdict("1"), (0, 900))
    account.verdict(second, verdict("2"), (5, 0))
    assert found(account) == {}


def test_a_deletion_of_which_a_verdict_is_known_counts_it_alone() -> None:
    account = Account()
    origin = event(account, 0)
    for take in (account.verdict, account.escalation):
        take(origin, withdrawal("1"))
    assert found(account) == {}, "a withdrawal is of all tasks"
    account.verdict(origin, verdict("2", action="block"))
    assert found(account) == {Finding.REVISED: 1}


def test_what_the_backlog_answers_later_is_a_key_out_of_order() -> None:
    account = Account()
    first, second = event(account, 0), event(account, 1)
    relay(account, 0, first)
    publish(account, second, verdict("2"), 0)
    publish(account, first, verdict("1"), 1)
    assert found(account) == {}


def test_a_key_out_of_order_in_the_backlog_is_overlooked() -> None:
    account = Account()
    for offset in (0, 1):
        relay(account, offset, event(account, offset))
    publish(account, "content.events/0/1", verdict("2"), 0)
    publish(account, "content.events/0/0", verdict("1"), 1)
    report = account.judge(BOUNDS)
    assert [(row.topic, row.found[Finding.DISORDERED]) for row in report.rows] == [
        ("content.backlog", 1),
        ("content.events", 0),
    ]


def test_a_relay_that_was_judged_before_it_was_relayed_is_a_key_out_of_order() -> None:
    """It came by both lanes: the first verdict says nothing of the order in the backlog."""
    account = Account()
    for offset in (0, 1):
        relay(account, offset, event(account, offset))
    first, second = "content.events/0/0", "content.events/0/1"
    publish(account, second, verdict("2"), 0)
    publish(account, first, verdict("1"), 1)
    publish(account, second, verdict("2"), 2)
    assert found(account) == {Finding.DUPLICATED: 1}


def test_a_key_without_order_is_told_of_once_for_each_record() -> None:
    account = Account()
    origins = [event(account, offset) for offset in range(4)]
    for at, origin in enumerate(reversed(origins)):
        publish(account, origin, verdict(origin), at)
    assert found(account) == {Finding.DISORDERED: 1}


def test_a_thought_after_the_next_record_is_in_order() -> None:
    account = Account()
    first, second = event(account, 0, TASKS), event(account, 1)
    publish(account, first, verdict("1", task="response"), 0)
    publish(account, second, verdict("2"), 1)
    publish(account, first, verdict("3", task="thinking"), 2)
    assert found(account) == {Finding.DISORDERED: 1}


def test_keys_with_one_beginning_are_one_key() -> None:
    account = Account()
    long = b"k" * 1000
    for offset, key in enumerate((long + b"1", long + b"2")):
        account.record(Place("content.events", 0, offset), key=key, tasks=())
    publish(account, "content.events/0/1", verdict("2"), 0)
    publish(account, "content.events/0/0", verdict("1"), 1)
    assert found(account) == {}


@pytest.mark.parametrize(
    "text", ["", "a/1", "/1/2", "a/1/x", "a/01/2", "a/1/²", "a/-1/2", "a/1/2/ "]
)
def test_what_is_no_origin_is_taken_for_one(text: str) -> None:
    assert place_of(text) is None
    account = Account()
    account.verdict(text, verdict("1"))
    assert account.judge(BOUNDS).unmatched == 1


# What is counted, and what is passed over.


def test_a_lost_dead_letter_hides_behind_the_verdict_on_its_replay() -> None:
    account = Account()
    origin = event(account, 0)
    relay(account, 0, origin, replay_of="moderation.dead-letters/0/0")
    account.verdict(origin, verdict("1"))
    assert found(account) == {Finding.NO_VERDICT: 1}
    account.dead_letter(origin)
    assert found(account) == {}


@pytest.mark.parametrize(("replays", "letters", "repeats"), [(0, 2, 1), (1, 2, 0), (1, 4, 2)])
def test_a_dead_letter_that_was_published_again_is_no_duplicate(
    replays: int, letters: int, repeats: int
) -> None:
    account = Account()
    origin = event(account, 0)
    for offset in range(replays):
        relay(account, offset, origin, replay_of="moderation.dead-letters/0/0")
    for _ in range(letters):
        account.dead_letter(origin)
    assert account.repeats() == repeats


@pytest.mark.parametrize(("escalations", "evidence"), [(3, 1), (1, 3)])
def test_an_escalation_or_evidence_that_was_published_again_is_no_duplicate(
    escalations: int, evidence: int
) -> None:
    account = Account()
    origin = event(account, 0)
    account.verdict(origin, verdict("1", **REVIEW))
    for _ in range(escalations):
        account.escalation(origin, verdict("1", **REVIEW))
    for _ in range(evidence):
        account.evidence(origin, verdict("1", **REVIEW))
    assert found(account) == {Finding.DUPLICATED: 2}


@pytest.mark.parametrize("whole", [verdict("2", **REVIEW), withdrawal("2")])
def test_of_two_torn_outcomes_the_one_that_lacks_more_is_told(whole: Verdict) -> None:
    account = Account()
    origin = event(account, 0)
    account.verdict(origin, verdict("1", **REVIEW))
    account.escalation(origin, whole)
    account.evidence(origin, whole)
    assert found(account) == {Finding.NO_VERDICT: 1, Finding.REVISED: 1}


def test_an_undo_that_is_read_first_hides_the_verdict_that_it_undoes() -> None:
    account = Account()
    origin = event(account, 0)
    account.verdict(origin, verdict("2", **UNDONE))
    account.escalation(origin, verdict("2", **UNDONE))
    account.verdict(origin, verdict("1"))
    assert found(account) == {}


def test_a_second_verdict_on_a_task_is_a_key_out_of_order() -> None:
    account = Account()
    first, second = event(account, 0), event(account, 1)
    publish(account, first, verdict("1"), 0)
    publish(account, second, verdict("2"), 1)
    publish(account, first, verdict("3"), 2)
    assert found(account) == {Finding.REVISED: 1}


def swapped(account: Account, offset: int, key: bytes | None, at: tuple[int, int]) -> None:
    """Two records of a key, of which the second was published first."""
    for number in (1, 0):
        place = Place("content.events", 0, offset + number)
        account.record(place, key=key, tasks=("prompt",))
        account.verdict(str(place), verdict(str(place)), (at[0], at[1] + 1 - number))


def test_what_has_no_key_or_no_place_or_is_not_due_is_told_to_be_out_of_order() -> None:
    account = Account()
    swapped(account, 0, None, (0, 0))
    swapped(account, 99, b"its second record is not due", (0, 10))
    for number, origin in enumerate(("no place", "nor this one")):
        relay(account, number, origin)
        publish(account, origin, verdict(origin), 21 - number)
    assert found(account) == {}
    known = {Partition("content.events", 0): 100}
    expected = Account(["content.events/0/0", "content.events/0/1"])
    for number in (0, 1):
        publish(expected, f"content.events/0/{number}", verdict(str(number)), 1 - number)
    assert found(expected, known) == {}
    expected.expect("content.events/0/2")
    assert expected.judge(known).examples[0].key is None


def test_a_key_out_of_order_hides_behind_what_is_passed_over() -> None:
    """Behind a record without a key, one with a dead letter, one of a key that was told of, and one
    that was judged before it was relayed."""
    account = Account()
    swapped(account, 0, None, (0, 0))
    account.dead_letter(event(account, 2))
    swapped(account, 3, b"a", (0, 10))
    place = Place("content.events", 0, 5)
    account.record(place, key=b"a", tasks=("prompt",))
    publish(account, str(place), verdict("5"), 20)
    swapped(account, 6, b"b", (0, 30))
    for offset in (0, 1):
        relay(account, offset, event(account, 10 + offset))
    for at, origin in enumerate(("content.events/0/11", "content.events/0/10") * 2):
        publish(account, origin, verdict(origin), 40 + at)
    for number in (1, 0):
        origin = event(account, 20 + number)
        account.record(
            Place("content.backlog", 0, 5 + number), key=b"c", tasks=("prompt",), origin=origin
        )
        publish(account, origin, verdict(origin), 51 - number)
    report = account.judge(BOUNDS)
    assert [(row.topic, row.partition, row.found[Finding.DISORDERED]) for row in report.rows] == [
        ("content.backlog", 0, 1),
        ("content.events", 0, 2),
    ]


def test_a_topic_that_grew_hides_that_a_key_is_out_of_order_since_then() -> None:
    account = Account()
    origin = event(account, 0)
    account.verdict(origin, verdict("1"), (0, 900))
    swapped(account, 1, b"k", (5, 0))
    swapped(account, 3, b"k", (5, 2))
    assert found(account) == {Finding.DISORDERED: 1}


# What people see.


def shown(report: Report) -> str:
    return "\n".join((table(report), *lines(report)))


def test_an_example_moves_the_cursor_or_hides_its_origin() -> None:
    account = Account()
    place = Place("content.events", 0, 9)
    account.record(place, key=b"demo/\x1b[2Jgone\xff", tasks=TASKS)
    account.verdict(str(place), verdict("\x1b[2J", task="response"))
    report = account.judge(BOUNDS)
    assert "\x1b[2J" not in shown(report)
    assert r"content.events/0/9 key demo/\x1b[2Jgone\xff" in shown(report)
    assert sentence(report) == "Of 1 events: no verdict: 1."


def test_json_lacks_what_the_table_has() -> None:
    account = Account()
    event(account, 0)
    account.verdict(event(account, 1), verdict("1"))
    account.verdict(event(account, 200), verdict("2"))
    report = json.loads(account.judge(BOUNDS).json())
    assert (report["ok"], report["judged"], report["unmatched"]) == (False, 2, 0)
    assert report["found"]["no_verdict"] == 1
    (backlog, content) = report["rows"]
    assert (backlog["topic"], backlog["below"]) == ("content.backlog", 100)
    assert (content["records"], content["judged"], content["ahead"]) == (3, 2, 1)
    (example,) = report["examples"]
    assert (example["finding"], example["origin"]) == ("no_verdict", "content.events/0/0")


def test_more_examples_are_shown_than_were_asked_for() -> None:
    account = Account()
    for offset in range(9):
        event(account, offset)
    assert len(account.judge(BOUNDS, examples=2).examples) == 2
    assert account.judge(BOUNDS, examples=0).examples == ()


def test_a_list_of_examples_has_no_end() -> None:
    account = Account()
    for offset in range(9):
        event(account, offset)
    assert [each.origin for each in account.judge(BOUNDS).examples] == [
        f"content.events/0/{offset}" for offset in range(5)
    ]


def test_of_what_is_not_judged_only_the_last_is_counted() -> None:
    account = Account()
    for offset in (100, 101, 102):
        event(account, offset)
    for origin in ("content.events/0/100", "content.events/0/102", "content.events/0/7", "8"):
        account.verdict(origin, verdict("1"))
    report = account.judge(BOUNDS)
    assert [(row.records, row.judged, row.ahead) for row in report.rows] == [(0, 0, 0), (3, 0, 2)]
    assert report.unmatched == 2
    first = Account()
    event(first, 0)
    assert found(first, {}) == {}, "of a group that has committed nothing the first record is due"


@pytest.mark.parametrize(("length", "whole"), [(63, 63), (64, 64), (65, 32), (1000, 32)])
def test_a_key_takes_as_much_memory_as_its_producer_likes(length: int, whole: int) -> None:
    account = Account()
    account.record(Place("content.events", 0, 0), key=b"k" * length, tasks=())
    key = account.judge(BOUNDS).examples[0].key
    assert key is not None
    assert (len(key), key[:whole]) == (min(length, 64), "k" * whole)
    assert key[whole:] != "k" * (len(key) - whole) or whole == length


def test_a_verification_that_found_nothing_is_no_sentence() -> None:
    account = Account()
    account.verdict(event(account, 0), verdict("1"))
    assert sentence(account.judge(BOUNDS)) == "All 1 events have what they are owed."


def test_what_overtook_whom_or_what_was_not_read_is_kept_from_people() -> None:
    account = Account()
    first, second = event(account, 0), event(account, 1)
    publish(account, second, verdict("2"), 0)
    publish(account, first, verdict("1"), 1)
    account.record(Place("content.events", 0, 2), key=None, tasks=())
    account.verdict("content.events/0/99", verdict("9"))
    told = list(lines(replace(account.judge(BOUNDS), notes=("a note",))))
    assert told == [
        "no verdict     content.events/0/2 without a key",
        f"key disordered {second} overtook {first} key k 2",
        "1 origins that outcomes name are not among the records read",
        "a note",
    ]


def test_an_empty_verification_is_called_good() -> None:
    assert "No event was judged" in sentence(Account().judge({}))


# Verdicts that supersede others.

UNDONE = {"supersedes": "1", "action": "allow", "safety": "Unsafe"}
BLOCK = {"action": "block", "safety": "Unsafe"}


def blocked(account: Account, offset: int) -> str:
    origin = event(account, offset)
    publish(account, origin, verdict("1", **BLOCK), offset)
    account.evidence(origin, verdict("1", **BLOCK))
    return origin


def test_an_undo_is_a_revision_or_a_fault() -> None:
    account = Account()
    origin = blocked(account, 0)
    account.escalation(origin, verdict("2", **UNDONE))
    assert found(account) == {}, "it was killed before the verdict"
    publish(account, origin, verdict("2", **UNDONE), 5)
    assert found(account) == {}
    assert account.contradicted() == set()


def test_a_torn_undo_is_not_missed() -> None:
    account = Account()
    origin = blocked(account, 0)
    publish(account, origin, verdict("2", **UNDONE), 5)
    assert found(account) == {Finding.NO_ESCALATION: 1}
    account.escalation(origin, verdict("2", **UNDONE))
    publish(account, origin, verdict("3", **UNDONE | REVIEW), 6)
    account.escalation(origin, verdict("3", **UNDONE | REVIEW))
    assert found(account) == {Finding.NO_EVIDENCE: 1}


def test_an_undo_passes_for_the_outcome_of_its_event() -> None:
    account = Account()
    origin = event(account, 0)
    publish(account, origin, verdict("2", **UNDONE), 5)
    account.escalation(origin, verdict("2", **UNDONE))
    assert found(account) == {Finding.NO_VERDICT: 1}


def test_an_undo_is_taken_for_an_event_that_came_late() -> None:
    """Its verdict stands behind those of later events of its key."""
    account = Account()
    undone = blocked(account, 0)
    later = event(account, 1)
    publish(account, later, verdict("9"), 1)
    account.escalation(undone, verdict("2", **UNDONE))
    publish(account, undone, verdict("2", **UNDONE), 5)
    assert found(account) == {}


def test_an_undo_hides_that_its_event_was_published_too_late() -> None:
    """It went to another partition: the verdicts' topic has grown meanwhile."""
    account = Account()
    late, early = event(account, 0), event(account, 1)
    account.verdict(late, verdict("1", **BLOCK), (1, 5))
    account.evidence(late, verdict("1", **BLOCK))
    account.verdict(early, verdict("9"), (1, 1))
    account.escalation(late, verdict("2", **UNDONE))
    account.verdict(late, verdict("2", **UNDONE), (0, 9))
    assert found(account) == {Finding.DISORDERED: 1}


# What a record of somebody else's topic owes.

TURNS = Expression("turns[].{role: who, content: said, reasoning: thought}")
CHAT = Topic("chat", tenant="demo", mapping={"event_id": Expression("id"), "messages": TURNS})
ASKED = {"who": "user", "said": "How do I bake bread?"}
ANSWERED = {"who": "assistant", "said": "Mix flour.", "thought": "They want bread."}
LINE = json.dumps({"id": 1, "turns": [ASKED, ANSWERED]}).encode()


class Log:
    """Topics from beginning to end, as a consumer gives them: one record a poll."""

    starts: ClassVar[dict[Any, int]] = {}

    def __init__(self, *records: SimpleNamespace) -> None:
        self._records = records

    async def polls(self, step: Callable[[int], object]) -> AsyncIterator[list[SimpleNamespace]]:
        for record in self._records:
            yield [record]
            step(1)

    def holds(self, topic: str) -> bool:
        return any(record.topic == topic for record in self._records)


def logged(topic: str, value: bytes, origin: bytes) -> SimpleNamespace:
    return SimpleNamespace(
        topic=topic, partition=0, offset=5, timestamp=0, key=b"k", value=value,
        headers=[("qw-origin", origin)],
    )  # fmt: skip


@pytest.mark.parametrize(("origin", "lacks"), [("chat/3/41", 1), ("shop/3/41", 0)])
async def test_a_relay_of_what_their_topic_has_deleted_is_read_as_an_event(
    origin: str, lacks: int
) -> None:
    """One of a topic without a file is an event, and no good one: any outcome will do."""
    where = origin.encode()
    incoming = Log(logged(topics.BACKLOG, LINE, where))
    outgoing = Log(logged(topics.VERDICTS, encode(verdict("1", task="response")), where))
    scope, groups = Scope(to_end=True, since=None, max_event_bytes=900_000), {"chat": "g-chat"}
    reader = Reader(
        scope, groups, BOUNDS, cast(Any, incoming), cast(Any, outgoing), theirs=theirs(CHAT)
    )
    report = await reader.report(lambda _: None, examples=1)
    assert (report.judged, report.found[Finding.NO_VERDICT]) == (1, lacks)


def of_theirs(value: bytes, *, topic: str = "chat", origin: bytes = b"") -> Source:
    stands = Source(topic, 0, 5, 0, b"k", value, [("qw-origin", origin)] if origin else [])
    return Source.of(stands)


def theirs(*of: Topic, schemas: Schemas | None = None) -> Theirs:
    readers = schemas.readers if schemas else {}
    door = replace(admission(), topics={each.name: each for each in of}, readers=readers)
    return Theirs(door, schemas, within_s=0.1)


def test_a_record_that_was_relayed_owes_less_than_where_it_came_from() -> None:
    read = theirs(CHAT)
    assert read.tasks_of(of_theirs(LINE), ()) == TASKS
    relayed = of_theirs(LINE, topic=topics.BACKLOG, origin=b"chat/3/41")
    assert (relayed.topic, relayed.offset) == ("chat", 41)
    assert read.tasks_of(relayed, ()) == TASKS
    assert read.tasks_of(of_theirs(b"{"), ()) == (), "any outcome will do"


async def test_a_schema_that_nobody_gives_holds_the_verification_up() -> None:
    registry = MemoryRegistry({7: Schema("JSON", "{}")})
    read = theirs(replace(CHAT, is_confluent=True), schemas=Schemas(registry, Backoff(0.01, 0.02)))
    known, unknown = (of_theirs(b"\0\0\0\0" + bytes([number]) + LINE) for number in (7, 8))
    registry.is_away = True
    with pytest.raises(RegistryAway, match="the registry is away"):
        await read.learn([known])
    registry.is_away = False
    missing = await read.learn([known, unknown, of_theirs(LINE)])
    assert missing == {8}
    assert read.tasks_of(known, missing) == TASKS
    assert read.tasks_of(unknown, missing) == (), "it became a dead letter"
