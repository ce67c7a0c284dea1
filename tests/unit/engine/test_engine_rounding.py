"""The bound under which a row is judged once more, from what a batch is seen to move."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from qwarden.guard.answer import Answer, Assessment, Safety
from qwarden_engine import layers, model
from qwarden_engine.gen import Gen
from unit.engine.checkpoints import conversations, engine, tiny
from unit.engine.split import Split


def _said(answer: Answer) -> tuple[Safety, list[str], bool | None]:
    assert isinstance(answer, Assessment)
    return answer.safety, [name for name, _ in answer.categories], answer.refusal


# In int8 the stand-in took nine times as long here as in float32.
@pytest.mark.parametrize(
    ("dtype", "start"), [("float32", engine), ("bfloat16", engine), ("int8", tiny)]
)
def test_rows_are_judged_again_where_no_batch_moves_any(
    dtype: str, start: Callable[..., Gen]
) -> None:
    gen = start(dtype=dtype)
    assert gen._scheduler._bound == 0
    gen.judge([each.to_json() for each in conversations()[::5]])
    assert gen.counts.near_ties == 0
    gen.close()


def test_a_batch_that_moves_logits_is_taken_for_one_that_does_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for module in (layers, model):
        monkeypatch.setattr(module, "linear", Split)
    gen = tiny(dtype="bfloat16", token_budget=1024)
    some = [each.to_json() for each in conversations()[::2]]
    alone = [_said(gen.judge([row])[0]) for row in some]
    assert gen._scheduler._bound > 0
    assert [_said(answer) for answer in gen.judge(some)] == alone
    gen.close()
