"""Brings a checkpoint to a folder, from the hub or from an object store, before an engine starts.

`python -m qwarden_engine.download hub ID COMMIT FOLDER` reads HF_TOKEN and HF_ENDPOINT as the hub's
own client does. `python -m qwarden_engine.download store s3://BUCKET/PREFIX FOLDER` reads
OBJECT_STORE_ENDPOINT and _REGION, and OBJECT_STORE_ACCESS_KEY and _SECRET_KEY where the store asks
for them. A folder that holds all of it already is left as it is, also where nothing can be reached.
Exits with 1 and a sentence where it cannot be brought.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from qwarden_engine.checkpoint import HUB_FILES
from qwarden_engine.object_store import Credentials, ObjectStore, StoreError

DONE = ".complete"
"""The file that says what is in the folder, written when all of it is."""


class DownloadError(Exception):
    """A checkpoint that cannot be brought; the message says why and what to change."""


def bring(source: str, folder: Path, fill: Callable[[Path], None]) -> bool:
    """Has `fill` bring `source` to the folder, where it is not there as a whole; whether it had to.

    What an attempt before it left stays, so that the hub's client goes on where it stopped.
    """
    done = folder / DONE
    if done.is_file():
        if done.read_text(encoding="utf-8") == source:
            return False
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    fill(folder)
    if not (folder / "config.json").is_file():
        raise DownloadError(
            f"{source}: has no config.json; name what holds the checkpoint's files themselves"
        )
    done.write_text(source, encoding="utf-8")
    return True


def from_hub(hub_id: str, commit: str) -> Callable[[Path], None]:
    """What brings this commit of a hub id: its weights and what describes them, never its code."""

    def fill(folder: Path) -> None:
        from huggingface_hub import snapshot_download

        try:
            snapshot_download(hub_id, revision=commit, local_dir=folder, allow_patterns=HUB_FILES)
        except Exception as error:  # network, rights, no such id: all are one to the reader
            hub = os.environ.get("HF_ENDPOINT") or "the hub"
            raise DownloadError(
                f"{hub_id} at {commit} cannot be brought from {hub} ({type(error).__name__}: "
                f"{error}); check its name, the token and the way there"
            ) from error

    return fill


def from_store(url: str, environ: Mapping[str, str]) -> Callable[[Path], None]:
    """What brings all that is below `s3://BUCKET/PREFIX`."""
    bucket, _, prefix = url.removeprefix("s3://").partition("/")
    prefix = prefix.strip("/")
    store = ObjectStore(
        environ["OBJECT_STORE_ENDPOINT"],
        environ["OBJECT_STORE_REGION"],
        Credentials.of(
            environ.get("OBJECT_STORE_ACCESS_KEY"), environ.get("OBJECT_STORE_SECRET_KEY")
        ),
        now=lambda: datetime.now(UTC),
    )

    def fill(folder: Path) -> None:
        try:
            for entry in store.entries(bucket, f"{prefix}/" if prefix else ""):
                name = entry.key.removeprefix(prefix).lstrip("/")
                if name.endswith("/") or not name:  # what consoles make to show a folder
                    continue
                if ".." in Path(name).parts:
                    raise DownloadError(f"{url}: {entry.key} would lie outside of the folder")
                file = folder / name
                if file.is_file() and file.stat().st_size == entry.size:
                    continue
                file.parent.mkdir(parents=True, exist_ok=True)
                print(f"{entry.key}: {entry.size} bytes", flush=True)
                store.save(bucket, entry, file)
        except StoreError as error:
            raise DownloadError(f"{url}: {error}") from error

    return fill


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="qwarden_engine.download", description=__doc__)
    ways = parser.add_subparsers(dest="way", required=True)
    hub = ways.add_parser("hub")
    hub.add_argument("id")
    hub.add_argument("commit")
    store = ways.add_parser("store")
    store.add_argument("url")
    for way in (hub, store):
        way.add_argument("folder", type=Path)
    options = parser.parse_args(arguments)
    try:
        if options.way == "hub":
            source = f"{options.id}@{options.commit}"
            fill = from_hub(options.id, options.commit)
        else:
            source = options.url
            fill = from_store(options.url, os.environ)
        brought = bring(source, options.folder, fill)
    except (DownloadError, StoreError) as error:
        print(error, file=sys.stderr)
        return 1
    except OSError as error:
        print(f"{options.folder}: cannot be written ({error})", file=sys.stderr)
        return 1
    print(f"{source} is in {options.folder}" + ("" if brought else " already"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
