"""`make mutants ARGS="qwarden.policy.cells"`: which small changes of pure modules no test notices.

mutmut changes one thing in one function at a time, and puts all changes of a module into one text,
where a word chooses between them. So the module is imported and the tests are collected once: for
each change a fork runs the tests that reach the function, until one fails. Nothing is changed
outside functions, and in functions with a decorator, properties among them: docs/mutants.md names
those. A change that only a cache's first caller would see survives, since a run without changes
has filled the cache.

A name is a module's or a room's; a path is a file of tests, and without any all are run that name
one of the rooms; what begins with `-` is handed to pytest. Prints a row of docs/mutants.md for each
module and what has survived there; exits 1 where anything has, or was not reached.
"""

from __future__ import annotations

import difflib
import math
import os
import resource
import sys
import textwrap
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import spec_from_file_location
from pathlib import Path
from types import CodeType
from typing import Final, NoReturn

import pytest
from mutmut.mutation import trampoline
from mutmut.mutation.file_mutation import MutatedFile, mutate_file_contents
from mutmut.utils.format_utils import mangled_name_from_mutant_name

import pure

_SUITES: Final = ("tests/unit", "tests/property")
"""What is fast enough to run for every change."""

_PYTEST: Final = (
    "-q", "-c", str(pure.ROOT / "pyproject.toml"), "-m", "not parts and not storm",
    "-p", "no:cacheprovider", "-p", "no:xdist", "--hypothesis-profile", "mutants",
)  # fmt: skip

# A change of a loop's end is taken for endless where a test takes four times the CPU that it took,
# and some seconds. The clock would count what else the machine does.
_TIMES: Final = 4.0
_MORE_S: Final = 3.0


def chosen(names: Iterable[str]) -> list[str]:
    """The pure modules of these names and rooms. Raises `SystemExit` for a name that is neither."""
    known = pure.modules()
    found = []
    for name in names:
        inside = [each for each in known if f"{each}.".startswith(f"{name}.")]
        if not inside:
            sys.exit(f"{name} is no pure module; pyproject.toml lists them for import-linter")
        found += inside
    return found


def tests_of(modules: Iterable[str]) -> list[str]:
    """The files of fast tests that name the room of one of these modules."""
    rooms = {name.rpartition(".")[0] for name in modules}
    return sorted(
        str(path.relative_to(pure.ROOT))
        for suite in _SUITES
        for path in (pure.ROOT / suite).rglob("test_*.py")
        if any(room in path.read_text() for room in rooms)
    )


class Changed(SourceFileLoader):
    """A module with all its changes, each of which is a function beside the one that it changes."""

    def __init__(self, name: str, path: Path) -> None:
        super().__init__(name, str(path))
        self.made: MutatedFile = mutate_file_contents(str(path), path.read_text())

    def get_code(self, fullname: str) -> CodeType:
        """What is imported in the module's place."""
        return compile(self.made.code, self.path, "exec", dont_inherit=True)

    def diff(self, mutant: str) -> str:
        """What a change changes."""
        function = mangled_name_from_mutant_name(mutant)
        before, after = (
            self._text_of(each).replace(each, function).splitlines()
            for each in (f"{function}__mutmut_orig", mutant)
        )
        return "\n".join([mutant, *list(difflib.unified_diff(before, after, n=1, lineterm=""))[3:]])

    def _text_of(self, function: str) -> str:
        span = self.made.line_span_by_function_name[function]
        lines = self.made.code.splitlines()[span.start - 1 : span.end]
        return textwrap.dedent("\n".join(lines))


class _Finder(MetaPathFinder):
    """Has Python import changed modules in place of those in the folders."""

    def __init__(self, changed: Iterable[Changed]) -> None:
        self._changed = {each.name: each for each in changed}

    def find_spec(self, fullname: str, path: object, target: object = None) -> ModuleSpec | None:
        found = self._changed.get(fullname)
        return spec_from_file_location(fullname, loader=found) if found else None


@dataclass(eq=False, slots=True)
class _Test:
    item: pytest.Item
    cpu_s: float
    kills: int = 0

    def limit(self) -> None:
        """Has the system end the process where the test finds no end."""
        limit_s = math.ceil(time.process_time() + _MORE_S + _TIMES * self.cpu_s)
        resource.setrlimit(resource.RLIMIT_CPU, (limit_s, resource.RLIM_INFINITY))

    def fails(self) -> bool:
        failed = self.item.session.testsfailed
        self.item.ihook.pytest_runtest_protocol(item=self.item, nextitem=None)
        return self.item.session.testsfailed > failed

    def rank(self) -> tuple[float, float]:
        """What has killed most for its CPU is asked first, then what is quick."""
        return -self.kills / (self.cpu_s + 0.01), self.cpu_s


class _Run:
    """Takes the place of pytest's loop over the tests. `left` is how many changes none noticed, and
    None where it has not come to an end."""

    def __init__(self, changed: Sequence[Changed]) -> None:
        self._changed = changed
        self._reaching: Mapping[str, list[_Test]] = {}
        self.left: int | None = None

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool | None:
        if session.testsfailed:
            return None  # a file that is no test: pytest says so
        self._reaching = _reaching(session.items)
        print("\n\n| module | mutants | killed | survived | not reached |\n|---|---|---|---|---|")
        self.left = sum(self._left_of(each) for each in self._changed)
        session.testsfailed = 0
        return True

    def _left_of(self, changed: Changed) -> int:
        mutants = changed.made.mutant_names
        survived, unreached = [], []
        for done, mutant in enumerate(mutants):
            if done and done % 50 == 0:
                print(f"{changed.name}: {done} of {len(mutants)}", file=sys.stderr)
            function = mangled_name_from_mutant_name(mutant)
            tests = self._reaching.get(f"{changed.name}.{function}")
            if not tests:
                unreached.append(function)
            elif not _killed(f"{changed.name}.{mutant}", sorted(tests, key=_Test.rank)):
                survived.append(mutant)
        left = len(survived) + len(unreached)
        killed = len(mutants) - left
        row = (f"`{changed.name}`", len(mutants), killed, len(survived), len(unreached))
        print("|", " | ".join(map(str, row)), "|")
        for mutant in survived:
            print(changed.diff(mutant), end="\n\n")
        for function in dict.fromkeys(unreached):
            print(f"{function} is not reached", end="\n\n")
        sys.stdout.flush()
        return left


def _reaching(items: Iterable[pytest.Item]) -> Mapping[str, list[_Test]]:
    """By the name of a function, the tests that reach it and pass without any change."""
    found = defaultdict(list)
    reached: set[str] = set()
    vars(trampoline)["record_trampoline_hit"] = lambda name, caller: reached.add(name)
    trampoline.set_mutant_under_test("stats")
    for item in items:
        reached.clear()
        test = _Test(item, cpu_s=0.0)
        began = time.process_time()
        if test.fails():
            print(f"\nleft out, since it fails without any change: {item.nodeid}")
            continue
        test.cpu_s = time.process_time() - began
        for function in reached:
            found[function].append(test)
    return found


def _killed(mutant: str, tests: Sequence[_Test]) -> bool:
    """Whether one of these tests fails with this change, or finds no end."""
    reads, writes = os.pipe()
    process = os.fork()
    if not process:
        _try(mutant, tests, writes)
    os.close(writes)
    with os.fdopen(reads) as pipe:
        killer = pipe.read()
    _, status = os.waitpid(process, 0)
    if killer:
        tests[int(killer)].kills += 1
    return status != 0


def _try(mutant: str, tests: Sequence[_Test], killer: int) -> NoReturn:
    """The fork's part: ends the process, with 1 where a test fails, whose number it writes."""
    tests[0].item.config.pluginmanager.unregister(name="terminalreporter")
    trampoline.set_mutant_under_test(mutant)
    for number, test in enumerate(tests):
        test.limit()
        try:
            failed = test.fails()
        except BaseException:  # the fork must never go on where its parent does
            failed = True
        if failed:
            os.write(killer, str(number).encode())
            os._exit(1)
    os._exit(0)


def run(files: Mapping[str, Path], arguments: Sequence[str]) -> int:
    """Changes these modules under the tests that pytest finds with these arguments. The exit status
    is 0, 1 where a change was not noticed, and pytest's where it could not run."""
    changed = [Changed(name, path) for name, path in files.items()]
    sys.meta_path.insert(0, _Finder(changed))
    loop = _Run(changed)
    status = int(pytest.main([*_PYTEST, *arguments], plugins=[loop]))
    return status if loop.left is None else int(loop.left > 0)


def main(arguments: Sequence[str]) -> int:
    """Changes what is named, and says what has come of it."""
    options = [each for each in arguments if each.startswith("-")]
    named = [each for each in arguments if each not in options]
    modules = chosen(each for each in named if "/" not in each)
    if not modules:
        sys.exit('name what to change: make mutants ARGS="qwarden.policy.cells"')
    tests = [each for each in named if "/" in each] or tests_of(modules)
    return run({name: pure.file_of(name) for name in modules}, [*options, *tests])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
