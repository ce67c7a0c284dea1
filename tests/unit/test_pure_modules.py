"""What is called pure reads no clock and does no I/O, so that it can be tested and replayed."""

from __future__ import annotations

import ast
import importlib
import inspect

import pytest

import pure

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

CALLS = frozenset({"now", "utcnow", "today", "fromtimestamp", "open", "print", "input", "Random"})

# What draws may be handed in, and is not made here: then who calls has chosen its seed.
HANDED_IN = {("random", "Random")}


def impurities(source: str) -> list[str]:
    """Each import and each call in a module's text that a pure module has no use for."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [each.name for each in node.names if each.name.split(".")[0] in FORBIDDEN]
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            taken = [each.name for each in node.names if (module, each.name) not in HANDED_IN]
            found += [module] if taken and module.split(".")[0] in FORBIDDEN else []
        elif isinstance(node, ast.Call):
            called = node.func
            name = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
            found += [name] if name in CALLS else []
    return found


@pytest.mark.parametrize("name", pure.modules())
def test_a_pure_module_reads_no_clock_and_does_no_io(name: str) -> None:
    assert impurities(inspect.getsource(importlib.import_module(name))) == []


@pytest.mark.parametrize(
    "source",
    ["import time", "from os import path", "import a, socket", "datetime.now(UTC)", "open('a')",
     "def f():\n    import random", "from random import Random, choice", "Random(7)"],
)  # fmt: skip
def test_an_impurity_is_seen_wherever_it_stands(source: str) -> None:
    assert impurities(source)


def test_no_service_imports_what_writes_files() -> None:
    for name in pure.modules():
        assert "contracts.schema" not in inspect.getsource(importlib.import_module(name))
