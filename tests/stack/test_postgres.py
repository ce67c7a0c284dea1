"""PostgreSQL of the stack: real, at one address, and it keeps what it committed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from qwarden.stack import postgres as part
from qwarden.stack.errors import StackError
from qwarden.stack.home import Home
from qwarden.stack.postgres import Postgres
from qwarden.stack.process import Process, descendants

Until = Callable[[Callable[[], bool]], None]
_ASLEEP = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'"


@pytest.fixture
def postgres(home: Home) -> Iterator[Postgres]:
    reason = part.available()
    if reason is not None:
        pytest.skip(reason)
    with Postgres(home) as server:
        yield server


def _sql(server: Postgres, statement: str) -> str:
    """What `psql` answers: another client than the services' own."""
    psql = ["psql", "--no-psqlrc", "-v", "ON_ERROR_STOP=1", "-qtA", server.url, "-c", statement]
    ran = subprocess.run(psql, capture_output=True, text=True, check=True, timeout=20)
    return ran.stdout.strip()


def test_a_killed_server_returns_at_the_same_address_with_what_it_committed(
    postgres: Postgres,
) -> None:
    url = postgres.url
    _sql(postgres, "CREATE TABLE kept (n int); INSERT INTO kept VALUES (7)")
    postgres.kill()
    assert not postgres.alive
    postgres.start()
    assert postgres.url == url
    assert _sql(postgres, "SELECT n FROM kept") == "7"
    postgres.stop()
    postgres.start()
    assert _sql(postgres, "SELECT n FROM kept") == "7"


def test_what_is_committed_is_on_the_disk(postgres: Postgres) -> None:
    assert _sql(postgres, "SHOW fsync") == "on"
    assert _sql(postgres, "SHOW synchronous_commit") == "on"
    assert _sql(postgres, "SHOW full_page_writes") == "on"


def test_a_client_that_stays_does_not_hold_up_the_stop(postgres: Postgres, until: Until) -> None:
    psql = ["psql", "--no-psqlrc", postgres.url, "-c", "SELECT pg_sleep(60)"]
    with subprocess.Popen(psql, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as client:
        until(lambda: _sql(postgres, _ASLEEP) == "1")
        began = time.monotonic()
        postgres.stop(grace_s=20)
        assert time.monotonic() - began < 10
        assert client.wait(10) != 0
    assert "database system is shut down" in postgres.child.tail()


def test_nobody_reaches_it_from_another_machine(postgres: Postgres) -> None:
    assert _sql(postgres, "SHOW listen_addresses") == "127.0.0.1"
    assert _sql(postgres, "SHOW unix_socket_directories") == ""
    trusted = "SELECT DISTINCT address FROM pg_hba_file_rules WHERE auth_method = 'trust'"
    assert set(_sql(postgres, trusted).split()) == {"127.0.0.1", "::1"}


def test_two_servers_do_not_meet(postgres: Postgres, home: Home) -> None:
    with Postgres(Home(home.root / "other")) as other:
        _sql(postgres, "CREATE TABLE mine (n int)")
        assert _sql(other, "SELECT to_regclass('mine') IS NULL") == "t"


def test_a_server_does_not_outlive_who_started_it(tmp_path: Path, until: Until) -> None:
    """Where root hands it to another account, it could lose the kernel's word about its parent."""
    if (reason := part.available()) is not None:
        pytest.skip(reason)
    script = (
        "import sys, time; from pathlib import Path\n"
        "from qwarden.stack.home import Home; from qwarden.stack.postgres import Postgres\n"
        "server = Postgres(Home(Path(sys.argv[1]))); server.start()\n"
        "print(server.child.pid, flush=True); time.sleep(600)"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "home")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as starter:
        assert starter.stdout is not None
        server = Process.of(int(starter.stdout.readline()))
        assert server is not None
        everybody = [server, *descendants(server.pid)]
        assert len(everybody) > 3
        os.kill(starter.pid, signal.SIGKILL)
    until(lambda: not any(process.alive for process in everybody))


def test_a_machine_without_it_is_told_what_to_install(
    home: Home, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(part, "_PLACES", "nowhere/*/bin")
    with pytest.raises(StackError, match=r"not installed\. Install it \(Debian: apt install postg"):
        Postgres(home).start()
    assert part.available() is not None


def test_debians_newest_is_found_where_the_path_has_none(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for version in ("9", "17", "16", "common"):
        (tmp_path / version / "bin").mkdir(parents=True)
        (tmp_path / version / "bin" / "postgres").touch()
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(part, "_PLACES", f"{tmp_path}/*/bin")
    assert part._binaries() == tmp_path / "17" / "bin"


def test_root_without_the_account_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(part, "_ACCOUNT", "no-such-account")
    with pytest.raises(StackError, match=r"there is no account no-such-account to run it\. Inst"):
        part._becoming()
