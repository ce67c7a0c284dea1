"""Policies as people name them to a command: a file, what is in force, or a version of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from qwarden.cli.asking import ask
from qwarden.cli.policy_files import checked_file, file_at, files_of_settings
from qwarden.cli.terminal import WRONG_USE, end
from qwarden.contracts.control import Policies, body_key
from qwarden.policy.document import DocumentError
from qwarden.policy.in_force import Unusable, read_body, version_in_force
from qwarden.policy.policy import Policy
from qwarden.policy.sources import BUILT_IN
from qwarden.settings import Settings


def policies_named(words: Sequence[str], settings: Settings) -> list[Policy]:
    """The policies of these words: FILE, NAME (in force, or built in), or NAME@VERSION.

    The control topic is read only where a name needs it. Raises `DocumentError`; ends the command
    where there is no such policy.
    """
    stands: Policies | None = None
    found = []
    for word in words:
        if is_file(word):
            found.append(policy_of_file(Path(word), settings))
            continue
        name, _, version = word.partition("@")
        if name in BUILT_IN and version in ("", BUILT_IN[name].version):
            found.append(BUILT_IN[name])
            continue
        if stands is None:
            from qwarden.enforcement import commanding

            stands = ask(lambda: commanding.standing(settings.kafka))
        found.append(_standing(name, version, stands, settings))
    return found


def is_file(word: str) -> bool:
    return word.endswith((".yaml", ".yml")) or "/" in word


def policy_of_file(path: Path, settings: Settings) -> Policy:
    """The policy of a file, with what it extends from beside it and from the settings' folder.
    Raises `DocumentError` for one that fails its checks or cases."""
    checked = checked_file(file_at(path), settings)
    if checked.file is None or checked.errors:
        raise DocumentError("\n".join(checked.errors))
    return Policy(checked.file)


def policies_of(name: str, settings: Settings) -> Iterator[tuple[str, Policy]]:
    """Every version of a policy that is known here, and where it is."""
    if name in BUILT_IN:
        yield "what is built in", BUILT_IN[name]
    for file in files_of_settings(settings):
        if file.stem == name:
            try:
                yield str(file), policy_of_file(file, settings)
            except DocumentError:
                continue  # it did not act either
    from qwarden.enforcement import commanding

    for body in ask(lambda: commanding.standing(settings.kafka)).bodies.values():
        if body.policy == name:
            try:
                yield "the control topic", read_body(body)
            except Unusable:
                continue


def _standing(name: str, version: str, stands: Policies, settings: Settings) -> Policy:
    try:
        if version:
            body = stands.bodies.get(body_key(name, version))
            if body is None:
                known = sorted(
                    each.version for each in stands.bodies.values() if each.policy == name
                )
                end(
                    WRONG_USE,
                    f"the version {version} of the policy {name!r} was never activated; "
                    f"known are {', '.join(known) or 'none'}; a file can be named instead",
                )
            return read_body(body)
        acting = version_in_force(name, stands)
    except Unusable as error:
        end(WRONG_USE, str(error))
    if acting is not None:
        return acting
    own = {each.stem: each for each in files_of_settings(settings)}.get(name)
    if own is None:
        end(
            WRONG_USE,
            f"no policy {name!r} is in force, and QWARDEN_POLICY__PATH has no file of it; name a "
            f"file, one of {', '.join(BUILT_IN)}, or what `qwarden policy show` lists",
        )
    return policy_of_file(own, settings)
