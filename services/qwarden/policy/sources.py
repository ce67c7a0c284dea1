"""Policies from their texts: read, with what they extend put in, checked and tested."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from qwarden.contracts.refusal import listed
from qwarden.policy import built_in, cases, checks
from qwarden.policy.document import DocumentError, Marks, Path, parse_marked
from qwarden.policy.file import PolicyFile
from qwarden.policy.places import Places
from qwarden.policy.policy import Policy
from qwarden.policy.region import reached_rules

BUILT_IN: dict[str, Policy] = {name: Policy(file) for name, file in built_in.FILES.items()}


@dataclass(frozen=True, slots=True)
class Source:
    """A policy with all that it extends in it, and where each of its fields is written. `left_out`:
    the inherited rules that are never reached behind its own."""

    file: PolicyFile
    places: Places
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Loaded:
    """Policies that may come into force, by name, the built-in ones included, and what is to be
    said of them all the same."""

    policies: Mapping[str, Policy]
    warnings: tuple[str, ...] = ()


def load(texts: Mapping[str, str]) -> Loaded:
    """The policies of these texts, by name. Raises `DocumentError` with a line for everything that
    is wrong in any of them: one that fails a check or a case of its own is never loaded."""
    reading = _Reading(texts)
    found, errors, warnings = dict(BUILT_IN), list[str](), list[str]()
    for name in sorted(texts):
        try:
            source = reading.source(name)
        except DocumentError as error:
            errors.append(str(error))
            continue
        said = findings(source)
        errors += [finding.sentence for finding in said if finding.is_error]
        warnings += [finding.sentence for finding in said if not finding.is_error]
        found[name] = Policy(source.file)
    if errors:
        raise DocumentError("\n".join(dict.fromkeys(errors)))
    return Loaded(found, tuple(warnings))


def read_source(texts: Mapping[str, str], name: str) -> Source:
    """One of these policies with what it extends. Raises `DocumentError`."""
    return _Reading(texts).source(name)


def from_body(body: PolicyFile) -> Source:
    """A policy that is resolved already: its places have no lines."""
    return Source(body, Places.nowhere(f"policy {body.name}", len(body.rules)))


def findings(source: Source) -> list[checks.Finding]:
    """What is wrong with a policy, and what to think of; its own cases are run too."""
    said = checks.findings(source.file, source.places)
    if source.left_out:
        said.append(
            checks.Finding(
                source.places.sentence(
                    ("extends",),
                    f"inherited rules are never reached behind the own ones and are left out: "
                    f"{', '.join(source.left_out)}; see that this is meant",
                ),
                is_error=False,
            )
        )
    if any(finding.is_error for finding in said):
        return said  # its cases would say the same again
    return said + cases.findings(source.file, source.places)


def file_of(name: str) -> str:
    """How errors call a policy's file."""
    return f"policies/{name}.yaml"


@dataclass(slots=True)
class _Reading:
    """The texts, and those of them that are read already."""

    texts: Mapping[str, str]
    _read: dict[str, Source | DocumentError] = field(default_factory=dict)

    def source(self, name: str, *, below: tuple[str, ...] = ()) -> Source:
        if name not in self._read:
            try:
                self._read[name] = self._resolved(name, below)
            except DocumentError as error:
                self._read[name] = error
        found = self._read[name]
        if isinstance(found, DocumentError):
            raise found
        return found

    def _resolved(self, name: str, below: tuple[str, ...]) -> Source:
        file = file_of(name)
        if name in built_in.FILES:
            if name in self.texts:
                raise DocumentError(f"{file}:1:1: name: {name!r} is built in; choose another name")
            return from_body(built_in.FILES[name])
        own, marks = parse_marked(
            self.texts[name], file=file, kind=PolicyFile, context={"name": name}
        )
        _check_names(own, marks)
        if own.extends is None:
            return Source(own, Places.of(marks, len(own.rules)))
        path: Path = ("extends",)
        known = [*built_in.FILES, *self.texts]
        if own.extends not in known:
            reason = f"no policy is called {own.extends!r}; known are {listed(known)}"
            raise DocumentError(marks.sentence(path, reason))
        if own.extends in (*below, name):
            circle = " extends ".join((*below, name, own.extends))
            raise DocumentError(marks.sentence(path, f"{circle}; a policy cannot extend itself"))
        return _with_parent(own, marks, self.source(own.extends, below=(*below, name)))


def _check_names(own: PolicyFile, marks: Marks) -> None:
    """Refuses a rule that is there twice: verdicts name their rule."""
    seen: dict[str, int] = {}
    for index, rule in enumerate(own.rules):
        if rule.name in seen:
            raise DocumentError(
                marks.sentence(
                    ("rules", str(index), "name"),
                    f"there are two rules {rule.name!r}; verdicts name their rule, so give them "
                    "two names",
                )
            )
        seen[rule.name] = index


def _with_parent(own: PolicyFile, marks: Marks, parent: Source) -> Source:
    """Own fields instead of the parent's; an own rule instead of one of its name, else first. Of
    the parent's rules those are left out that are never reached behind the own ones."""
    given = own.model_fields_set - {"rules", "extends"}
    ours = {rule.name: (rule, index) for index, rule in enumerate(own.rules)}
    theirs = {rule.name for rule in parent.file.rules}
    rules = [(rule, marks, index) for rule, index in ours.values() if rule.name not in theirs]
    for rule, (their_marks, their_index) in zip(
        parent.file.rules, parent.places.rules, strict=True
    ):
        if rule.name in ours:
            own_rule, index = ours[rule.name]
            rules.append((own_rule, marks, index))
        else:
            rules.append((rule, their_marks, their_index))
    flagged = own.least_flagged if "flagging" in given else parent.file.least_flagged
    reached = reached_rules([rule.when for rule, _, _ in rules[:-1]], flagged=flagged)
    kept = [
        each
        for each, is_reached in zip(rules, [*reached, True], strict=True)
        if is_reached or each[1] is marks
    ]
    left_out = tuple(each[0].name for each in rules if each not in kept)
    file = parent.file.model_copy(
        update={
            **{name: getattr(own, name) for name in given},
            "name": own.name,
            "cases": own.cases,
            "rules": tuple(rule for rule, _, _ in kept),
        }
    )
    places = Places(marks, tuple((at, index) for _, at, index in kept))
    return Source(file, places, (*parent.left_out, *left_out))
