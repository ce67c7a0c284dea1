"""`make mutants ARGS="qwarden.policy.cells"`: which small changes of pure modules no test notices.

mutmut changes one thing in one function at a time and runs the fast tests that reach the function,
in a copy of the project under .qwarden/mutants. It changes nothing outside functions and nothing in
functions with a decorator, properties among them: docs/mutants.md names those.

A name is a module's or a room's; a path is a file of tests, and without any all are run that name
one of the rooms. Prints a row of docs/mutants.md for each module, and what has survived; exits 1
where anything has. To run some again after a new test: `mutmut run NAME…` in the copy.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

import pure

_COPIES: Final = pure.ROOT / ".qwarden" / "mutants"

_MUTMUT: Final = str(Path(sys.executable).with_name("mutmut"))

_SUITES: Final = ("tests/unit", "tests/property")
"""What is fast enough to run for every change."""

# Where a test takes four times as long as it did, and some seconds, it is taken for endless: a
# change of a loop's end costs that much. Tests are looked for by name, so git is not asked.
_CONFIG: Final = """
[tool.mutmut]
source_paths = ["src"]
only_mutate = {files}
also_copy = ["deploy"]
pytest_add_cli_args_test_selection = {tests}
pytest_add_cli_args = [
  "-m", "not parts and not storm", "-p", "no:cacheprovider", "-p", "no:xdist",
  "--hypothesis-profile", "mutants",
]
timeout_multiplier = 4.0
timeout_constant = 3.0
use_git_change_detection = false
track_dependencies = false
"""


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


def copied(modules: Sequence[str], tests: Sequence[str]) -> Path:
    """The folder of a fresh copy. The code is in `src`: there modules have the names by which tests
    import them, from which mutmut tells which test reaches what."""
    copy = _COPIES / modules[0]
    shutil.rmtree(copy, ignore_errors=True)
    for package, folder in pure.FOLDERS.items():
        shutil.copytree(folder / package, copy / "src" / package)
    for name in ("tests", "deploy"):
        (copy / name).symlink_to(pure.ROOT / name)
    files = [f"src/{name.replace('.', '/')}.py" for name in modules]
    config = _CONFIG.format(files=json.dumps(files), tests=json.dumps(tests))
    (copy / "pyproject.toml").write_text((pure.ROOT / "pyproject.toml").read_text() + config)
    return copy


def main(arguments: Sequence[str]) -> int:
    """Changes what is named, and says what has come of it."""
    modules = chosen(each for each in arguments if "/" not in each)
    if not modules:
        sys.exit('name what to change: make mutants ARGS="qwarden.policy.cells"')
    copy = copied(modules, [each for each in arguments if "/" in each] or tests_of(modules))

    def said(*asked: str) -> list[str]:
        return subprocess.check_output([_MUTMUT, *asked], cwd=copy, text=True).splitlines()

    subprocess.run([_MUTMUT, "run"], cwd=copy, check=True)
    became = dict(line.strip().rsplit(": ", 1) for line in said("results", "--all", "true"))
    print("| module | mutants | killed | survived | not reached |\n|---|---|---|---|---|")
    for module in modules:
        own = Counter(how for name, how in became.items() if name.startswith(f"{module}.x"))
        killed = own["killed"] + own["timeout"]
        survived, unreached = own["survived"], own["no tests"]
        print(f"| `{module}` | {own.total()} | {killed} | {survived} | {unreached} |")
    left = [name for name, how in became.items() if how not in ("killed", "timeout")]
    for name in left:
        print(*said("show", name), "", sep="\n")
    return 1 if left else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
