"""The files of a stack: secrets stay private, and what is kept stays the same."""

from __future__ import annotations

import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from qwarden.stack.home import Home
from qwarden.stack.ports import free_ports


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_the_content_key_does_not_change_between_starts(home: Home) -> None:
    with ThreadPoolExecutor(8) as pool:
        keys = set(pool.map(lambda _: Home(home.root).content_key(), range(16)))
    (key,) = keys
    assert len(bytes.fromhex(key)) == 32


def test_others_cannot_read_the_secrets(home: Home) -> None:
    home.content_key()
    home.write_settings({"QWARDEN_CONTENT_KEY": "00"})
    assert _mode(home.root / "content.key") == 0o600
    assert _mode(home.root / "stack.env") == 0o600


def test_settings_come_back_as_they_were_written(home: Home) -> None:
    settings = {"QWARDEN_REDIS__URL": "redis://a:b=c@host/0", "QWARDEN_EMPTY": "", "HASH": "a # b"}
    home.write_settings(settings)
    assert home.settings() == settings


def test_a_value_with_a_line_break_does_not_become_a_setting(home: Home) -> None:
    with pytest.raises(ValueError, match="line break"):
        home.write_settings({"QWARDEN_A": "x\nQWARDEN_B=y"})


def test_a_stack_that_ended_leaves_no_addresses(home: Home) -> None:
    home.write_settings({"A": "1"})
    home.write_addresses({"kafka": "h:1"})
    home.forget()
    assert home.addresses() is None
    assert home.settings() is None


def test_ports_do_not_collide() -> None:
    with ThreadPoolExecutor(8) as pool:
        ports = [port for given in pool.map(lambda _: free_ports(5), range(20)) for port in given]
    assert len(set(ports)) == 100
