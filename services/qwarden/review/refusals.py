"""Why something that a person or a tool asked for is not done. Nothing has changed then.

Each is a sentence that names the fix; what stands in front of people gives it its status.
"""

from __future__ import annotations


class Refusal(Exception):
    """The message is a sentence for the one who asked."""

    status = 400
    code = "refused"


class Invalid(Refusal):
    """What was sent cannot be meant: a field lacks, or says what it cannot."""

    status = 422
    code = "invalid"


class NotFound(Refusal):
    """There is no such thing, or it is none of this one's business: both sound alike, so that
    nobody learns what other tenants have."""

    status = 404
    code = "not_found"


class Forbidden(Refusal):
    """This one's roles do not allow it."""

    status = 403
    code = "forbidden"


class Conflict(Refusal):
    """It is not, or no longer, in a state in which that can be done. `holder`: who has it, a
    pseudonym."""

    status = 409
    code = "conflict"

    def __init__(self, sentence: str, *, holder: str | None = None) -> None:
        super().__init__(sentence)
        self.holder = holder


class Stale(Conflict):
    """The lease that was named is over."""

    code = "stale_lease"


class NotSignedIn(Refusal):
    """Nobody knows who asks."""

    status = 401
    code = "not_signed_in"


class TooOften(Refusal):
    """It may be done again after `retry_after_s` seconds."""

    status = 429
    code = "too_often"

    def __init__(self, sentence: str, *, retry_after_s: float) -> None:
        super().__init__(sentence)
        self.retry_after_s = retry_after_s


class Away(Refusal):
    """What it needs cannot be reached; it is worth another try after `retry_after_s` seconds."""

    status = 503
    code = "away"
    retry_after_s = 5.0
