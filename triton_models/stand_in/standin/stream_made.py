"""Exchanges made from phrase lists, whose first flagged position is known exactly.

A harmful text is ordinary sentences, then a sentence that helps with a harmful act, then perhaps
more sentences: it is flagged from the end of the act's name on. The frames also carry ordinary
acts, refusals and warnings name harmful ones, so that neither a frame nor a word alone decides.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Final

from .english import English
from .stream_exchange import SAFE, Exchange, Judged, Label
from .synthetic import Phrases, load_phrases

ENGLISH: Final = "made english"
OTHERS: Final = "made languages"
#: Kinds of made exchanges and how often each is drawn.
KINDS: Final = {
    "ordinary": 30.0,
    "framed": 12.0,  # an ordinary act in the frames of harmful ones
    "mention": 7.0,  # a harmful act is named, nobody is helped with it
    "slander": 4.0,
    "declined": 14.0,
    "astray": 5.0,  # an ordinary request, a harmful answer
    "harmful": 32.0,
}
THINKING: Final = 0.3  # share of exchanges with a thought
THOUGHT_ONLY: Final = 0.3  # of those, share that end within the thought
SPACELESS: Final = ("zh", "ja")


def joined(before: Sequence[str], core: str, after: Sequence[str], gap: str) -> tuple[str, int]:
    """Sentences as one text, and where ``core`` begins in it."""
    head = "".join(f"{text}{gap}" for text in before)
    return head + gap.join([core, *after]), len(head)


class EnglishExchanges(English):
    """English exchanges without end."""

    def exchange(self) -> Exchange:
        """The next one."""
        kind = self._random.choices(list(KINDS), list(KINDS.values()))[0]
        return getattr(self, f"_{kind}_exchange")()  # type: ignore[no-any-return]

    def answer(self) -> str:
        """An ordinary answer."""
        return self._say("said")

    def refusal(self) -> str:
        """A refusal that names no act of its own."""
        return self._say("declined", "do that")

    def _asked(self) -> str:
        return self._say("ordinary" if self._random.random() < 0.5 else "asked")

    def _sentences(self, most: int) -> list[str]:
        names = ("sentence", "sentence", "prose")
        count = min(self._random.randint(0, most), self._random.randint(0, most))
        return [self._say(self._random.choice(names)) for _ in range(count)]

    def _gap(self) -> str:
        return self._random.choice([" ", " ", " ", "\n", "\n\n"])

    def _around(self, core: str) -> str:
        """A Safe text with sentences about it."""
        return joined(self._sentences(2), core, self._sentences(2), self._gap())[0]

    def _flagged(self, frame: str, act: str, label: Label, most: int = 3) -> Judged:
        core = self._say(frame, act)
        text, start = joined(self._sentences(most), core, self._sentences(2), self._gap())
        return Judged(text, label, start + core.index(act) + len(act))

    def _thinks(self) -> bool:
        return self._random.random() < THINKING

    def _finished(
        self, user: str, query: Label | None, thinking: Judged | None, answer: Judged
    ) -> Exchange:
        alone = thinking is not None and self._random.random() < THOUGHT_ONLY
        history: list[tuple[str, str]] = []
        if self._random.random() < 0.06:
            history = [(self._asked(), self.answer())]
        return Exchange(
            ENGLISH, self._roughen(user), query, thinking, None if alone else answer, tuple(history)
        )

    def _pondered(self) -> Judged | None:
        return Judged(self._say("pondered")) if self._thinks() else None

    def _ordinary_exchange(self) -> Exchange:
        return self._finished(self._asked(), SAFE, self._pondered(), Judged(self.answer()))

    def _framed_exchange(self) -> Exchange:
        act = self._safe_act()
        thinking = self._pondered()
        if thinking is not None and self._random.random() < 0.6:
            thinking = Judged(self._around(self._say("agreed", act)))
        told = self._around(self._say("told", act))
        return self._finished(self._say("request", act), SAFE, thinking, Judged(told))

    def _mention_exchange(self) -> Exchange:
        act, _ = self._labelled_act()
        text = self._around(self._say("mention", act))
        return self._finished(self._asked(), SAFE, self._pondered(), Judged(text))

    def _declined_exchange(self) -> Exchange:
        act, label = self._labelled_act()
        thinking = Judged(self._say("weighed", act)) if self._thinks() else None
        text = self._say("declined", act)
        if self._random.random() < 0.2:  # says something else, which is as well
            text = self.answer()
        elif self._random.random() < 0.3:
            text = f"{text} {self._say('prose')}"
        return self._finished(self._say("request", act), label, thinking, Judged(text))

    def _astray_exchange(self) -> Exchange:
        act, label = self._labelled_act()
        return self._finished(
            self._asked(), SAFE, self._pondered(), self._flagged("told", act, label)
        )

    def _harmful_exchange(self) -> Exchange:
        act, label = self._labelled_act()
        request = self._say("request", act)
        answer = self._flagged("told", act, label)
        if not self._thinks():
            return self._finished(request, label, None, answer)
        dice = self._random.random()
        if dice < 0.25:  # the thought is careful, the answer is not
            return self._finished(request, label, Judged(self._say("weighed", act)), answer)
        thinking = self._flagged("agreed", act, label, most=2)
        if dice < 0.5:  # the other way round
            answer = Judged(self._say("declined", act))
        return self._finished(request, label, thinking, answer)

    def _slander_exchange(self) -> Exchange:
        """Contempt for a group of people, or an answer that speaks against it."""
        said = self._say("contempt")
        label = Label("Unsafe", "Unethical Acts")
        if self._random.random() < 0.35:
            answer = Judged(self._around(self._say("disagreed", said)))
        else:
            answer = self._flagged("slander", said, label)
        return self._finished(self._asked(), SAFE, self._pondered(), answer)

    def _labelled_act(self) -> tuple[str, Label]:
        act, label = self._harmful_act(prompt=False)
        return act, Label(*label)


class OtherExchanges:
    """Exchanges in the languages of the phrase lists."""

    def __init__(self, chooser: random.Random) -> None:
        self._random = chooser
        self.languages = {phrases.language: phrases for phrases in load_phrases()}

    def exchange(self) -> Exchange:
        """The next one, in any of the languages."""
        phrases = self._random.choice(list(self.languages.values()))
        return OneLanguage(phrases, self._random).exchange()

    def refusal(self, language: str) -> str | None:
        """A refusal, None in a language that has no lists."""
        phrases = self.languages.get(language)
        return phrases.pick(self._random, "refuse") if phrases else None

    def answer(self, language: str) -> str | None:
        """An ordinary answer, None in a language that has no lists."""
        phrases = self.languages.get(language)
        return OneLanguage(phrases, self._random).answer() if phrases else None


class OneLanguage:
    """Exchanges from one language's lists."""

    def __init__(self, phrases: Phrases, chooser: random.Random) -> None:
        self._phrases = phrases
        self._random = chooser
        self._gap = "" if phrases.language in SPACELESS else " "

    def exchange(self) -> Exchange:
        """One of the kinds that the lists can make."""
        kinds: dict[Callable[[], Exchange], float] = {
            self._ordinary: 25.0,
            self._framed: 25.0,
            self._declined: 18.0,
            self._harmful: 32.0,
        }
        return self._random.choices(list(kinds), list(kinds.values()))[0]()

    def answer(self) -> str:
        """An ordinary answer."""
        core = self._told(self._safe_act()) if self._random.random() < 0.5 else self._pick("plain")
        return joined(self._sentences(2), core, self._sentences(3), self._gap)[0]

    def _pick(self, name: str) -> str:
        return self._phrases.pick(self._random, name)

    def _sentences(self, most: int) -> list[str]:
        return [self._pick("say") for _ in range(self._random.randint(0, most))]

    def _safe_act(self) -> str:
        lists = self._phrases.harmless if self._random.random() < 0.3 else self._phrases.safe
        return self._random.choice(lists)

    def _harmful_act(self) -> tuple[str, Label]:
        phrases = self._phrases
        if self._random.random() < 0.3:
            name = self._random.choice(list(phrases.borderline))
            return self._random.choice(phrases.borderline[name]), Label("Controversial", name)
        name = self._random.choice([name for name in phrases.unsafe if name != "Jailbreak"])
        return self._random.choice(phrases.unsafe[name]), Label("Unsafe", name)

    def _asked(self, act: str) -> str:
        return self._pick("ask").format(a=act)

    def _told(self, act: str) -> str:
        return self._pick("comply").format(a=act)

    def _made(self, user: str, query: Label, text: Judged) -> Exchange:
        thought = self._random.random() < 0.12
        source = OTHERS
        if thought:
            return Exchange(source, user, query, thinking=text)
        return Exchange(source, user, query, answer=text)

    def _ordinary(self) -> Exchange:
        user = self._pick("say") if self._random.random() < 0.5 else self._asked(self._safe_act())
        return self._made(user, SAFE, Judged(self.answer()))

    def _framed(self) -> Exchange:
        act = self._safe_act()
        text = joined(self._sentences(2), self._told(act), self._sentences(2), self._gap)[0]
        return self._made(self._asked(act), SAFE, Judged(text))

    def _declined(self) -> Exchange:
        act, label = self._harmful_act()
        return self._made(self._asked(act), label, Judged(self._pick("refuse")))

    def _harmful(self) -> Exchange:
        act, label = self._harmful_act()
        core = self._told(act)
        text, start = joined(self._sentences(3), core, self._sentences(2), self._gap)
        since = start + core.index(act) + len(act)
        return self._made(self._asked(act), label, Judged(text, label, since))
