"""Settings that stand in each other's way are refused together, with both names."""

from __future__ import annotations

import pytest

from qwarden import settings

KEY = {"QWARDEN_CONTENT_KEY": "ab" * 32}


@pytest.mark.parametrize(
    ("environ", "names"),
    [
        (
            {"QWARDEN_MODERATOR__REVOKE_S": "6", "QWARDEN_KAFKA__SESSION_TIMEOUT_MS": "6000"},
            ("QWARDEN_MODERATOR__REVOKE_S: 6 s", "QWARDEN_KAFKA__SESSION_TIMEOUT_MS (6 s)"),
        ),
        (
            {"QWARDEN_MODERATOR__HUNG_S": "30"},
            ("QWARDEN_MODERATOR__HUNG_S: 30 s", "QWARDEN_KAFKA__REQUEST_TIMEOUT_MS (30 s)"),
        ),
    ],
)
def test_a_timeout_that_cannot_be_kept_is_taken(
    environ: dict[str, str], names: tuple[str, str]
) -> None:
    with pytest.raises(settings.SettingsError) as refused:
        settings.load(KEY | environ)
    for name in names:
        assert name in str(refused.value)


def test_the_defaults_are_refused() -> None:
    assert settings.load(KEY).guard.mode == "triton"
