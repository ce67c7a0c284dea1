"""How the engine is spoken to: its settings and its rows, known here alone. Without torch."""

from __future__ import annotations

import json
from typing import Any

from pydantic import ValidationError

from contest.rendering import Messages
from qwarden.guard.conversation import Conversation, Task, Turn
from qwarden_engine.settings import EngineSettings


def row_of(messages: Messages) -> bytes:
    """One conversation in the form that the engine and Triton take."""
    task = Task.PROMPT if messages[-1]["role"] == "user" else Task.RESPONSE
    turns = tuple(Turn(turn["role"], turn["content"]) for turn in messages)
    return Conversation(task, turns).to_json()


def settings_of(checkpoint: str, wanted: dict[str, Any]) -> tuple[EngineSettings, list[str]]:
    """The settings of an engine on a CPU, and those wanted that this engine does not have.

    `floor` 0 with `refusal` false is scores only.
    """
    missing = sorted(set(wanted) - set(EngineSettings.model_fields))
    known = {name: value for name, value in wanted.items() if name not in missing}
    try:
        return EngineSettings(checkpoint=checkpoint, device="cpu", **known), missing
    except ValidationError as error:
        # A dtype that this engine does not know yet.
        if [each["loc"] for each in error.errors()] != [("dtype",)]:
            raise
        del known["dtype"]
        return EngineSettings(checkpoint=checkpoint, device="cpu", **known), [*missing, "dtype"]


def environ_of(settings: EngineSettings) -> dict[str, str]:
    """The same settings for an engine behind Triton."""
    given = settings.model_dump(mode="json", exclude_unset=True)
    return {
        EngineSettings.prefix + name.upper(): value if isinstance(value, str) else json.dumps(value)
        for name, value in given.items()
    }
