"""Brings a checkpoint to a folder, from the hub or from an object store, before an engine starts.

`python -m qwarden_engine.download hub ID COMMIT FOLDER` reads HF_TOKEN and HF_ENDPOINT as the hub's
own client does. `python -m qwarden_engine.download store s3://BUCKET/PREFIX FOLDER` reads
OBJECT_STORE_ENDPOINT and _REGION, and OBJECT_STORE_ACCESS_KEY and _SECRET_KEY where the store asks
for them. A folder that holds all of it already is left as it is, also where nothing can be reached.
Exits with 1 and a sentence where it cannot be brought.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from qwarden_engine.checkpoint import HUB_FILES
from qwarden_engine.object_store import Credentials, ObjectStore, StoreError

DONE = ".complete"
"""The file that says what is in the folder, from when on all of it is."""
BEGUN = ".begun"
"""What it is called before that."""
TAGS = ".tags"
"""What the object store calls the version of each file that it has brought (JSON, its ETag)."""


class DownloadError(Exception):
    """A checkpoint that cannot be brought; the message says why and what to change."""


def bring(source: str, folder: Path, fill: Callable[[Path], None]) -> bool:
    """Has `fill` bring `source` to the folder, where it is not there as a whole; whether it had to.

    What an attempt before it left stays, so that the hub's client goes on where it stopped; what is
    there of another source does not.
    """
    done, begun = folder / DONE, folder / BEGUN
    mark = done if done.is_file() else begun
    if mark.is_file() and mark.read_text(encoding="utf-8") != source:
        shutil.rmtree(folder)
    elif mark is done:
        return False
    folder.mkdir(parents=True, exist_ok=True)
    if not begun.is_file():
        begun.write_text(source, encoding="utf-8")
    fill(folder)
    if not (folder / "config.json").is_file():
        raise DownloadError(
            f"{source}: has no config.json; name what holds the checkpoint's files themselves"
        )
    begun.rename(done)
    return True


def from_hub(hub_id: str, commit: str) -> Callable[[Path], None]:
    """What brings this commit of a hub id: its weights and what describes them, never its code."""

    def fill(folder: Path) -> None:
        from huggingface_hub import HfApi, snapshot_download

        try:
            # Its client takes a hub that is away for one that has no more than is here.
            HfApi().model_info(hub_id, revision=commit)
            snapshot_download(hub_id, revision=commit, local_dir=folder, allow_patterns=HUB_FILES)
        except Exception as error:  # network, rights, no such id: all are one to the reader
            hub = os.environ.get("HF_ENDPOINT") or "the hub"
            raise DownloadError(
                f"{hub_id} at {commit} cannot be brought from {hub} ({type(error).__name__}: "
                f"{error}); check its name, the token and the way there"
            ) from error

    return fill


def from_store(url: str, environ: Mapping[str, str]) -> Callable[[Path], None]:
    """What brings all that is below `s3://BUCKET/PREFIX`. Raises `DownloadError` for settings that
    are missing."""
    bucket, _, prefix = url.removeprefix("s3://").partition("/")
    prefix = prefix.strip("/")
    for name, what in (("OBJECT_STORE_ENDPOINT", "address"), ("OBJECT_STORE_REGION", "region")):
        if not environ.get(name):
            raise DownloadError(f"{url}: set {name} to the {what} of its store")
    store = ObjectStore(
        environ["OBJECT_STORE_ENDPOINT"],
        environ["OBJECT_STORE_REGION"],
        Credentials.of(
            environ.get("OBJECT_STORE_ACCESS_KEY"), environ.get("OBJECT_STORE_SECRET_KEY")
        ),
        now=lambda: datetime.now(UTC),
    )

    def fill(folder: Path) -> None:
        noted = folder / TAGS
        tags = json.loads(noted.read_text(encoding="utf-8")) if noted.is_file() else {}
        try:
            for entry in store.entries(bucket, f"{prefix}/" if prefix else ""):
                name = entry.key.removeprefix(prefix).lstrip("/")
                if name.endswith("/") or not name:  # what consoles make to show a folder
                    continue
                if ".." in Path(name).parts:
                    raise DownloadError(f"{url}: {entry.key} would lie outside of the folder")
                if name in (DONE, BEGUN, TAGS) or name.endswith(".part"):
                    continue  # of the folder that was put there: it says nothing of this one
                file = folder / name
                is_here = file.is_file() and file.stat().st_size == entry.size
                if is_here and tags.get(name) == entry.tag:
                    continue
                file.parent.mkdir(parents=True, exist_ok=True)
                print(f"{entry.key}: {entry.size} bytes", flush=True)
                store.save(bucket, entry, file)
                tags[name] = entry.tag
                whole = noted.with_name(f"{TAGS}.part")
                whole.write_text(json.dumps(tags), encoding="utf-8")
                whole.rename(noted)
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
