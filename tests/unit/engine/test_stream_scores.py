from __future__ import annotations

import json

import pytest
import torch

from qwarden.guard.conversation import Task
from qwarden.guard.stream import Scored
from qwarden_engine.stream.scores import Scores, numbers_of

NAMES = ("Violent", "PII", "Jailbreak")


def scores(risk: list[float], category: list[float]) -> Scores:
    return Scores(numbers_of(torch.tensor([risk])), numbers_of(torch.tensor([category])), NAMES)


def test_a_tie_with_a_worse_word_is_safe_without_a_category() -> None:
    """`Scored.safety` calls it not Safe, and then there is a category."""
    for risk in ([1.0, 1.0, 0.0], [1.0, 0.0, 1.0], [0.0, 1.0, 0.5], [1.0, 0.999999, 1.000001]):
        logits, categories = scores(risk, [0.0, 0.0, 0.0]).at(0)
        assert Scored(Task.PROMPT, 0, 1, logits).safety != "Safe"
        assert categories
    logits, categories = scores([1.0, 0.99, 0.99], [0.0, 9.0, 0.0]).at(0)
    assert Scored(Task.PROMPT, 0, 1, logits).safety == "Safe"
    assert categories == ()


def test_categories_are_out_of_order_or_all_of_them() -> None:
    _, categories = scores([0.0, 1.0, 0.0], [1.0, 3.0, -9.0]).at(0)
    assert [name for name, _ in categories] == ["PII", "Violent"]
    assert [share for _, share in categories] == pytest.approx([0.8808, 0.1192], abs=1e-4)


def test_numbers_travel_with_digits_that_say_nothing() -> None:
    logits, _ = scores([1 / 3, 2 / 3, -100 / 7], [0.0, 0.0, 0.0]).at(0)
    assert json.dumps(logits) == "[0.33333, 0.66667, -14.28571]"


def test_what_is_no_number_is_called_one() -> None:
    nan = float("nan")
    for risk, category in (([nan, 0, 0], [0.0, 0, 0]), ([0.0, 0, 0], [0.0, float("inf"), 0])):
        made = scores([float(each) for each in risk], [float(each) for each in category])
        assert not made.finite(0, 1)
        assert made.finite(0, 0)
    assert scores([0.0, 1.0, 2.0], [0.0, 1.0, 2.0]).finite(0, 1)
