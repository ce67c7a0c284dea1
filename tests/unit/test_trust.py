"""Whom HTTP connections trust whose settings name no certificates: whom the system trusts."""

from __future__ import annotations

import socket
from pathlib import Path

import certifi
import pytest

from qwarden.doctor.finding import Findings, Result
from qwarden.doctor.web_probe import look_at_issuer
from qwarden.review.people.oidc import Issuer
from qwarden.settings import Oidc


@pytest.fixture
def oidc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Oidc:
    """Where nobody answers, on a machine that cannot read the list of the web's authorities."""
    monkeypatch.setattr(certifi, "where", lambda: str(tmp_path / "the web's.pem"))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        url = f"https://127.0.0.1:{listening.getsockname()[1]}"
    return Oidc.model_validate({"issuer": url, "client_id": "us", "client_secret": "s"})


async def test_a_company_s_issuer_is_not_trusted_at_sign_in(oidc: Oidc) -> None:
    await Issuer(oidc, "https://review").close()


async def test_a_company_s_issuer_is_not_trusted_by_the_doctor(oidc: Oidc) -> None:
    found = Findings("oidc")
    await look_at_issuer(found, oidc, "https://review")
    ((about, result),) = [(each.about, each.result) for each in found.all]
    assert (about, result) == (oidc.issuer, Result.AWAY)
