"""What a command runs in: the settings, the local stack's folder, and what is installed."""

from __future__ import annotations

import contextlib
import getpass
import importlib.util
import os
import socket
from collections.abc import Mapping
from pathlib import Path

from qwarden import settings as settings_module
from qwarden.cli.terminal import MISSING, end
from qwarden.settings import Settings
from qwarden.stack.home import Home
from qwarden.stack.running import running


def home() -> Home:
    """The folder of the local stack: QWARDEN_STACK__HOME, or the checkout's."""
    named = os.environ.get("QWARDEN_STACK__HOME")
    return Home(None if named is None else Path(named))


def environ() -> dict[str, str]:
    """The environment over the running local stack's settings, if there is one."""
    # One that was killed leaves its files behind; what they name has ended.
    own = home()
    stack = own.settings() if running(own) is not None else None
    return {**(stack or {}), **os.environ}


def client_settings() -> Settings:
    """The settings of a command that hashes nothing."""
    return keyless(environ())


def keyless(chosen: Mapping[str, str]) -> Settings:
    """The settings that these variables make, for a command that hashes nothing and so needs no
    content key."""
    return settings_module.load({"QWARDEN_CONTENT_KEY": "00" * 32, **chosen})


def keyed(chosen: Mapping[str, str]) -> Settings:
    """The settings that these variables make, for a command that hashes what it judges: with the
    content key of the local stack's folder, running or not, where they name none."""
    key = {}
    if "QWARDEN_CONTENT_KEY" not in chosen:
        with contextlib.suppress(OSError):  # what `load` says then is what to do
            key = {"QWARDEN_CONTENT_KEY": home().content_key()}
    return settings_module.load({**key, **chosen})


def who() -> str:
    """Who runs this command, for what stands on topics."""
    try:
        name = getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        name = "cli"
    return f"{name}@{socket.gethostname()}"


def needs_eval_extra(*names: str) -> None:
    """Ends the command where one of these packages is not installed."""
    for name in names:
        if importlib.util.find_spec(name) is None:
            end(MISSING, f"{name} is not installed; eval needs the extra: qwarden[eval]")
    if "matplotlib" in names:
        os.environ.setdefault("MPLCONFIGDIR", str(home().cache("matplotlib")))
