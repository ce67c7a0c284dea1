"""How a failure is told without what it was about. Pure."""

from __future__ import annotations


def where(error: BaseException) -> str:
    """The kind of an error and the place it came from: its own words can quote content."""
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    kind = type(error).__name__
    if frame is None:
        return kind
    code = frame.tb_frame.f_code
    return f"{kind} in {frame.tb_frame.f_globals.get('__name__')}.{code.co_name}:{frame.tb_lineno}"
