"""Checkpoints that an init container brings, from a store that speaks S3 and from the hub."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

import pytest

from qwarden_engine import download
from qwarden_engine.download import DONE, TAGS
from qwarden_engine.object_store import Credentials, authorization

PAGE = 2
"""Keys an answer of the list has at most, so that there are several."""


class Store(ThreadingHTTPServer):
    """What S3's documentation says of ListObjectsV2 and GetObject, over HTTP."""

    def __init__(self, objects: dict[str, bytes]) -> None:
        super().__init__(("127.0.0.1", 0), _Asked)
        self.objects = objects
        self.asked: list[str] = []
        self.signed: list[str] = []
        self.cut: set[str] = set()
        """Keys of which half is sent."""
        self.talks_nonsense = False

    @property
    def environ(self) -> dict[str, str]:
        return {
            "OBJECT_STORE_ENDPOINT": f"http://127.0.0.1:{self.server_port}",
            "OBJECT_STORE_REGION": "eu-central-1",
            "OBJECT_STORE_ACCESS_KEY": "us",
            "OBJECT_STORE_SECRET_KEY": "secret",
        }


class _Asked(BaseHTTPRequestHandler):
    server: Store

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        self.server.asked.append(self.path)
        self.server.signed.append(self.headers.get("authorization", ""))
        bucket, _, key = url.path.removeprefix("/").partition("/")
        if self.server.talks_nonsense:
            self.wfile.write(b"220 mail.example ESMTP\r\n")
        elif bucket != "models":
            self._answer(404, b"<Error><Code>NoSuchBucket</Code></Error>")
        elif key:
            body = self.server.objects[unquote(key)]
            self._answer(200, body[: len(body) // 2] if unquote(key) in self.server.cut else body)
        else:
            self._answer(200, self._page(parse_qs(url.query, keep_blank_values=True)))

    def _page(self, query: dict[str, list[str]]) -> bytes:
        assert query["list-type"] == ["2"]
        keys = sorted(key for key in self.server.objects if key.startswith(query["prefix"][0]))
        start = int(query.get("continuation-token", ["0"])[0])
        contents = "".join(
            f"<Contents><Key>{escape(key)}</Key>"
            f'<ETag>"{hashlib.md5(self.server.objects[key]).hexdigest()}"</ETag>'
            f"<Size>{len(self.server.objects[key])}</Size></Contents>"
            for key in keys[start : start + PAGE]
        )
        more = (
            f"<NextContinuationToken>{start + PAGE}</NextContinuationToken>"
            if start + PAGE < len(keys)
            else ""
        )
        space = "http://s3.amazonaws.com/doc/2006-03-01/"
        return f'<ListBucketResult xmlns="{space}">{contents}{more}</ListBucketResult>'.encode()

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


CHECKPOINT = {
    "guard/gen/": b"",  # what a console makes to show a folder
    "guard/gen/config.json": b"{}",
    "guard/gen/model one & two.safetensors": b"weights" * 1000,
    "guard/gen/sub/tokenizer.json": b"[]",
    "guard/genome/config.json": b"another one",
}


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    server = Store(dict(CHECKPOINT))
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    for name, value in server.environ.items():
        monkeypatch.setenv(name, value)
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name not in (DONE, TAGS)
    }


def bring(folder: Path, url: str = "s3://models/guard/gen") -> int:
    return download.main(["store", url, str(folder)])


def test_a_signature_that_no_store_takes() -> None:
    """AWS's own examples, from Amazon S3's API reference: "Signature Calculations for the
    Authorization Header: Transferring Payload in a Single Chunk"."""
    credentials = Credentials("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY")
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    at = datetime(2013, 5, 24, tzinfo=UTC)
    headers = {
        "host": "examplebucket.s3.amazonaws.com",
        "x-amz-content-sha256": empty,
        "x-amz-date": "20130524T000000Z",
    }
    ranged = {**headers, "range": "bytes=0-9"}
    for path, query, given, wanted in (
        (
            "/test.txt",
            "",
            ranged,
            "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41",
        ),
        (
            "/",
            "max-keys=2&prefix=J",
            headers,
            "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7",
        ),
    ):
        said = authorization(credentials, "us-east-1", at, path, query, given)
        assert said.startswith(
            "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request,"
        )
        assert said.endswith(f"Signature={wanted}")


def test_a_checkpoint_that_comes_in_part_or_with_its_neighbours(
    store: Store, tmp_path: Path
) -> None:
    folder = tmp_path / "gen" / "guard"
    assert bring(folder) == 0
    assert files(folder) == {
        "config.json": b"{}",
        "model one & two.safetensors": b"weights" * 1000,
        "sub/tokenizer.json": b"[]",
    }
    assert sum("list-type" in each for each in store.asked) == 2
    signature = r"AWS4-HMAC-SHA256 Credential=us/\d{8}/eu-central-1/s3/aws4_request,SignedHeaders="
    assert all(re.match(signature, each) for each in store.signed)


def test_a_pod_that_needs_the_store_again_for_what_it_has(store: Store, tmp_path: Path) -> None:
    assert bring(tmp_path / "gen") == 0
    store.asked.clear()
    assert bring(tmp_path / "gen") == 0
    assert store.asked == []


def test_another_model_s_files_that_stay_among_the_new_ones(store: Store, tmp_path: Path) -> None:
    assert bring(tmp_path / "gen") == 0
    assert bring(tmp_path / "gen", "s3://models/guard/genome/") == 0
    assert files(tmp_path / "gen") == {"config.json": b"another one"}


def test_a_file_cut_short_that_counts_as_brought(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store.cut = {"guard/gen/model one & two.safetensors"}
    assert bring(tmp_path / "gen") == 1
    assert "has 7000 bytes and 3500 of them came" in capsys.readouterr().err
    assert not (tmp_path / "gen" / DONE).exists()
    store.cut = set()
    store.asked.clear()
    assert bring(tmp_path / "gen") == 0
    # What had come as a whole is not asked for again.
    assert not any("config.json" in each for each in store.asked)
    assert files(tmp_path / "gen")["model one & two.safetensors"] == b"weights" * 1000


WEIGHTS = "model one & two.safetensors"


@pytest.mark.parametrize("url", ["s3://models/guard/gen", "s3://models/guard/next"])
def test_files_of_another_model_that_stay_since_they_are_as_long(
    store: Store, tmp_path: Path, url: str
) -> None:
    """The next one is at another address, or was put where the first one was."""
    folder = tmp_path / "gen"
    store.cut = {"guard/gen/sub/tokenizer.json"}
    assert bring(folder) == 1
    assert (folder / WEIGHTS).read_bytes() == b"weights" * 1000
    new = url.removeprefix("s3://models/")
    store.objects |= {f"{new}/config.json": b"{}", f"{new}/{WEIGHTS}": b"WEIGHTS" * 1000}
    store.cut = set()
    assert bring(folder, url) == 0
    assert files(folder)[WEIGHTS] == b"WEIGHTS" * 1000
    assert ("sub/tokenizer.json" in files(folder)) is (new == "guard/gen")


def test_what_a_bucket_says_of_the_folder_it_was_filled_from_is_believed(
    store: Store, tmp_path: Path
) -> None:
    store.objects |= {
        f"guard/gen/{DONE}": b"s3://models/guard/gen",
        f"guard/gen/{TAGS}": b"[]",
        f"guard/gen/{WEIGHTS}.part": b"half",
    }
    store.cut = {f"guard/gen/{WEIGHTS}"}
    assert bring(tmp_path / "gen") == 1
    assert bring(tmp_path / "gen") == 1, "it is said to be there already"
    store.cut = set()
    assert bring(tmp_path / "gen") == 0
    assert files(tmp_path / "gen").keys() == {"config.json", WEIGHTS, "sub/tokenizer.json"}


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("s3://nothing/gen", "the store answers 404: NoSuchBucket"),
        ("s3://models/guard/gem", "nothing is there below guard/gem/"),
        ("s3://models/guard", "has no config.json; name what holds the checkpoint's files"),
    ],
)
def test_a_wrong_address_that_does_not_say_so(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str], url: str, sentence: str
) -> None:
    assert bring(tmp_path / "gen", url) == 1
    said = capsys.readouterr().err
    assert url in said
    assert sentence in said


def test_a_key_that_leads_out_of_the_folder(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store.objects["guard/gen/../../../passwd"] = b"x"
    assert bring(tmp_path / "gen") == 1
    assert "would lie outside of the folder" in capsys.readouterr().err


def test_a_store_that_is_away(
    store: Store,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OBJECT_STORE_ENDPOINT", "http://127.0.0.1:9")
    assert bring(tmp_path / "gen") == 1
    assert "http://127.0.0.1:9 cannot be reached" in capsys.readouterr().err
    monkeypatch.setenv("OBJECT_STORE_ENDPOINT", "store.example")
    assert bring(tmp_path / "gen") == 1
    assert "store.example is no address" in capsys.readouterr().err
    monkeypatch.setenv("OBJECT_STORE_ENDPOINT", f"http://127.0.0.1:{store.server_port}")
    store.talks_nonsense = True
    assert bring(tmp_path / "gen") == 1
    assert "cannot be reached (220 mail.example" in capsys.readouterr().err
    monkeypatch.delenv("OBJECT_STORE_SECRET_KEY")
    assert bring(tmp_path / "gen") == 1
    assert "one of them is missing" in capsys.readouterr().err
    monkeypatch.delenv("OBJECT_STORE_REGION")
    assert bring(tmp_path / "gen") == 1
    assert "set OBJECT_STORE_REGION to the region of its store" in capsys.readouterr().err


ID = "Qwen/Qwen3Guard-Gen-0.6B"
COMMIT = "0123456789abcdef" * 2 + "01234567"


class Hub(ThreadingHTTPServer):
    """A mirror, with as much of the hub's interface as its own client asks of it."""

    def __init__(self, files: dict[str, bytes]) -> None:
        super().__init__(("127.0.0.1", 0), _Fetched)
        self.files = files
        self.fetched: list[str] = []
        self.tokens: set[str | None] = set()


class _Fetched(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = urlsplit(self.path).path
        files = self.server.files
        if path == f"/api/models/{ID}/revision/{COMMIT}":
            siblings = [{"rfilename": name} for name in files]
            body = json.dumps({"id": ID, "sha": COMMIT, "siblings": siblings}).encode()
        elif path == f"/api/models/{ID}/tree/{COMMIT}":
            body = json.dumps(
                [
                    {"type": "file", "path": name, "size": len(files[name]), "oid": "0" * 40}
                    for name in files
                ]
            ).encode()
        elif path.startswith(f"/{ID}/resolve/{COMMIT}/"):
            name = path.rpartition("/")[2]
            body = files[name]
            if self.command == "GET":
                self.server.fetched.append(name)
                self.server.tokens.add(self.headers.get("authorization"))
        else:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.send_header("content-type", "application/json")
        self.send_header("etag", f'"{hashlib.sha256(body).hexdigest()}"')
        self.send_header("x-repo-commit", COMMIT)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


def from_hub(folder: Path, endpoint: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own: the hub's client reads its environment once."""
    return subprocess.run(
        [sys.executable, "-m", "qwarden_engine.download", "hub", ID, COMMIT, str(folder)],
        capture_output=True,
        text=True,
        check=False,
        env={
            **{name: value for name, value in os.environ.items() if not name.startswith("HF_")},
            "HF_ENDPOINT": endpoint,
            "HF_TOKEN": "hf_secret",
            "HF_HOME": str(folder.parent / ".hub"),
        },
    )


def test_a_mirror_that_is_not_asked_or_sends_code_too(tmp_path: Path) -> None:
    wanted = {
        "config.json": b"{}",
        "model.safetensors": b"weights" * 1000,
        "tokenizer.json": b"[]",
    }
    server = Hub({**wanted, "modeling_guard.py": b"raise SystemExit", "README.md": b"#"})
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    folder = tmp_path / "gen" / "Qwen3Guard-Gen-0.6B"
    endpoint = f"http://127.0.0.1:{server.server_port}"
    try:
        done = from_hub(folder, endpoint)
        assert done.returncode == 0, done.stderr
        brought = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
        assert brought.pop(DONE) == f"{ID}@{COMMIT}".encode()
        assert brought == wanted
        assert sorted(server.fetched) == sorted(wanted)
        assert server.tokens == {"Bearer hf_secret"}
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    # A pod whose node comes back needs no hub for what it has.
    assert from_hub(folder, endpoint).returncode == 0


def test_a_hub_that_is_away(tmp_path: Path) -> None:
    done = from_hub(tmp_path / "gen", "http://127.0.0.1:9")
    assert done.returncode == 1
    said = f"{ID} at {COMMIT} cannot be brought from http://127.0.0.1:9 ("
    assert said in done.stderr
    assert "TypeError" not in done.stderr
    # Nor is what an attempt before has left all of it.
    (tmp_path / "gen" / "config.json").write_text("{}")
    done = from_hub(tmp_path / "gen", "http://127.0.0.1:9")
    assert done.returncode == 1
    assert said in done.stderr
    assert (tmp_path / "gen" / "config.json").exists()
