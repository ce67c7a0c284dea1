"""The policies that are always there: `default`, `strict` and `loose`."""

from __future__ import annotations

from typing import Any

from qwarden.policy.file import PolicyFile

_TERMS = {
    "ground": "terms",
    "clause": "content policy",
    "text": {"en": "This is against the content policy."},
}


def _rules(controversial: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {"name": "unsafe", "when": {"safety": "Unsafe"}, "then": "block", **_TERMS},
        {"name": "controversial", "when": {"safety": "Controversial"}, **controversial},
        {"name": "otherwise", "then": "allow"},
    ]


def _built_in(name: str, controversial: dict[str, Any]) -> PolicyFile:
    return PolicyFile.model_validate({"name": name, "rules": _rules(controversial)})


FILES: dict[str, PolicyFile] = {
    file.name: file
    for file in (
        _built_in(
            "default",
            {
                "then": "review",
                **_TERMS,
                "queue": "general",
                "harm": 3,
                "sla": "1d",
                "meanwhile": "hide",
                "on_breach": "raise",
            },
        ),
        # Qwen3Guard's two binary readings (technical report, section 3): strict takes
        # Controversial for Unsafe, loose takes it for Safe.
        _built_in("strict", {"then": "block", **_TERMS}),
        _built_in("loose", {"then": "allow"}),
    )
}
