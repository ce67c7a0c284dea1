"""What is called pure reads no clock and does no I/O, so that it can be tested and replayed."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil

import pytest

import qwarden.contracts
import qwarden.guard
import qwarden.policy

FORBIDDEN = frozenset(
    {
        "aiokafka",
        "asyncio",
        "concurrent",
        "grpc",
        "http",
        "io",
        "logging",
        "multiprocessing",
        "os",
        "pathlib",
        "random",
        "redis",
        "secrets",
        "select",
        "signal",
        "socket",
        "ssl",
        "subprocess",
        "sys",
        "tempfile",
        "threading",
        "time",
        "urllib",
        "uuid",
    }
)

CLOCKS = frozenset({"now", "utcnow", "today", "fromtimestamp", "open", "print", "input"})

# They write the schemas' files when they are run, and are imported by nothing that serves.
_WRITE_FILES = {"qwarden.contracts.schema", "qwarden.policy.schema"}

PURE = [
    *(
        f"{package.__name__}.{module.name}"
        for package in (qwarden.contracts, qwarden.guard, qwarden.policy)
        for module in pkgutil.iter_modules(package.__path__)
        if f"{package.__name__}.{module.name}" not in _WRITE_FILES
    ),
    "qwarden.delivery.window",
    "qwarden.delivery.key_order",
    "qwarden.delivery.positions",
    "qwarden.delivery.owed",
    "qwarden.inference.backoff",
    "qwarden.inference.breaker",
    "qwarden.inference.pace",
    "qwarden.inference.trials",
    "qwarden.inference.rendezvous",
    "qwarden.inference.replay_rate",
    "qwarden.inference.session",
    "qwarden.moderator.case",
    "qwarden.moderator.verdicts",
    "qwarden.outcomes.owing",
    "qwarden.outcomes.said",
    "qwarden.explain.page",
    "qwarden.explain.trail",
    "qwarden.language.telling",
    "qwarden.offline.policy_diff.text",
    "qwarden.rejudge.planning",
    "qwarden.streamer.commit",
    "qwarden.streamer.sessions",
    "qwarden.streamer.transcript",
    "qwarden.streamer.verdicts",
    "qwarden_engine.stream.sessions",
    "qwarden_engine.stream.steps",
    "qwarden.moderator.halting",
    "qwarden.dead_letters.letters",
    "qwarden.verify.account",
    "qwarden.verify.report",
]


def impurities(source: str) -> list[str]:
    """Each import and each call in a module's text that a pure module has no use for."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [each.name for each in node.names if each.name.split(".")[0] in FORBIDDEN]
        elif isinstance(node, ast.ImportFrom):
            found += [node.module or ""] if (node.module or "").split(".")[0] in FORBIDDEN else []
        elif isinstance(node, ast.Call):
            called = node.func
            name = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
            found += [name] if name in CLOCKS else []
    return found


@pytest.mark.parametrize("name", PURE)
def test_a_pure_module_reads_no_clock_and_does_no_io(name: str) -> None:
    assert impurities(inspect.getsource(importlib.import_module(name))) == []


@pytest.mark.parametrize(
    "source",
    ["import time", "from os import path", "import a, socket", "datetime.now(UTC)", "open('a')",
     "def f():\n    import random"],
)  # fmt: skip
def test_an_impurity_is_seen_wherever_it_stands(source: str) -> None:
    assert impurities(source)


def test_no_service_imports_what_writes_files() -> None:
    for name in PURE:
        assert "contracts.schema" not in inspect.getsource(importlib.import_module(name))
