"""Java without a JDK: Eclipse's compiler is a jar, and runs on the Java that Kafka runs on."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Final

from qwarden.stack.home import Home
from qwarden.stack.java import find_java, kafka_jars

COMPILER: Final = "org.eclipse.jdt:ecj:3.42.0"
"""The newest that runs on Java 17, the oldest that Kafka takes."""
RELEASE: Final = "17"


def ran(source: str, folder: Path, home: Home) -> None:
    """Compiles a class with Kafka's jars beside it and runs its `main`. Fails with what it said."""
    found = re.search(r"^public class (\w+) \{$", source, re.M)
    assert found is not None
    file = folder / f"{found[1]}.java"
    file.write_text(source)
    jars = ":".join(map(str, kafka_jars(home, lambda *_: None)))
    levels = ["-source", RELEASE, "-target", RELEASE]
    _run([find_java(), "-jar", _compiler(home), *levels, "-cp", jars, "-d", folder, file])
    _run([find_java(), "-cp", f"{folder}:{jars}", found[1]])


def _compiler(home: Home) -> Path:
    from jgo.maven import MavenContext, PythonResolver

    context = MavenContext(repo_cache=home.cache("jars") / "repository", resolver=PythonResolver())
    return Path(context.create_dependency(COMPILER).artifact.resolve())


def _run(command: list[str | Path]) -> None:
    ran = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
