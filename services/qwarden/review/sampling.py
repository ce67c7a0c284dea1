"""Which of many are taken as a sample: told by a hash, the same answer for the same name. Pure."""

from __future__ import annotations

import hashlib


def takes(identity: str, share: float) -> bool:
    """Whether a sample of `share`, from 0 to 1, takes what has this name.

    `identity` says what for, too (`second/…`): samples for two ends are independent of each other.
    So are these of the moderator's sample of evidence, which the first digits of the verdict's id
    decide: of what that has let through, the digits themselves would take all or nothing.
    """
    hashed = hashlib.blake2b(identity.encode(), digest_size=8, person=b"qwarden.sample").digest()
    return int.from_bytes(hashed, "big") < share * 2.0**64
