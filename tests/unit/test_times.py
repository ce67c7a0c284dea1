"""Times as people type them: one that is read as another acts on what nobody meant."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from qwarden.cli.times import hours, instant_of

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "instant"),
    [
        ("90m", NOW - timedelta(minutes=90)),
        ("2d", NOW - timedelta(days=2)),
        ("0s", NOW),
        ("2026-02-01T10:00Z", datetime(2026, 2, 1, 10, tzinfo=UTC)),
        ("2026-02-01T10:00+01:00", datetime(2026, 2, 1, 9, tzinfo=UTC)),
    ],
)
def test_a_time_is_read_as_another(text: str, instant: datetime) -> None:
    assert instant_of(text, NOW) == instant


@pytest.mark.parametrize("text", ["yesterday", "2026-02-01T10:00", "5", "-2h", "9" * 20 + "d", ""])
def test_what_is_no_time_is_guessed_at(text: str) -> None:
    with pytest.raises(ValueError, match=r"2026-03-01T12:00Z|add Z"):
        instant_of(text, NOW)


@pytest.mark.parametrize(("text", "length"), [("90m", 1.5), ("24h", 24), ("2d", 48), ("36s", 0.01)])
def test_a_length_of_time_is_read_as_another(text: str, length: float) -> None:
    assert hours("--over", text) == length


@pytest.mark.parametrize("text", ["soon", "24", "0h", "-2h", ""])
def test_what_is_no_length_of_time_is_guessed_at(
    text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        hours("--over", text)
    assert ended.value.code == 2
    assert f"--over: {text!r} is no length of time" in capsys.readouterr().err
