"""The shared cache that an address names."""

from __future__ import annotations

from qwarden.cache.cluster import ClusterCache
from qwarden.cache.port import AssessmentCache
from qwarden.cache.redis import RedisCache
from qwarden.redis_address import read_address
from qwarden.settings import Certificates


def open_cache(
    url: str,
    *,
    ttl_s: int,
    timeout_s: float,
    pause_s: float,
    certificates: Certificates | None = None,
) -> AssessmentCache:
    """Of one server, of the one that Sentinels name, or of a cluster. Nothing is connected yet.

    Raises `ValueError` for another address, `SettingsError` for certificates of no use.
    """
    if read_address(url).kind == "cluster":
        return ClusterCache(
            url, ttl_s=ttl_s, timeout_s=timeout_s, pause_s=pause_s, certificates=certificates
        )
    return RedisCache(url, ttl_s=ttl_s, timeout_s=timeout_s, certificates=certificates)
