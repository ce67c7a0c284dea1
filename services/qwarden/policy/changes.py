"""What one version of a policy says otherwise than another, for people to read."""

from __future__ import annotations

from collections.abc import Iterator

from qwarden.policy.file import PolicyFile

_APART = frozenset({"name", "extends", "rules", "cases"})


def changes(old: PolicyFile, new: PolicyFile) -> list[str]:
    """A line for each rule and each field that differs; none where both say the same."""
    return [*_rules(old, new), *_fields(old, new)]


def _rules(old: PolicyFile, new: PolicyFile) -> Iterator[str]:
    olds = {rule.name: rule for rule in old.rules}
    news = {rule.name: rule for rule in new.rules}
    for name, rule in news.items():
        if name not in olds:
            yield f"rule {name}: is new, and does {rule.then}"
        elif rule.then != olds[name].then:
            yield f"rule {name}: does {rule.then} and did {olds[name].then}"
        elif rule != olds[name]:
            fields = type(rule).model_fields
            differ = [each for each in fields if getattr(rule, each) != getattr(olds[name], each)]
            yield f"rule {name}: another {', '.join(differ)}"
    for name, rule in olds.items():
        if name not in news:
            yield f"rule {name}: is gone, and did {rule.then}"
    if [name for name in olds if name in news] != [name for name in news if name in olds]:
        yield "rules: they stand in another order, and the first that matches acts"


def _fields(old: PolicyFile, new: PolicyFile) -> Iterator[str]:
    for name in PolicyFile.model_fields:
        if name not in _APART and getattr(old, name) != getattr(new, name):
            yield f"{name}: says something else"
