"""The cache of the stack: real, at one address, and empty after each start."""

from __future__ import annotations

import redis

from qwarden.stack.home import Home
from qwarden.stack.valkey import Valkey


def test_a_killed_cache_returns_at_the_same_address_and_empty(home: Home) -> None:
    with Valkey(home) as valkey:
        url = valkey.url
        redis.Redis.from_url(url).set("key", "value")
        valkey.kill()
        assert not valkey.alive
        valkey.start()
        assert valkey.url == url
        assert redis.Redis.from_url(url).get("key") is None
    assert not valkey.alive
    assert list(home.data("valkey").iterdir()) == []


def test_two_caches_do_not_meet(home: Home) -> None:
    with Valkey(home) as one, Valkey(Home(home.root / "other")) as other:
        redis.Redis.from_url(one.url).set("key", "value")
        assert redis.Redis.from_url(other.url).get("key") is None
