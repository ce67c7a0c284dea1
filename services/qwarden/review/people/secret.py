"""What only its holder knows: 256 random bits, of which the database has a hash."""

from __future__ import annotations

import hashlib
import secrets

API_TOKEN = "qw_"
"""What tokens of the REST interface begin with, so that leaked ones can be searched for."""


def new_secret() -> str:
    """One that nobody guesses: 43 characters, fit for URLs."""
    return secrets.token_urlsafe(32)


def hash_of(secret: str) -> str:
    """What is kept of it, 64 hexadecimal digits. Neither salt nor work: 256 random bits cannot be
    tried out."""
    return hashlib.sha256(secret.encode(errors="surrogatepass")).hexdigest()
