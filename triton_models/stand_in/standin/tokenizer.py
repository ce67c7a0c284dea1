"""The tokenizer: byte-level BPE with Qwen's splitting pattern and normaliser.

The words of the answer are forced to be single tokens by merges added after the trained ones, so
that the class is decided at one position, as with the real guard.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

from .labels import PROMPT_CATEGORIES, SAFETIES

PATTERN: Final = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
END_OF_TEXT: Final = "<|endoftext|>"
TURN_START: Final = "<|im_start|>"
TURN_END: Final = "<|im_end|>"
SPECIAL: Final = (END_OF_TEXT, TURN_START, TURN_END)
NOT_SPECIAL: Final = ("<tool_call>", "</tool_call>", "<think>", "</think>")
#: Never one token: the real vocabulary has it in several, and an engine must cope with that.
SPLIT: Final = " Controversial"
#: One token each.
FORCED: Final = (
    "Safety", "Categories", "Refusal", " Safe", " Unsafe", " Yes", " No", " None",
    " Violent", " Non", " Sexual", " PII", " Suicide", " Unethical", " Politically",
    " Copyright", " Jailbreak", " Content", " Acts", " Illegal", " Sensitive", " Topics",
    " Violation", " Self", "Harm",
)  # fmt: skip


def train_tokenizer(texts: Iterable[str], size: int) -> Tokenizer:
    """A tokenizer of exactly ``size`` ids (the vocabulary, then the added tokens)."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PATTERN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size - len(SPECIAL) - len(NOT_SPECIAL) - 40,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        max_token_length=24,
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    spec: dict[str, Any] = json.loads(tokenizer.to_str())
    _force(spec, size - len(SPECIAL) - len(NOT_SPECIAL))
    tokenizer = Tokenizer.from_str(json.dumps(spec))
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL])
    tokenizer.add_tokens(
        [AddedToken(token, special=False, normalized=False) for token in NOT_SPECIAL]
    )
    check_tokens(tokenizer)
    return tokenizer


def _force(spec: dict[str, Any], size: int) -> None:
    """Add merges until every forced word is one token, then fill up to ``size`` ids."""
    model = spec["model"]
    vocab: dict[str, int] = model["vocab"]
    _split(spec)
    for word in FORCED:
        pieces = Tokenizer.from_str(json.dumps(spec)).encode(word).tokens
        while len(pieces) > 1:
            joined = pieces[0] + pieces[1]
            model["merges"].append([pieces[0], pieces[1]])
            vocab.setdefault(joined, len(vocab))
            pieces = [joined, *pieces[2:]]
    if len(vocab) > size:
        raise ValueError(f"{len(vocab)} tokens after the forced merges, more than {size}")
    for number in range(size - len(vocab)):  # ids that no text reaches
        vocab[f"<unused{number}>"] = len(vocab)


def _split(spec: dict[str, Any]) -> None:
    """Take out the merges that make ``SPLIT`` one token; its id becomes one that is not used."""
    model = spec["model"]
    tokens = Tokenizer.from_str(json.dumps(spec)).encode(SPLIT).tokens
    if len(tokens) == 1:
        model["merges"] = [pair for pair in model["merges"] if "".join(pair) != tokens[0]]
        model["vocab"]["<split>"] = model["vocab"].pop(tokens[0])


def plain_tokenizer(tokenizer: Tokenizer) -> Tokenizer:
    """The same tokenizer without its added tokens: markers in a text are text."""
    spec: dict[str, Any] = json.loads(tokenizer.to_str())
    spec["added_tokens"] = []
    return Tokenizer.from_str(json.dumps(spec))


def token_id(tokenizer: Tokenizer, token: str) -> int:
    """The id of a token that must be there."""
    number: int | None = tokenizer.token_to_id(token)
    if number is None:
        raise ValueError(f"no token {token}")
    return number


def check_tokens(tokenizer: Tokenizer) -> None:
    """Assert what an engine relies on when it reads scores from one position."""

    def after(context: str, word: str) -> list[int]:
        whole = tokenizer.encode(f"{context} {word}").ids
        head: list[int] = tokenizer.encode(context).ids
        if whole[: len(head)] != head:
            raise AssertionError(f"{context!r} merges with {word!r}")
        return list(whole[len(head) :])

    classes = {name: after("Safety:", name) for name in SAFETIES}
    categories = {name: after("Categories:", name) for name in ("None", *PROMPT_CATEGORIES)}
    refusals = {name: after("Refusal:", name) for name in ("Yes", "No")}
    single = [classes["Safe"], classes["Unsafe"], *refusals.values()]
    if any(len(ids) != 1 for ids in single):
        raise AssertionError("Safe, Unsafe, Yes and No must be one token each")
    for table in (classes, categories, refusals):
        if len({ids[0] for ids in table.values()}) != len(table):
            raise AssertionError(f"first tokens are not distinct: {table}")
    for token in (*SPECIAL, *NOT_SPECIAL):
        if len(tokenizer.encode(token).ids) != 1:
            raise AssertionError(f"{token} is not one token")


def save_tokenizer(tokenizer: Tokenizer, folder: Path, context: int) -> None:
    """Write ``tokenizer.json`` and ``tokenizer_config.json``; ``context`` is in tokens."""
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    config = {
        "add_bos_token": False,
        "add_prefix_space": False,
        "bos_token": None,
        "clean_up_tokenization_spaces": False,
        "eos_token": TURN_END,
        "errors": "replace",
        "model_max_length": context,
        "pad_token": END_OF_TEXT,
        "split_special_tokens": False,
        "tokenizer_class": "Qwen2Tokenizer",
        "unk_token": None,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
