"""What a block of `sh` would do, read without doing it."""

from __future__ import annotations

import importlib.util
import re
import shlex
import subprocess
from collections.abc import Iterator
from functools import cache
from typing import Any, Final, TypeGuard, get_args

import typer
from pydantic import BaseModel

from docs.pages import ROOT
from qwarden import cli
from qwarden.settings import Settings

OURS: Final = frozenset({"qwarden", ".venv/bin/qwarden", "qw", "qwr"})
PYTHONS: Final = frozenset({"python", ".venv/bin/python"})
OTHERS: Final = frozenset(
    """amtool cat curl diff docker echo exit fi git grep helm in_pod kcat kubectl mkdir mv openssl
    pg_dump pg_restore put sed test wc""".split()  # noqa: SIM905
)
"""What else a page may ask for: programs of a system, of a platform, and the words of a shell."""

_HEREDOC = re.compile(r"<<'?(?P<end>[A-Z]+)'?(?P<line>[^\n]*\n).*?^(?P=end)\n", re.M | re.S)
_COMMENT = re.compile(r"(?:^|(?<=\s))#[^\n]*", re.M)
_FUNCTION = re.compile(r"^\w+\(\) \{|\}$", re.M)
_DESCRIPTOR = re.compile(r"(?<=\s)\d?>&\d|(?<=\s)\d(?=[<>])")
_SUBSTITUTION = re.compile(r"\$\(([^()]*)\)")
_SETTING = re.compile(r"[A-Z][A-Z0-9_]*=")


def faults(script: str) -> Iterator[str]:
    """One sentence for each thing in it that there is not."""
    said = subprocess.run(
        ["bash", "-n"], input=script, capture_output=True, text=True, check=False
    ).stderr
    if said:
        yield f"bash does not read it: {said}"
        return
    for words in commands(script):
        yield from _faults_of(words)


def commands(script: str) -> Iterator[list[str]]:
    """The words of each simple command, those in a `$(…)` first; without redirections."""
    script = _HEREDOC.sub(r"\g<line>", script).replace("\\\n", " ")
    script = _DESCRIPTOR.sub("", _FUNCTION.sub("", _COMMENT.sub("", script)))
    for inner in _SUBSTITUTION.findall(script):
        yield from _simple(inner)
    yield from _simple(_SUBSTITUTION.sub("SUBSTITUTED", script))


def _simple(script: str) -> Iterator[list[str]]:
    lexer = shlex.shlex(script, posix=True, punctuation_chars="|&;()<>\n")
    lexer.whitespace = " \t"
    lexer.whitespace_split = True
    lexer.commenters = ""
    words: list[str] = []
    is_redirection = False
    for word in lexer:
        if set(word) & set("<>") and not set(word) - set("<>&"):
            is_redirection = True
        elif not set(word) - set("|&;()<>\n"):
            if words:
                yield words
            words = []
            is_redirection = False
        elif is_redirection:
            is_redirection = False
        else:
            words.append(word)
    if words:
        yield words


def _faults_of(words: list[str]) -> Iterator[str]:
    while words and (
        words[0] in ("env", "export", "!", "if", "then", "exec") or _SETTING.match(words[0])
    ):
        name = words[0].partition("=")[0]
        if name.startswith("QWARDEN_") and name not in settings():
            yield f"there is no setting {name}"
        words = words[1:]
    if not words:
        return
    program, *rest = words
    if program in OURS:
        yield from command_faults(rest)
    elif program == "make":
        known = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M)
        for word in rest:
            if not _SETTING.match(word) and word not in known:
                yield f"there is no `make {word}`"
    elif program in PYTHONS:
        yield from _python_faults(rest)
    elif program in OTHERS:
        inside = [place for place, word in enumerate(rest) if word == "qwarden"]
        if inside and program in ("docker", "kubectl", "in_pod"):
            yield from command_faults(rest[inside[0] + 1 :])
    else:
        yield f"nobody knows `{program}`: is it a program that a reader has?"


def _python_faults(words: list[str]) -> Iterator[str]:
    if words[:1] == ["-m"]:
        try:
            found = importlib.util.find_spec(words[1])
        except ModuleNotFoundError:
            found = None
        if found is None:
            yield f"there is no module {words[1]}"
    elif words and not (ROOT / words[0]).is_file():
        yield f"there is no file {words[0]}"


def command_faults(words: list[str]) -> Iterator[str]:
    """Whether our command line would take these words; nothing is run."""
    if '"$@"' in words or "$@" in words:
        return
    command = _root()
    parent = None
    left = list(words)
    try:
        # Typer has a copy of click of its own, whose classes are no click's.
        while hasattr(command, "resolve_command"):
            parent = command.make_context(command.name, left, parent=parent)
            _, command, left = command.resolve_command(
                parent, [*parent._protected_args, *parent.args]
            )
        command.make_context(command.name, left, parent=parent)
    except Exception as error:  # a usage error of typer's own click, whose class is not public
        yield f"`qwarden {' '.join(words)}`: {getattr(error, 'message', error)}"


def named_faults(code: str) -> Iterator[str]:
    """Whether the commands and options of a `qwarden …` in prose exist; its arguments may lack."""
    command = _root()
    known = {"--help"}
    for word in code.split()[1:]:
        below = getattr(command, "commands", None)
        if below is None:
            known = {
                option for each in command.params for option in (*each.opts, *each.secondary_opts)
            } | {"--help"}
            if re.fullmatch(r"--[a-z-]+", word) and word not in known:
                yield f"`{code}`: there is no {word}"
        elif re.fullmatch(r"[a-z-]+", word) and not word.startswith("-"):
            if word not in below:
                yield f"`{code}`: there is no {word}"
                return
            command = below[word]
        else:
            return


@cache
def _root() -> Any:
    return typer.main.get_command(cli.app)


@cache
def settings() -> frozenset[str]:
    """The variables that any part reads, and how those of a group begin (`QWARDEN_REGISTRY__`)."""
    names = set(_names(Settings, "QWARDEN_"))
    return frozenset(names | {name[: name.index("__") + 2] for name in names if "__" in name})


def _names(model: type[BaseModel], prefix: str) -> Iterator[str]:
    for name, field in model.model_fields.items():
        groups = [
            each for each in (field.annotation, *get_args(field.annotation)) if _is_group(each)
        ]
        for group in groups:
            yield from _names(group, f"{prefix}{name.upper()}__")
        if not groups:
            yield f"{prefix}{name.upper()}"


def _is_group(kind: object) -> TypeGuard[type[BaseModel]]:
    return isinstance(kind, type) and issubclass(kind, BaseModel)
