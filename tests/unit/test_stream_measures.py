"""Hand-made rows whose flags stand where they were put: ahead, in the sentence, late, missed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwarden.guard.answer import Safety, Triple
from qwarden.guard.conversation import Task
from qwarden.guard.debounce import Consecutive, Latch, Rule, Threshold
from qwarden.guard.stream import Scored
from qwarden.offline.eval.outcomes import Mode
from qwarden.offline.eval.stream_choice import (
    Text,
    Trade,
    binomial_interval,
    choice_of,
    safe_texts_needed,
    text_of,
    trades_of,
)
from qwarden.offline.eval.stream_measures import (
    AHEAD,
    BINS,
    HIT,
    MISSED,
    Debounce,
    Flag,
    bin_of,
    detection_of,
    flag_of,
    latency_of,
    recall_after,
    tokens_after,
    tokens_of_span,
)
from qwarden.offline.eval.stream_published import PUBLISHED

SAFE, CONTROVERSIAL, UNSAFE = Safety.SAFE, Safety.CONTROVERSIAL, Safety.UNSAFE
LOGITS: dict[str, Triple] = {"s": (4.0, 0.0, 0.0), "c": (0.0, 4.0, 0.0), "u": (0.0, 0.0, 4.0)}


def tokens(word: str, task: Task = Task.RESPONSE) -> list[Scored]:
    """A token of two characters for each letter: s, c, u."""
    return [
        Scored(task, 2 * place, 2 * place + 2, LOGITS[letter]) for place, letter in enumerate(word)
    ]


def flag(debounce: Debounce, answer: str, thought: str = "") -> Flag:
    return flag_of(
        debounce,
        {Task.THINKING: tokens(thought, Task.THINKING), Task.RESPONSE: tokens(answer)},
    )


@pytest.mark.parametrize(
    ("answer", "report", "script"),
    [
        ("ssss", (None, None), (None, None)),
        ("susus", (None, None), (None, None)),
        ("ssuuss", (3, 3), (3, 3)),
        ("sscc", (3, None), (3, None)),
        # A mixed pair counts in the report, with its second token's word, and not in the script.
        ("sscus", (3, 3), (None, None)),
        ("ssucs", (3, None), (None, None)),
        ("sucuus", (2, 4), (4, 4)),
        # An Unsafe pair goes before a Controversial one that came first, in the script alone.
        ("ccssuu", (1, 5), (5, 5)),
        ("u", (None, None), (None, None)),
        ("", (None, None), (None, None)),
    ],
)
def test_a_rule_flags_another_token_than_its_own(
    answer: str, report: tuple[int | None, int | None], script: tuple[int | None, int | None]
) -> None:
    assert flag(Debounce.REPORT, answer) == Flag(*report)
    assert flag(Debounce.SCRIPT, answer) == Flag(*script)
    assert flag(Debounce.DEFAULT, answer) == Flag(*report)


def test_a_thought_and_its_answer_are_flagged_together_where_they_are_texts_of_their_own() -> None:
    # The last token of the thought and the first of the answer are a pair only for the script,
    # which reads them as one text.
    assert flag(Debounce.REPORT, "us", thought="sssu") == Flag(4, 4)
    assert flag(Debounce.SCRIPT, "us", thought="sssu") == Flag(4, 4)
    assert flag(Debounce.DEFAULT, "us", thought="sssu") == Flag(None, None)
    assert flag(Debounce.DEFAULT, "suu", thought="ssuus") == Flag(7, 7)
    assert flag(Debounce.DEFAULT, "suu", thought="u" * 8) == Flag(7, 7)


def test_strict_and_loose_are_swapped_as_the_published_script_prints_them() -> None:
    labels = [UNSAFE, UNSAFE, SAFE, SAFE]
    flags = [flag(Debounce.SCRIPT, word) for word in ("suu", "scc", "scc", "sss")]
    strict = detection_of(labels, flags, Mode.STRICT)
    loose = detection_of(labels, flags, Mode.LOOSE)
    assert (strict.hits, strict.false_alarms, strict.misses, strict.rest) == (2, 1, 0, 1)
    assert (loose.hits, loose.false_alarms, loose.misses, loose.rest) == (1, 0, 1, 2)
    assert strict.recall == 1
    assert loose.precision == 1


def test_published_modes_are_swapped() -> None:
    """Where all rows are Unsafe, to flag more is to find more, so strict is the better one."""
    for name in ("thinking_loc", "response_loc"):
        of_4b = PUBLISHED[name].strict_f1[1], PUBLISHED[name].loose_f1[1]
        assert None not in of_4b
        assert of_4b[0] > of_4b[1]  # type: ignore[operator]
    for published in PUBLISHED.values():
        for place, bins in enumerate(published.bins):
            if bins:
                shares = [each / sum(bins) for each in bins]
                assert published.hit[place] == pytest.approx(shares[1], abs=6e-4)
                assert published.soon[place] == pytest.approx(sum(shares[:5]), abs=6e-4)


@pytest.mark.parametrize(
    ("at", "after", "name"),
    [
        (4, -6, AHEAD),
        (9, -1, AHEAD),
        (10, 0, HIT),
        (20, 0, HIT),
        (21, 1, "1 to 32 after"),
        (52, 32, "1 to 32 after"),
        (53, 33, "33 to 64 after"),
        (84, 64, "33 to 64 after"),
        (85, 65, "65 to 128 after"),
        (148, 128, "65 to 128 after"),
        (149, 129, "129 to 256 after"),
        (276, 256, "129 to 256 after"),
        (277, 257, "over 256 after"),
        (None, None, MISSED),
    ],
)
def test_a_flag_falls_into_another_bin(at: int | None, after: int | None, name: str) -> None:
    assert tokens_after(at, 10, 20) == after
    assert bin_of(after) == name


def test_a_flag_ahead_of_the_sentence_counts_as_in_time() -> None:
    latency = latency_of([-3, 0, 0, 40, 128, 129, None, None])
    assert latency.bins == dict(zip(BINS, (1, 2, 0, 1, 1, 1, 0, 2), strict=True))
    assert (latency.ahead, latency.hit, latency.missed) == (1 / 8, 2 / 8, 2 / 8)
    assert latency.soon == 5 / 8, "the report counts those ahead"
    assert latency.in_time == 4 / 8
    assert latency_of([]).hit is None


@pytest.mark.parametrize(
    ("start", "end", "found"),
    [
        (4, 8, (2, 3)),
        (5, 7, (2, 3)),
        (4, 6, (2, 2)),
        (0, 1, (0, 0)),
        # Over the end of the thought, which has eight characters, into the answer.
        (7, 9, (3, 4)),
        (10, 12, (5, 5)),
        # Behind the last token: the context was full.
        (30, 40, (6, 6)),
    ],
)
def test_a_span_has_other_tokens_than_those_that_cover_it(
    start: int, end: int, found: tuple[int, int]
) -> None:
    scored = {Task.THINKING: tokens("ssss", Task.THINKING), Task.RESPONSE: tokens("ss")}
    assert tokens_of_span(scored, start, end, 8) == found


def test_the_curve_of_recall_forgets_rows_that_are_missed() -> None:
    assert recall_after([None, 3, -2, 3, None]) == [(-2, 0.2), (3, 0.6)]
    assert recall_after([None]) == []


# Choosing a rule.


def test_a_rule_over_the_budget_is_chosen() -> None:
    safe = [("s" * 20, SAFE)] * 97 + [("s" * 10 + "u" * 3 + "s" * 7, SAFE)] * 3
    unsafe = [("s" * 5 + "u" * 5 + "s" * 10, UNSAFE)] * 40 + [("s" * 18 + "uu", UNSAFE)] * 10
    texts = [
        text_of(f"{place}", label, tokens(word))
        for place, (word, label) in enumerate([*safe, *unsafe])
    ]
    tight = choice_of(Task.RESPONSE, texts, 0.01)
    assert tight.chosen is not None
    assert tight.chosen.rule == Consecutive(4)
    assert (tight.chosen.false_alarms, tight.chosen.found) == (0, 40)
    assert tight.chosen.median == 9
    assert tight.default.rule == Consecutive(2)
    assert (tight.default.false_alarms, tight.default.found) == (3, 50)
    wide = choice_of(Task.RESPONSE, texts, 0.03)
    assert wide.chosen is not None
    assert wide.chosen.rule == Consecutive(1), "of equal ones the soonest"
    assert [each.found for each in wide.frontier] == [40, 50]
    with pytest.raises(ValueError, match="has 0 and 50"):
        choice_of(Task.RESPONSE, texts[100:], 0.01)


def test_nothing_within_the_budget_is_called_a_choice() -> None:
    texts = [text_of(str(place), SAFE, tokens("u" * 200)) for place in range(10)]
    texts += [text_of("x", UNSAFE, tokens("u"))]
    found = choice_of(Task.THINKING, texts, 0.01)
    assert found.chosen is None
    assert found.interval is None


words = st.text("scu", max_size=30)


@pytest.mark.long
@given(st.lists(st.tuples(words, st.booleans()), min_size=1, max_size=6))
def test_a_trade_counts_other_flags_than_a_latch_raises(rows: list[tuple[str, bool]]) -> None:
    for task in (Task.THINKING, Task.RESPONSE):
        texts = [
            text_of(str(place), UNSAFE if bad else SAFE, tokens(word))
            for place, (word, bad) in enumerate(rows)
        ]
        for trade in trades_of(task, texts):
            flagged = [_is_flagged(trade.rule, tokens(word)) for word, _ in rows]
            bad = [unsafe for _, unsafe in rows]
            assert trade.found == sum(f and b for f, b in zip(flagged, bad, strict=True))
            assert trade.false_alarms == sum(f and not b for f, b in zip(flagged, bad, strict=True))


def _is_flagged(rule: Rule, scored: Sequence[Scored]) -> bool:
    latch = Latch(rule)
    for each in scored:
        latch.see(each)
    return latch.raised is not None


def test_a_threshold_is_read_from_the_likeliest_word() -> None:
    # Safe is the likeliest of the three, and still P(not Safe) is over a half.
    near: Triple = (1.0, 0.8, 0.8)
    scored = [Scored(Task.THINKING, place, place + 1, near) for place in range(3)]
    found = {
        trade.rule: trade.found
        for trade in trades_of(Task.THINKING, [text_of("a", UNSAFE, scored)])
    }
    assert found[Threshold(0.6, 3)] == 1
    assert found[Threshold(0.6, 4)] == 0
    assert found[Threshold(0.7, 1)] == 0
    assert trades_of(Task.RESPONSE, [text_of("a", UNSAFE, scored)])[0].found == 0


def test_few_rows_are_sure_of_a_small_share() -> None:
    assert binomial_interval(0, 100) == pytest.approx((0, 1 - 0.025 ** (1 / 100)), abs=1e-9)
    low, high = binomial_interval(5, 490)
    assert (low, high) == pytest.approx((0.00332, 0.02365), abs=2e-5)
    assert binomial_interval(7, 7)[1] == 1
    assert safe_texts_needed(0.01) == 299


def test_halves_are_measured_on_the_rows_that_they_were_chosen_on() -> None:
    """A rule that only fits the rows that it was chosen on must find less of the others."""
    made = np.random.default_rng(5)
    texts = [
        Text(str(place), place % 2 == 0, noise := made.random(300), noise > 0.5)
        for place in range(60)
    ]
    found = choice_of(Task.THINKING, texts, 0.1)
    assert found.chosen is not None
    held = found.held_out
    assert isinstance(held, Trade)
    assert (held.safe, held.unsafe) == (30, 30)
    assert held.found < found.chosen.found
