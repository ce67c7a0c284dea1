"""When certificates end, before they do."""

from __future__ import annotations

import time
from datetime import timedelta
from pathlib import Path

from prometheus_client import REGISTRY

from certificates import Authority
from qwarden import settings
from qwarden.certificates import files_of, look


def ends(file: Path) -> float | None:
    labels = {"file": str(file)}
    return REGISTRY.get_sample_value("qwarden_certificate_not_after_seconds", labels)


def test_a_file_of_several_ends_with_its_last(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    soon = authority.issue("soon", lasts=timedelta(hours=2))
    chain = tmp_path / "chain.pem"
    chain.write_bytes(authority.file.read_bytes() + soon.certificate.read_bytes())
    assert look([authority.file, soon.certificate, chain]) == {}
    said = [ends(each) for each in (authority.file, soon.certificate, chain)]
    days, hours, whole = [each for each in said if each is not None]
    assert abs(hours - time.time() - 7200) < 600
    assert whole == hours
    assert days > hours + 3600


def test_a_certificate_that_is_gone_is_said_to_last(tmp_path: Path) -> None:
    file = Authority(tmp_path).issue("server").certificate
    look([file])
    assert ends(file) is not None
    file.write_text("no certificate")
    assert set(look([file])) == {file}
    assert ends(file) is None
    file.unlink()
    assert set(look([file])) == {file}


def test_a_renewed_certificate_is_the_old_one_until_the_next_start(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    file = authority.issue("server", lasts=timedelta(hours=2)).certificate
    look([file])
    before = ends(file)
    authority.issue("server", lasts=timedelta(days=1))
    look([file])
    after = ends(file)
    assert before is not None
    assert after is not None
    assert after > before + 3600


def test_a_certificate_of_a_dependency_is_not_watched(tmp_path: Path) -> None:
    named = {
        "QWARDEN_KAFKA__SECURITY_PROTOCOL": "SSL",
        "QWARDEN_TRITON__TLS": "true",
        "QWARDEN_REDIS__URL": "rediss://127.0.0.1:6379",
        "QWARDEN_REVIEW__DATABASE_URL": "postgresql://127.0.0.1/review",
        "QWARDEN_REGISTRY__URL": "https://127.0.0.1:8081",
    }
    authority = Authority(tmp_path)
    issued = authority.issue("us")
    wanted = set()
    for prefix in ("KAFKA__", "TRITON__", "REDIS__", "REVIEW__DATABASE_", "REGISTRY__"):
        for kind in ("CA", "CERTIFICATE", "KEY") if prefix != "REGISTRY__" else ("CA",):
            file = tmp_path / f"{prefix}{kind}.pem"
            file.write_bytes((issued.key if kind == "KEY" else issued.certificate).read_bytes())
            named[f"QWARDEN_{prefix}{kind}_FILE"] = str(file)
            if kind != "KEY":
                wanted.add(file)
    loaded = settings.load({"QWARDEN_CONTENT_KEY": "ab" * 32, **named})
    assert set(files_of(loaded)) == wanted
