"""Dead letters as people read them in a terminal."""

from __future__ import annotations

from datetime import datetime

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.text import Text

from qwarden import render
from qwarden.contracts.dead_letter import DeadLetter, Mark
from qwarden.dead_letters.letters import Letter


def open_letter(listed: Letter) -> Text:
    """A letter with its place and when it was written."""
    line = Text()
    line.append(f"{listed.letter:<10}", "bold")
    line.append(f"{listed.at:%Y-%m-%d %H:%M:%S}  ")
    line.append_text(
        render.refused(
            listed.origin,
            listed.error_class,
            listed.tenant,
            listed.event_id,
            size=listed.bytes,
            reason=listed.reason,
        )
    )
    if listed.truncated:
        line.append("  (not all of the record)", "yellow")
    return line


def whole_letter(listed: Letter, dead: DeadLetter, done: Mark | None) -> RenderableType:
    """All that a letter holds, its content too, as far as a terminal has room."""
    rows = [
        ("origin", f"{listed.origin.topic}/{listed.origin.partition}/{listed.origin.offset}"),
        ("error class", dead.error_class),
        ("reason", dead.reason),
        ("tenant", dead.tenant),
        ("event_id", dead.event_id),
        ("attempts", str(dead.attempts)),
        ("first tried", _time(dead.first_tried_at)),
        ("last tried", _time(dead.last_tried_at)),
        ("consumer", dead.consumer),
        ("trace", dead.traceparent or ""),
        ("key", dead.key or ""),
        *((f"header {name}", text) for name, text in dead.headers),
    ]
    lines = [
        Text.assemble((render.plain(f"{name:<14} "), "bold"), render.plain(text))
        for name, text in rows
    ]
    if listed.truncated:
        lines.append(Text("The letter does not hold all of its record.", "yellow"))
    sent = dead.content
    lines.append(Text.assemble(("value          ", "bold"), f"{sent.bytes:,} bytes, "))
    lines[-1].append("none" if sent.encoding == "null" else f"as {sent.encoding}:")
    lines.append(render.shortened(sent.value))
    if done is not None:
        lines.append(render.mark(done))
    title = f"dead letter {listed.letter}, {listed.at:%Y-%m-%d %H:%M:%S}"
    return Panel(Group(*lines), title=title, title_align="left", border_style="red")


def _time(at: datetime | None) -> str:
    return f"{at:%Y-%m-%d %H:%M:%S}" if at else ""
