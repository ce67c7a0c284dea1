"""What is derived from the content key."""

from __future__ import annotations

import hashlib
import hmac

import pytest

from qwarden.contracts.keys import MIN_KEY_BYTES, ContentKey
from qwarden.guard.row import View

SECRET = b"0123456789abcdef0123456789abcdef"
KEY = ContentKey(SECRET)
OTHER = ContentKey(SECRET[::-1])
HASH = KEY.content_hash(b"conversation")


@pytest.mark.parametrize("length", [0, 1, MIN_KEY_BYTES - 1])
def test_a_key_that_can_be_guessed_is_refused_with_a_way_to_make_one(length: int) -> None:
    with pytest.raises(
        ValueError, match=rf"has {length} bytes .* 32; make one with: openssl rand -hex 32$"
    ):
        ContentKey(b"x" * length)
    ContentKey(b"x" * MIN_KEY_BYTES)


def test_a_hash_cannot_be_made_without_the_key() -> None:
    assert OTHER.content_hash(b"conversation") != HASH
    plain = hashlib.sha256(b"conversation").digest()
    assert plain[:16] != HASH
    assert hmac.digest(SECRET, b"conversation", "sha256")[:16] != HASH, "each use has its own key"


def test_other_content_has_another_hash() -> None:
    assert KEY.content_hash(b"conversation2") != HASH
    assert ContentKey(SECRET).content_hash(b"conversation") == HASH
    assert len(HASH) == 16


def _cache_key(
    scope: str = "demo",
    revision: str = "toy@1",
    views: tuple[View, ...] = (View.AS_SENT,),
    key: ContentKey = KEY,
) -> bytes:
    return key.cache_key(HASH, views=views, scope=scope, revision=revision)


def test_one_tenant_is_not_answered_from_anothers_cache() -> None:
    mine = _cache_key()
    assert mine == _cache_key()
    assert mine != _cache_key("forum")
    assert mine != _cache_key(""), "the shared scope is no tenant"
    assert len(mine) == 16


def test_a_new_guard_is_not_answered_from_the_old_ones_cache() -> None:
    assert _cache_key() != _cache_key(revision="toy@2")


def test_one_view_is_not_answered_for_by_another() -> None:
    assert _cache_key() != _cache_key(views=(View.AS_SENT, View.MARKERS_BROKEN))


def test_scope_and_revision_do_not_run_into_each_other() -> None:
    assert _cache_key("ab", "c") != _cache_key("a", "bc")
    assert _cache_key("a", "b", ()) != _cache_key("a", "", (View.AS_SENT,))


def test_a_published_hash_is_not_the_key_of_a_cache_entry() -> None:
    mine = _cache_key("", "", ())
    assert mine != HASH
    assert mine != KEY.content_hash(b"\0\0\0" + HASH)
    assert mine != _cache_key("", "", (), OTHER)


def test_the_id_of_a_key_names_it_and_does_not_tell_it() -> None:
    assert KEY.id == ContentKey(SECRET).id != OTHER.id
    assert len(KEY.id) == 12
    assert bytes.fromhex(KEY.id) not in SECRET
    assert hashlib.sha256(SECRET).hexdigest()[:12] != KEY.id


def test_a_release_forgets_what_was_decided_and_kept_of_equal_content() -> None:
    """Overrides and the cache outlive the process that wrote them."""
    key = ContentKey(SECRET)
    known = key.content_hash(b"conversation")
    assert known.hex() == "7bb75bff45b816b31c1857a050e1d194"
    kept = key.cache_key(known, views=tuple(View), scope="demo", revision="toy@1")
    assert kept.hex() == "599fdb3c574461824969c62472e6dbb0"
    assert key.id == "73dc0f9ad08c"
