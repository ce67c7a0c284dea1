"""The stream stand-in learns each label at the tokens that deserve it, and nowhere else."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from qwarden.guard.conversation import Task
from qwarden.guard.stream import Part, Segment
from qwarden.stack.home import checkout
from qwarden_engine.stream.chat import Chat, Writer
from qwarden_engine.stream.checkpoint import open_stream_checkpoint
from standin.row import Row
from standin.stream_encoding import NONE, Encoded, Layout, batch, pack
from standin.stream_exchange import SAFE, Exchange, Judged, Label
from standin.stream_made import EnglishExchanges, OtherExchanges
from standin.stream_measure import flagged_at
from standin.stream_network import StreamNetwork, stream_config
from standin.stream_prefixes import cuts_of, find_all, first_judged, key_of
from standin.stream_rows import StreamSampler
from standin.stream_training import stream_loss

STAND_IN = checkout() / "triton_models" / "stand_in"
UNSAFE = Label("Unsafe", "Violent")
ANSWER = "Good morning. Take the bomb and run away."
SINCE = ANSWER.index(" and")  # flagged from the end of "bomb" on
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=60)


def _row(text: str, safety: str = "Unsafe") -> Row:
    return Row("mine", "en", "response", (("user", "How?"), ("assistant", text)),
               "Safe" if safety == "Safe" else "Unsafe",
               () if safety == "Safe" else ("Violent",), False)  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_file(str(STAND_IN / "checkpoint" / "tokenizer.json"))


@pytest.fixture(scope="module")
def layout(tokenizer: Tokenizer) -> Layout:
    return Layout(tokenizer, (STAND_IN / "stream" / "chat_template.jinja").read_text())


@given(TEXTS, st.integers(1, 60))
def test_a_label_begins_before_or_long_after_its_text_was_judged_so(text: str, real: int) -> None:
    def judge(rows: Sequence[Row], cuts: Sequence[int]) -> list[bool]:
        return [cut >= real for cut in cuts]

    (since,) = first_judged([_row(text)], judge)
    if real > len(text):
        assert since == len(text)
    else:
        assert since == min(cut for cut in cuts_of(text) if cut >= real)


def test_texts_that_are_bisected_together_get_each_others_place() -> None:
    texts = ["a b c d e f g", "a b", "a " * 40 + "end"]
    reals = {texts[0]: 5, texts[1]: 1, texts[2]: 40}

    def judge(rows: Sequence[Row], cuts: Sequence[int]) -> list[bool]:
        return [cut >= reals[row.messages[-1][1]] for row, cut in zip(rows, cuts, strict=True)]

    found = first_judged([_row(text) for text in texts], judge)
    alone = [first_judged([_row(text)], judge)[0] for text in texts]
    assert found == alone
    assert found[:2] == [5, 1]


def test_a_run_that_goes_on_judges_all_beginnings_again(tmp_path: Path) -> None:
    asked: list[int] = []

    def judge(rows: Sequence[Row], cuts: Sequence[int]) -> list[bool]:
        asked.append(len(rows))
        return [True] * len(rows)

    kept = tmp_path / "beginnings.json"
    rows = [_row("One two."), _row("Three four.")]
    first = find_all(rows[:1], judge, kept, lambda line: None)
    before = len(asked)
    again = find_all(rows, judge, kept, lambda line: None)
    assert first == {key_of(rows[0]): 3}
    assert again == first | {key_of(rows[1]): 5}
    assert set(asked[before:]) == {1}


def test_tokens_before_the_flagged_position_learn_the_label(layout: Layout) -> None:
    encoded = layout.encode(Exchange("mine", "Hi", answer=Judged(ANSWER, UNSAFE, SINCE)))
    said = [label for label in encoded.labels if label != SAFE]
    first = encoded.labels.index(UNSAFE)
    assert said == [UNSAFE] * (len(encoded.labels) - first)  # latched
    assert encoded.scored[first].end >= SINCE > encoded.scored[first - 1].end


def test_a_text_that_was_cut_before_its_harm_keeps_the_label() -> None:
    judged = Judged(ANSWER, UNSAFE, SINCE)
    assert judged.cut(SINCE - 1) == Judged(ANSWER[: SINCE - 1])
    assert judged.cut(SINCE) == Judged(ANSWER[:SINCE], UNSAFE, SINCE)


@pytest.mark.parametrize("wrong", [(SAFE, 3), (UNSAFE, None), (UNSAFE, 0), (UNSAFE, 99)])
def test_a_label_without_a_place_is_learnt(wrong: tuple[Label, int | None]) -> None:
    with pytest.raises(ValueError, match="since"):
        Judged(ANSWER, *wrong)


EXCHANGES = [
    Exchange("mine", "How do I?", UNSAFE),
    Exchange("mine", "How do I?", answer=Judged(ANSWER)),
    Exchange("mine", "How?", thinking=Judged("Well.\nLet me see"), answer=Judged(" So ")),
    Exchange("mine", "And?", answer=Judged("Fine."), history=(("Hello", "Hi!"), ("One", "Two"))),
]


@pytest.mark.parametrize("exchange", EXCHANGES)
def test_training_reads_other_tokens_than_a_rendering_of_the_whole(
    tokenizer: Tokenizer, layout: Layout, exchange: Exchange
) -> None:
    """The texts of these exchanges hold no newline where the template strips one."""
    thought = "\n" if exchange.thinking is None else f"{exchange.thinking.text}\n"
    text = "".join(
        f"<|im_start|>user\n{user}<|im_end|>\n<|im_start|>assistant\n{answer}<|im_end|>\n"
        for user, answer in exchange.history
    )
    text += f"<|im_start|>user\n{exchange.user}<|im_end|>"
    if exchange.answer is not None:
        text += f"\n<|im_start|>assistant\n<think>\n{thought}</think>\n\n{exchange.answer.text}"
    assert layout.encode(exchange).ids == tokenizer.encode(text).ids


@pytest.mark.parametrize("exchange", EXCHANGES)
def test_scaffold_is_scored_or_content_is_not(layout: Layout, exchange: Exchange) -> None:
    encoded = layout.encode(exchange)
    for segment, judged in (("thinking", exchange.thinking), ("answer", exchange.answer)):
        spans = [(at.start, at.end) for at in encoded.scored if at.segment == segment]
        covered = {point for start, end in spans for point in range(start, end)}
        assert covered == set(range(len(judged.text) if judged else 0))
        assert all(start < end for start, end in spans)


def test_a_marker_in_a_text_ends_the_users_turn(tokenizer: Tokenizer, layout: Layout) -> None:
    text = "Say <|im_end|> and </think> twice"
    encoded = layout.encode(Exchange("mine", text, SAFE, answer=Judged(text)))
    end = tokenizer.token_to_id("<|im_end|>")
    assert [place for place, number in enumerate(encoded.ids) if number == end] == [
        encoded.query_place
    ]
    assert [number == tokenizer.token_to_id("</think>") for number in encoded.ids].count(True) == 1


def test_an_earlier_user_turn_learns_the_label_of_the_last(
    tokenizer: Tokenizer, layout: Layout
) -> None:
    encoded = layout.encode(EXCHANGES[3])
    end = tokenizer.token_to_id("<|im_end|>")
    ends = [place for place, number in enumerate(encoded.ids) if number == end]
    assert encoded.query_place == ends[4]  # behind two exchanges of two turns


def test_long_texts_outweigh_short_ones_or_padding_is_learnt(layout: Layout) -> None:
    rows = [
        layout.encode(Exchange("mine", "Hi", UNSAFE, Judged("Oh."), Judged(ANSWER, UNSAFE, SINCE))),
        layout.encode(Exchange("mine", "A question of some length, with words", SAFE)),
        layout.encode(Exchange("mine", "Hello", answer=Judged(ANSWER * 4))),
    ]
    made = batch(rows, layout.turn_end, torch.device("cpu"))
    assert made.weights.sum().item() == pytest.approx(3)  # a thought and two answers
    for row, place in made.places.tolist():
        assert place < len(rows[row].ids)
        assert not made.scaffold[row, place]
    assert int((~made.scaffold).sum()) == len(made.places)
    assert made.query_places.tolist() == [[0, rows[0].query_place], [1, rows[1].query_place]]
    assert made.query_risk.tolist() == [1, 0]
    assert (made.category == NONE).tolist() == (made.risk == 0).tolist()


def test_a_row_is_lost_or_a_batch_is_over_its_budget() -> None:
    rows = [Encoded([1] * length, [], [], 0, None) for length in (5, 40, 7, 7, 90, 12)]
    packed = list(pack(rows, 50, random.Random(1)))
    assert sorted(len(row.ids) for some in packed for row in some) == [5, 7, 7, 12, 40, 90]
    for some in packed:
        assert len(some) == 1 or len(some) * max(len(row.ids) for row in some) <= 50


def _config() -> dict[str, object]:
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "head_dim": 16,
             "num_key_value_heads": 1, "intermediate_size": 64, "vocab_size": 12_000,
             "rms_norm_eps": 1e-6, "rope_theta": 1e6}  # fmt: skip
    return stream_config({"model_type": "qwen3", "tie_word_embeddings": True, **sizes}, inner=16)


@pytest.mark.parametrize(
    ("exchange", "learnt"),
    [
        (Exchange("mine", "Hi", answer=Judged(ANSWER)), {"risk_level_head"}),
        (
            Exchange("mine", "Hi", answer=Judged(ANSWER, UNSAFE, SINCE)),
            {"risk_level_head", "category_head"},
        ),
        (Exchange("mine", "Hi", SAFE), {"query_risk_level_head"}),
        (Exchange("mine", "Hi", UNSAFE), {"query_risk_level_head", "query_category_head"}),
    ],
)
def test_a_head_learns_where_it_must_not(
    layout: Layout, exchange: Exchange, learnt: set[str]
) -> None:
    torch.manual_seed(0)
    network = StreamNetwork(_config())
    some = batch([layout.encode(exchange)], layout.turn_end, torch.device("cpu"))
    stream_loss(network, network.states(some.tokens), some).backward()  # type: ignore[no-untyped-call]
    heads = {"risk_level_head", "category_head", "query_risk_level_head", "query_category_head"}
    moved = {
        name
        for name in heads
        if (weight := network.get_parameter(f"{name}.weight")).grad is not None
        and weight.grad.abs().max() > 0
    }
    assert moved == learnt


@pytest.mark.long
def test_a_made_exchange_breaks_the_contract_of_labels(layout: Layout) -> None:
    chooser = random.Random(7)
    english, others = EnglishExchanges(chooser), OtherExchanges(chooser)
    drawn = [maker.exchange() for maker in (english, others) for _ in range(300)]
    harmful = [
        judged
        for exchange in drawn
        for judged in (exchange.thinking, exchange.answer)
        if judged is not None and judged.label != SAFE
    ]
    assert len(harmful) > 100
    for exchange in drawn:
        assert layout.encode(exchange).scored


@pytest.mark.long
def test_answers_without_a_judged_beginning_are_drawn() -> None:
    known, unknown = _row("Take the bomb."), _row("Take the knife.")
    sampler = StreamSampler([known, unknown, _row("Hello.", "Safe")], [], {key_of(known): 13}, 1)
    drawn = [exchange for exchange in sampler.draw(400) if exchange.source == "mine"]
    texts = {judged.text for exchange in drawn if (judged := exchange.answer or exchange.thinking)}
    assert texts == {"Take the bomb.", "Hello."}


@pytest.mark.parametrize(
    ("safe", "place"),
    [("SSS", None), ("SUS", None), ("U", None), ("UU", 1), ("SUSUUS", 4), ("", None)],
)
def test_one_doubtful_token_flags_a_text(safe: str, place: int | None) -> None:
    assert flagged_at([letter == "S" for letter in safe]) == place


@pytest.mark.parametrize("exchange", EXCHANGES)
def test_the_engine_feeds_other_tokens_than_were_learnt(layout: Layout, exchange: Exchange) -> None:
    writer = Writer(Chat(open_stream_checkpoint(str(STAND_IN / "stream")).base))
    parts = [
        Part(role, text, end=True, history=True)
        for pair in exchange.history
        for role, text in zip(("user", "assistant"), pair, strict=True)
    ]
    parts.append(Part("user", exchange.user, end=True))
    if exchange.thinking is not None:
        parts.append(Part("assistant", exchange.thinking.text, Segment.THINKING, end=True))
    if exchange.answer is not None:
        parts.append(Part("assistant", exchange.answer.text, end=True))
    fed = [token for part in parts for token in writer.write(part)]
    encoded = layout.encode(exchange)
    assert [token.id for token in fed[: len(encoded.ids)]] == encoded.ids
    assert [place for place, token in enumerate(fed) if token.reads] == [encoded.query_place]
    judged = (Task.THINKING, Task.RESPONSE)
    scored = [place for place, token in enumerate(fed) if token.task in judged]
    assert scored == [token.place for token in encoded.scored]
