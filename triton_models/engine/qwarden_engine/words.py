"""The words of an answer as token ids: what the grammar of Qwen3Guard-Gen looks like in tokens.

The grammar (model card of Qwen3Guard-Gen): `Safety: X`, newline, `Categories: None` or a list
separated by commas, for responses newline and `Refusal: Yes` or `No`, end. The category strings
are read from the template's own block. Checked here: that words can be told apart by their first
sub-tokens, and that an answer put together from its parts is the answer encoded as a whole, since
else a forced answer would not be one that the model has ever seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from qwarden.guard.answer import SAFETIES, Safety
from qwarden.guard.conversation import Task
from qwarden.guard.taxonomy import categories_of
from qwarden_engine.checkpoint import Checkpoint, CheckpointError
from qwarden_engine.template import Template

Ids = tuple[int, ...]

_BEGIN = "<BEGIN UNSAFE CONTENT CATEGORIES>"
_END = "<END UNSAFE CONTENT CATEGORIES>"


@dataclass(frozen=True, slots=True)
class Words:
    """Token ids of one task's answers.

    `forced`: `Safety:`, behind the template's tail. `safety`: each word, in the order of
    `SAFETIES`. `intro`: newline and `Categories:`. `names` and `categories`: canonical names and
    token ids, in the template's order. `none`: in place of a category. `separator`: the comma.
    `refusal_intro`: newline and `Refusal:`; `yes`, `no`: its words. `stop`: ids one of which ends
    the list of categories. `room`: the most tokens an answer can have behind `Safety:`.
    """

    forced: Ids
    safety: tuple[Ids, ...]
    intro: Ids
    names: tuple[str, ...]
    categories: tuple[Ids, ...]
    none: Ids
    separator: Ids
    refusal_intro: Ids
    yes: Ids
    no: Ids
    stop: Ids
    room: int

    def of(self, safety: Safety) -> Ids:
        """The ids of a safety word."""
        return self.safety[SAFETIES.index(safety)]

    @property
    def read(self) -> Ids:
        """Every id whose logit the grammar reads, each once."""
        firsts = [ids[0] for ids in (*self.safety, *self.categories, self.yes, self.no)]
        return tuple(dict.fromkeys([*firsts, self.separator[0], *self.stop]))


def words_of(checkpoint: Checkpoint, template: Template, task: Task) -> Words:
    """Reads and checks the words of one task. Raises `CheckpointError`."""
    tokenizer_file = checkpoint.directory / "tokenizer.json"
    strings = _category_strings(checkpoint, template, task)
    names = tuple(_canonical(checkpoint, string, task) for string in strings)
    _distinct_names(checkpoint, names)

    def ids(text: str) -> Ids:
        return tuple(template.plain_ids(text))

    forced, intro, refusal_intro = ids("Safety:"), ids("\nCategories:"), ids("\nRefusal:")
    safety = tuple(ids(" " + word) for word in SAFETIES)
    categories = tuple(ids(" " + string) for string in strings)
    none, separator, yes, no = ids(" None"), ids(","), ids(" Yes"), ids(" No")
    stop = checkpoint.stop_ids if task is Task.PROMPT else (refusal_intro[0],)
    for kind, texts, encoded in (
        ("safety words", SAFETIES, safety),
        ("categories", strings, categories),
        ("refusal words", ("Yes", "No"), (yes, no)),
        ("end of the categories", (",", "end"), (separator, (stop[0],))),
    ):
        _distinct_firsts(f"{tokenizer_file}: expected {kind}", texts, encoded)

    tail = template.cuts[task].tail
    whole = tuple(checkpoint.tokenizer.encode(tail + "Safety:", add_special_tokens=False).ids)
    alone = tuple(checkpoint.tokenizer.encode(tail, add_special_tokens=False).ids)
    if whole != alone + forced:
        raise CheckpointError(
            f"{tokenizer_file}: expected 'Safety:' behind the template to be its own tokens"
        )
    for word, word_ids in zip(SAFETIES, safety, strict=True):
        lists = (
            [((), "None", none)]
            if word is Safety.SAFE
            else [((at,), string, categories[at]) for at, string in enumerate(strings)]
        )
        for at, listed, listed_ids in lists:
            text, parts = f"Safety: {word}\nCategories: {listed}", forced + word_ids + intro
            parts += listed_ids
            if at:
                second = (at[0] + 1) % len(strings)
                text += f", {strings[second]}"
                parts += separator + categories[second]
            if task is not Task.PROMPT:
                text, parts = text + "\nRefusal: Yes", parts + refusal_intro + yes
            if ids(text) != parts:
                raise CheckpointError(
                    f"{tokenizer_file}: expected the answer {text!r} to be the tokens of its words"
                )
    longest = max(map(len, safety)) + len(intro)
    longest += sum(len(category) + len(separator) for category in categories)
    if task is not Task.PROMPT:
        longest += len(refusal_intro) + max(len(yes), len(no))
    return Words(
        forced=forced,
        safety=safety,
        intro=intro,
        names=names,
        categories=categories,
        none=none,
        separator=separator,
        refusal_intro=refusal_intro,
        yes=yes,
        no=no,
        stop=stop,
        room=longest,
    )


def _category_strings(checkpoint: Checkpoint, template: Template, task: Task) -> tuple[str, ...]:
    prefix = template.cuts[task].prefix
    begin, end = prefix.find(_BEGIN), prefix.find(_END)
    lines = prefix[begin + len(_BEGIN) : end].splitlines() if 0 <= begin < end else []
    strings = tuple(line.strip() for line in lines if line.strip())
    if len(strings) < 2:
        raise CheckpointError(
            f"{checkpoint.template_file}: expected the categories of a {task}, one a line, between "
            f"{_BEGIN} and {_END} before the conversation, and found {len(strings)}"
        )
    return strings


def _canonical(checkpoint: Checkpoint, string: str, task: Task) -> str:
    known = categories_of(task)
    profile = checkpoint.directory / "profile.yaml"
    if checkpoint.taxonomy is None:
        name = string
    elif string in checkpoint.taxonomy:
        name = checkpoint.taxonomy[string]
    else:
        raise CheckpointError(
            f"{profile}: expected {string!r}, a category of the template, in taxonomy"
        )
    if name not in known:
        raise CheckpointError(
            f"{profile}: expected taxonomy to map {string!r} to one of {', '.join(known)}, "
            f"not {name!r}"
        )
    return name


def _distinct_names(checkpoint: Checkpoint, names: Sequence[str]) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise CheckpointError(
            f"{checkpoint.directory / 'profile.yaml'}: expected one category for each canonical "
            f"name, and {twice} are the names of several"
        )


def _distinct_firsts(what: str, texts: Sequence[str], encoded: Sequence[Ids]) -> None:
    seen: dict[int, str] = {}
    for text, ids in zip(texts, encoded, strict=True):
        if not ids:
            raise CheckpointError(f"{what} to have tokens, and {text!r} has none")
        if ids[0] in seen:
            raise CheckpointError(
                f"{what} to differ in their first token, and {seen[ids[0]]!r} and {text!r} do not"
            )
        seen[ids[0]] = text
