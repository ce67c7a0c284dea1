"""Sessions through the scheduler, over a network that notices every token that is not its own."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from qwarden.guard.stream import Append, Appended, Part, Segment, Status
from qwarden_engine.checkpoint import open_checkpoint
from qwarden_engine.conviction import LEDGER, Ledger
from qwarden_engine.stream.chat import Chat, Fed, Writer
from qwarden_engine.stream.intake import BLOCKS
from qwarden_engine.stream.jobs import Request, name_of
from qwarden_engine.stream.network import StreamSpan
from unit.engine.checkpoints import STAND_IN
from unit.engine.stream_checkpoint import TEMPLATE
from unit.engine.stream_fakes import (
    CONTEXT,
    Client,
    Opened,
    expected,
    fed_of,
    opened,
    request_of,
    told,
)

WORDS = (
    "safe",
    "as",
    "a",
    "house",
    "\n",
    "don't",
    "wait",
    "a\u0301",
    "界",
    "👍🏽",
    "12",
    " ",
    "...",
)


@cache
def chat() -> Chat:
    return Chat(replace(open_checkpoint(str(STAND_IN)), template=TEMPLATE))


@pytest.fixture
def engine() -> Iterator[Opened]:
    made = opened(chat())
    yield made
    made.scheduler.close()
    assert made.network.fault == ""


def text_of(chooser: random.Random, words: int) -> str:
    return " ".join(chooser.choices(WORDS, k=words))


def exchange(seed: int, words: int = 40) -> list[Part]:
    """A whole session: perhaps with history, perhaps with a thought."""
    chooser = random.Random(seed)

    def text() -> str:
        return text_of(chooser, chooser.randint(1, words))

    parts = []
    if chooser.random() < 0.3:
        parts += [Part("user", text(), end=True, history=True)]
        parts += [Part("assistant", text(), end=True, history=True)]
    parts += [Part("user", text(), end=True)]
    if chooser.random() < 0.5:
        parts += [Part("assistant", text(), Segment.THINKING, end=chooser.random() < 0.5)]
    return [*parts, Part("assistant", text(), end=True)]


def pieces(parts: Sequence[Part], chooser: random.Random, longest: int) -> list[Part]:
    """The same in pieces."""
    cut = []
    for part in parts:
        at = 0
        while True:
            end = at + chooser.randint(1, longest)
            last = end >= len(part.text)
            cut.append(
                Part(
                    part.role,
                    part.text[at:end],
                    part.segment,
                    end=part.end and last,
                    history=part.history,
                )
            )
            if last:
                break
            at = end
    return cut


def user(text: str = "How are you?", end: bool = True) -> Part:
    return Part("user", text, end=end)


def answer(text: str, end: bool = False) -> Part:
    return Part("assistant", text, end=end)


def test_pieces_or_neighbours_change_what_is_said(engine: Opened) -> None:
    def session(seed: int) -> None:
        chooser = random.Random(seed)
        parts = exchange(seed)
        client = Client(str(seed))
        rest = pieces(parts, chooser, chooser.choice([1, 3, 16, 999]))
        while rest:
            count = chooser.randint(1, 3)
            client.send(lambda append: engine.ask(append)[0], *rest[:count])
            rest = rest[count:]
        assert told(client.scored) == expected(chat(), parts)
        assert client.replays == client.full == 0

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(session, range(40)))
    assert max(len(step) for step in engine.network.steps) > 1, "sessions were joined"
    assert engine.scheduler.gauges()["sessions"] == 0, "what has ended is not kept"


def test_memory_that_is_too_small_changes_what_is_said() -> None:
    engine = opened(chat(), tokens=11 * 128, silent_s=0.05)
    refused = threading.Event()

    def before(spans: Sequence[StreamSpan]) -> None:
        # There is room for nine to begin, and none of them is silent before its first step.
        assert refused.wait(60), "all twelve have begun"

    engine.network.before = before

    def ask(append: Append) -> Appended:
        [said] = engine.ask(append)
        if said.status is Status.FULL:
            refused.set()
        return said

    def session(seed: int) -> Client:
        chooser = random.Random(seed)
        parts = exchange(seed, words=90)
        client = Client(str(seed))
        for piece in pieces(parts, chooser, 40):
            client.send(ask, piece)
            if client.closed:
                break
        said, wanted = told(client.scored), expected(chat(), parts)
        assert said == (wanted[: len(said)] if client.closed else wanted)
        return client

    with ThreadPoolExecutor(12) as pool:
        clients = list(pool.map(session, range(24)))
    assert engine.scheduler.counts.evictions > 0
    assert sum(client.full for client in clients) > 0
    assert sum(client.replays for client in clients) > 0
    engine.scheduler.close()
    assert engine.network.fault == ""


def test_a_step_leaves_waiting_what_has_room_in_it(engine: Opened) -> None:
    """One step holds whatever came while the one before it was running."""
    hold, held = threading.Event(), threading.Event()

    def before(spans: Sequence[StreamSpan]) -> None:
        held.set()
        assert hold.wait(60)

    engine.network.before = before
    first = engine.asked(Append("t", "first", 0, (user(),)))
    assert held.wait(60)
    others = [engine.asked(Append("t", str(n), 0, (user(),))) for n in range(9)]
    hold.set()
    assert first() is not None
    assert all(said() is not None for said in others)
    assert [len(step) for step in engine.network.steps] == [1, 9]


def test_appends_of_one_session_are_taken_out_of_order(engine: Opened) -> None:
    parts = [user("What is it?"), answer("It is"), answer(" a house"), answer(" as safe", end=True)]
    offset, appends = 0, []
    for part in parts:
        appends.append(Append("t", "s", offset, (part,)))
        offset += len(part.text)
    together = [request_of(append) for append in reversed(appends)]
    engine.scheduler.submit([request for request, _ in together])
    answers = [said() for _, said in reversed(together)]
    scored = [each for said in answers if said for each in said[0].scored]
    assert [said[0].status for said in answers if said] == [Status.DONE] * 4
    assert told(scored) == expected(chat(), parts)


def test_one_session_is_taken_for_another_tenants(engine: Opened) -> None:
    ours, theirs = (Append(tenant, "s", 0, (user(tenant * 9),)) for tenant in ("ours", "theirs"))
    [mine], [other] = engine.ask(ours), engine.ask(theirs)
    assert told(mine.scored) == expected(chat(), ours.parts)
    assert told(other.scored) == expected(chat(), theirs.parts)
    [after] = engine.ask(Append("ours", "s", 4 * 9, (answer("Well", end=True),)))
    assert told(after.scored) == expected(chat(), (*ours.parts, answer("Well", end=True)))[1:]


@pytest.mark.parametrize("offset", [1, 11, 13])
def test_an_append_that_does_not_fit_is_taken(engine: Opened, offset: int) -> None:
    """It leaves the session as it is: it may be a late copy."""
    [first] = engine.ask(Append("t", "s", 0, (user("How are you?"),)))
    assert first.status is Status.DONE
    [wrong] = engine.ask(Append("t", "s", offset, (answer("Well"),)))
    assert (wrong.status, wrong.scored) == (Status.REPLAY, ())
    [right] = engine.ask(Append("t", "s", 12, (answer("Well", end=True),)))
    parts = [user("How are you?"), answer("Well", end=True)]
    assert told([*first.scored, *right.scored]) == expected(chat(), parts)


def test_scores_that_are_known_are_said_again_or_others_are_not(engine: Opened) -> None:
    thought = Part("assistant", "as a", Segment.THINKING)
    more = Part("assistant", " house", Segment.THINKING)
    # A part without text that ends nothing says nothing, also not that another text begins.
    parts = (user("Is it safe?"), thought, answer(""), more, answer("12 as"))
    whole = (*parts, answer(" safe as", end=True))
    everything = expected(chat(), whole)
    begins = {"prompt": 0, "thinking": 11, "response": 21}
    for since in range(sum(len(part.text) for part in whole) + 1):
        [said] = engine.ask(Append("t", "s", 0, whole, since=since))
        wanted = [each for each in everything if begins[each[0]] + each[2] > since]
        assert told(said.scored) == wanted
    assert engine.scheduler.counts.replayed_tokens > 0


def test_what_is_held_is_not_told(engine: Opened) -> None:
    [first] = engine.ask(Append("t", "s", 0, (user(), answer("as a hou"))))
    assert (first.status, first.held) == (Status.DONE, len(" hou"))
    [nothing] = engine.ask(Append("t", "s", 12 + 8, (answer("se"),)))
    assert (nothing.status, nothing.scored, nothing.held) == (Status.DONE, (), len(" house"))
    [last] = engine.ask(Append("t", "s", 12 + 10, (answer("", end=True),)))
    assert last.held == 0
    parts = [user(), answer("as a house", end=True)]
    assert told([*first.scored, *last.scored]) == expected(chat(), parts)


def test_the_contexts_end_loses_what_fits_or_fails(engine: Opened) -> None:
    text = "as a house " * CONTEXT
    parts = (user("a"), answer(text))
    [said, other] = engine.ask(Append("t", "s", 0, parts), Append("t", "other", 0, (user(),)))
    assert said.status is Status.CLOSED
    assert str(CONTEXT) in said.reason
    scored = told(said.scored)
    assert scored == expected(chat(), parts)[: len(scored)]
    assert len(text) - said.held == said.scored[-1].end
    assert sum(sum(step) for step in engine.network.steps) <= CONTEXT + len(
        fed_of(chat(), (user(),))
    )
    assert other.status is Status.DONE
    assert engine.scheduler.gauges()["sessions"] == 1, "nothing can follow, so nothing is kept"
    [again] = engine.ask(Append("t", "s", 1 + len(text), (answer("as"),)))
    assert again.status is Status.REPLAY


@dataclass
class Encoder:
    """A tokenizer that counts what it is given. `before` is called with each text."""

    real: Tokenizer
    points: int = 0
    before: Callable[[str], None] = lambda text: None

    @property
    def normalizer(self) -> Any:
        return self.real.normalizer

    def encode(self, text: str, *, add_special_tokens: bool) -> Any:
        self.before(text)
        self.points += len(text)
        return self.real.encode(text, add_special_tokens=add_special_tokens)


@pytest.fixture
def encoder(engine: Opened, monkeypatch: pytest.MonkeyPatch) -> Encoder:
    made = Encoder(chat().plain)
    monkeypatch.setattr(chat(), "plain", made)
    return made


LONG = {
    "marks": "\u0301\u0323" * 20_000,
    "one word": "a" * 40_000,
    "words": "as a house " * 4_000,
    "blanks that are stripped before more": "as" + "\n" * 40_000 + "as",
}


@pytest.mark.parametrize("segment", Segment)
@pytest.mark.parametrize("end", [False, True])
@pytest.mark.parametrize("text", LONG.values(), ids=LONG)
def test_what_no_context_has_room_for_is_encoded(
    engine: Opened, encoder: Encoder, text: str, end: bool, segment: Segment
) -> None:
    parts = (user("a"), Part("assistant", text, segment, end=end))
    appends = [Append("t", "s", 0, parts)]
    if not end or segment is Segment.THINKING:
        appends.append(Append("t", "s", 1 + len(text), (answer("as"),)))
    said, *late = engine.ask(*appends)
    # The stand-in's tokens have 4 code points at most, and a run is encoded up to 8 times.
    assert encoder.points < 4 * 8 * CONTEXT + 8 * 1024
    assert {each.status for each in (said, *late)} == {Status.CLOSED}
    # Of its beginning alone: what the rest is tells nothing, and takes long to encode.
    begun = (user("a"), Part("assistant", text[: 8 * CONTEXT] + text[-2:], segment, end=end))
    assert told(said.scored) == expected(chat(), begun)[: len(said.scored)]
    beyond = next(each for each in fed_of(chat(), begun)[CONTEXT:] if each.task)
    assert said.held == len(text) - beyond.start


TURNS = tuple(Part("user", "as", end=True, history=True) for _ in range(2000))
MUCH = {
    "one word": (user("a" * 5000, end=False),),
    "many turns": TURNS,
}


@pytest.mark.parametrize("parts", MUCH.values(), ids=MUCH)
def test_who_writes_a_long_text_keeps_the_others_waiting(
    engine: Opened, encoder: Encoder, parts: tuple[Part, ...]
) -> None:
    """Whether it came before them, or with them."""
    writing, goes_on = threading.Event(), threading.Event()
    before_others: list[int] = []
    texts: list[str] = []

    def before(text: str) -> None:
        if not texts:
            writing.set()
            assert goes_on.wait(60)
        if "safe" in text:
            before_others.append(len(texts))
        else:
            texts.append(text)

    encoder.before = before
    order: list[str] = []

    def request(name: str, parts: tuple[Part, ...]) -> Callable[[], list[Appended] | None]:
        made, said = request_of(Append("t", name, 0, parts))
        done = made.done

        def noted(answers: list[Appended] | None) -> None:
            order.append(name)
            done(answers)

        made.done = noted
        requests.append(made)
        return said

    requests: list[Request] = []
    of_huge = request("huge", parts)
    of_beside = request("beside", (user("safe"),))
    engine.scheduler.submit(requests)
    assert writing.wait(60)
    requests = []
    of_behind = request("behind", (user("safe"),))
    engine.scheduler.submit(requests)
    goes_on.set()
    for said in (of_beside, of_behind, of_huge):
        answers = said()
        assert answers is not None
    assert order[-1] == "huge"
    # A turn of the long text, and no more: in a block four texts are encoded at most.
    assert max(before_others) <= 4 * BLOCKS < len(texts)


def test_what_follows_a_long_text_is_written_before_its_end(engine: Opened) -> None:
    parts = [user("don't " * 60), *[answer("as a house ")] * 5]
    offset, waiting = 0, []
    for part in parts:
        waiting.append(engine.asked(Append("t", "s", offset, (part,))))
        offset += len(part.text)
    said = [each for one in waiting for each in one() or []]
    assert [each.status for each in said] == [Status.DONE] * 6
    assert told([scored for each in said for scored in each.scored]) == expected(chat(), parts)


def test_a_long_text_that_nobody_waits_for_is_written(engine: Opened, encoder: Encoder) -> None:
    texts: list[str] = []
    encoder.before = texts.append
    said = engine.asked(Append("t", "s", 0, TURNS), cancelled=lambda: bool(texts))
    assert said() is None
    assert len(texts) <= 5 * BLOCKS
    assert engine.scheduler.counts.cancelled == 1
    [after] = engine.ask(Append("t", "s", 2 * len(TURNS), (answer("x"),)))
    assert after.status is Status.REPLAY


WRONG = {
    "no JSON": b"no",
    "an empty object, by which clients ask for the revision": b"{}",
    "a role": Append("t", "w", 0, (Part("tool", "x"),)).to_json(),
    "an assistant first": Append("t", "w", 0, (answer("x"),)).to_json(),
    "a negative offset": Append("t", "w", -1, (user(),)).to_json(),
    "deep JSON": b'{"x":' + b"[" * 100_000,
    "a user behind the answer": Append("t", "w", 0, (user(), answer("x"), user())).to_json(),
}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
def test_a_wrong_append_spoils_those_beside_it(engine: Opened, wrong: bytes) -> None:
    good = Append("t", "s", 0, (user(),))
    request, said = request_of(good, good)
    request.appends[0] = wrong
    engine.scheduler.submit([request])
    answers = said()
    assert answers is not None
    assert (answers[0].status, answers[0].revision) == (Status.REFUSED, "fake@0")
    assert answers[0].reason
    assert told(answers[1].scored) == expected(chat(), good.parts)
    [after] = engine.ask(Append("t", "w", 12, (answer("x"),)))
    assert after.status is Status.REPLAY, "what was refused is not half kept"


def test_no_room_is_no_session_or_no_reason() -> None:
    engine = opened(chat(), tokens=5 * 128, high_water=0.75)
    big = Append("t", "big", 0, (user("as a house " * 60, end=False),))
    [first] = engine.ask(big)
    assert first.status is Status.DONE
    [no] = engine.ask(Append("t", "late", 0, (user("as a house " * 60),)))
    assert no.status is Status.FULL
    assert "memory" in no.reason
    [small] = engine.ask(Append("t", "small", 0, (user(),)))
    assert small.status is Status.DONE, "for this one there was room"
    [after] = engine.ask(Append("t", "late", 11 * 60, (answer("x"),)))
    assert after.status is Status.REPLAY
    assert asdict(engine.scheduler.counts)["full"] == 1
    engine.scheduler.close()


def test_the_longest_silent_is_kept_and_the_new_one_waits() -> None:
    engine = opened(chat(), tokens=5 * 128, silent_s=0.0, high_water=1.0)
    parts = (user("as a house " * 60),)
    for name in ("one", "two", "three"):
        [said] = engine.ask(Append("t", name, 0, parts))
        assert told(said.scored) == expected(chat(), parts)
    statuses = []
    for name in ("one", "two", "three"):
        [said] = engine.ask(Append("t", name, 11 * 60, (answer("x"),)))
        statuses.append(said.status)
    assert statuses[0] is Status.REPLAY
    assert statuses[2] is Status.DONE
    assert engine.scheduler.counts.evictions == statuses.count(Status.REPLAY)
    engine.scheduler.close()


def test_a_request_that_nobody_waits_for_is_forwarded(engine: Opened) -> None:
    left = threading.Event()
    engine.ask(Append("t", "s", 0, (user(),)))
    forwarded = len(engine.network.steps)
    left.set()
    gone = engine.asked(Append("t", "s", 12, (answer("as a house"),)), cancelled=left.is_set)
    assert gone() is None
    assert len(engine.network.steps) == forwarded
    [after] = engine.ask(Append("t", "s", 12 + 10, (answer("x"),)))
    assert after.status is Status.REPLAY, "what was lost is not skipped"
    assert engine.scheduler.counts.cancelled == 1


def test_what_waits_behind_a_cancelled_append_is_never_answered(engine: Opened) -> None:
    hold, held = threading.Event(), threading.Event()

    def before(spans: Sequence[StreamSpan]) -> None:
        held.set()
        assert hold.wait(60)

    engine.network.before = before
    left = threading.Event()
    first = engine.asked(Append("t", "s", 0, (user(),)))
    assert held.wait(60)
    gone = engine.asked(Append("t", "s", 12, (answer("as a house"),)), cancelled=left.is_set)
    behind = engine.asked(Append("t", "s", 22, (answer(" as"),)))
    left.set()
    hold.set()
    assert first() is not None
    assert gone() is None
    said = behind()
    assert said is not None
    assert said[0].status is Status.REPLAY


def poison_of(text: str) -> int:
    """A token that only this text has."""
    return next(fed.id for fed in fed_of(chat(), [user(text)]) if fed.task)


def test_one_session_that_fails_fails_its_neighbours(engine: Opened) -> None:
    poison = poison_of("界")

    def before(spans: Sequence[StreamSpan]) -> None:
        if any(poison in span.ids for span in spans):
            raise ValueError("a kernel does not like this")

    engine.network.before = before
    good = [Append("t", str(n), 0, (user(f"safe {n}"), answer("as a house"))) for n in range(6)]
    bad = Append("t", "bad", 0, (user("界"),))
    answers = engine.ask(*good[:3], bad, *good[3:])
    refused = answers.pop(3)
    assert refused.status is Status.REFUSED
    assert "a kernel does not like this" in refused.reason
    for append, said in zip(good, answers, strict=True):
        assert told(said.scored) == expected(chat(), append.parts)
    assert engine.scheduler.counts.failed == 1
    for _ in range(50):
        [refused] = engine.ask(bad)
        assert refused.status is Status.REFUSED, "the known good session has worn out"


def test_a_text_that_the_tokenizer_fails_on_fails_its_neighbours(
    engine: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    writing = Writer.writing

    def fails(self: Writer, part: Part, *room: int) -> Iterator[list[Fed]]:
        if "界" in part.text:
            raise RuntimeError("a panic")
        return writing(self, part, *room)

    monkeypatch.setattr(Writer, "writing", fails)
    good = Append("t", "good", 0, (user(), answer("as a house")))
    engine.ask(Append("t", "bad", 0, (user(),)))
    said, refused = engine.ask(good, Append("t", "bad", 12, (answer("界"),)))
    assert told(said.scored) == expected(chat(), good.parts)
    assert refused.status is Status.REFUSED
    assert "a panic" in refused.reason
    [after] = engine.ask(Append("t", "bad", 13, (answer("x"),)))
    assert after.status is Status.REPLAY, "what was lost is not skipped"


def test_what_is_not_a_number_is_a_score(engine: Opened) -> None:
    engine.network.nan = poison_of("界")
    good = Append("t", "good", 0, (user(), answer("as a house")))
    bad = Append("t", "bad", 0, (user(), answer("as 界 as")))
    said, refused, other = engine.ask(good, bad, Append("t", "other", 0, good.parts))
    assert (refused.status, refused.scored) == (Status.REFUSED, ())
    assert "not a number" in refused.reason
    assert told(said.scored) == told(other.scored) == expected(chat(), good.parts)
    [after] = engine.ask(Append("t", "bad", 12 + 7, (answer("x"),)))
    assert after.status is Status.REPLAY


def test_an_engine_that_fails_blames_a_session_or_hangs(engine: Opened) -> None:
    engine.ask(Append("t", "before", 0, (user(),)))

    def before(spans: Sequence[StreamSpan]) -> None:
        raise ValueError("the device is lost")

    engine.network.before = before
    waiting = [engine.asked(Append("t", str(n), 0, (user(),))) for n in range(5)]
    assert [said() for said in waiting] == [None] * 5
    engine.network.before = lambda spans: None
    [after] = engine.ask(Append("t", "before", 12, (answer("x"),)))
    assert after.status is Status.REPLAY, "nothing that was kept is trusted"


def test_a_step_that_memory_cannot_hold_fails_for_ever() -> None:
    engine = opened(chat(), step_tokens=512)
    limit = 512

    def before(spans: Sequence[StreamSpan]) -> None:
        if sum(len(span.ids) for span in spans) > limit:
            raise MemoryError

    engine.network.before = before
    limit = 100
    appends = [Append("t", str(n), 0, (user("as a house " * 30),)) for n in range(6)]
    for append, said in zip(appends, engine.ask(*appends), strict=True):
        assert told(said.scored) == expected(chat(), append.parts)
    assert engine.scheduler.counts.out_of_memory > 0
    limit = 10
    hopeless = engine.asked(Append("t", "s", 0, (user("as a house " * 30),)))
    assert hopeless() is None, "no session is to blame"
    limit = 512
    engine.network.steps.clear()
    for n in range(300):
        parts = (user("as a house " * 30), answer("x", end=True))
        assert engine.ask(Append("t", f"after {n}", 0, parts))[0].status is Status.DONE
    steps = [sum(step) for step in engine.network.steps]
    assert max(steps[:10]) <= 64
    assert max(steps) > 90, "what was lowered is raised again"
    engine.scheduler.close()


def test_who_waits_at_the_end_waits_for_ever() -> None:
    engine = opened(chat())
    hold, held = threading.Event(), threading.Event()

    def before(spans: Sequence[StreamSpan]) -> None:
        held.set()
        assert hold.wait(60)

    engine.network.before = before
    first = engine.asked(Append("t", "s", 0, (user(),)))
    assert held.wait(60)
    second = engine.asked(Append("t", "other", 0, (user(),)))
    threading.Timer(0.05, hold.set).start()
    engine.scheduler.close()
    assert first() is not None, "its step was under way"
    assert second() is None
    late = engine.asked(Append("t", "late", 0, (user(),)))
    assert late() is None


def test_an_asker_that_fails_ends_the_engine(engine: Opened) -> None:
    request, _ = request_of(Append("t", "s", 0, (user(),)))

    def done(answers: list[Appended] | None) -> None:
        raise RuntimeError("gone")

    request.done = done
    engine.scheduler.submit([request])
    [after] = engine.ask(Append("t", "other", 0, (user(),)))
    assert after.status is Status.DONE


def a_life(ledger: Path, sessions: Sequence[str], culprit: str) -> dict[str, Appended]:
    """What an engine says to sessions that are their own names, before a step with the culprit's
    tokens ends it. It leaves its ledger as a process does that dies there."""
    poison = poison_of(culprit)
    engine = opened(chat(), ledger=Ledger(ledger))
    hold, dead, buried = threading.Event(), threading.Event(), threading.Event()
    left: list[bytes] = []

    def before(spans: Sequence[StreamSpan]) -> None:
        assert hold.wait(60)
        if any(poison in span.ids for span in spans) and not dead.is_set():
            left.append(ledger.read_bytes())
            dead.set()
            assert buried.wait(60)
        if dead.is_set():
            raise RuntimeError("it is dead")

    engine.network.before = before
    said: dict[str, Appended] = {}
    told = threading.Semaphore(0)

    def ask(name: str) -> None:
        def done(answers: list[Appended] | None) -> None:
            if answers is not None and not dead.is_set():
                said[name] = answers[0]
            told.release()

        append = Append("t", name, 0, (user(name),))
        engine.scheduler.submit([Request([append.to_json()], done, dead.is_set)])

    for name in sessions:
        ask(name)
    hold.set()
    for _ in sessions:
        while not told.acquire(timeout=0.01) and not dead.is_set():
            pass
    buried.set()
    engine.scheduler.close()
    if left:
        ledger.write_bytes(left[0])
    return said


def test_a_session_that_ends_the_process_ends_it_for_ever(tmp_path: Path) -> None:
    """Its clients replay all, until it alone is refused; the others are judged meanwhile."""
    names = ["safe", "house", "界", "wait", "as"]
    lives = [a_life(tmp_path / LEDGER, names, culprit="界") for _ in range(5)]
    assert [life.get("界") and life["界"].status for life in lives[:3]] == [None] * 3
    for life in lives[-2:]:
        assert {name: said.status for name, said in life.items()} == {
            name: Status.REFUSED if name == "界" else Status.DONE for name in names
        }
        assert "ended the engine's process" in life["界"].reason


def test_what_is_running_is_not_written_down(tmp_path: Path) -> None:
    engine = opened(chat(), ledger=Ledger(tmp_path / LEDGER))
    seen: list[set[str]] = []

    def before(spans: Sequence[StreamSpan]) -> None:
        copy = tmp_path / "copy"
        copy.write_bytes((tmp_path / LEDGER).read_bytes())
        after = Ledger(copy)
        after.close()
        seen.append(set(after.record.suspects))

    engine.network.before = before
    engine.ask(*(Append("t", name, 0, (user(),)) for name in "ab"))
    assert seen == [{name_of(("t", "a")), name_of(("t", "b"))}]
    engine.scheduler.close()
    after = Ledger(tmp_path / LEDGER)
    after.close()
    assert after.record.suspects == {}
