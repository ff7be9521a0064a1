"""Shards on servers and in object stores: downloaded, verified, kept in a cache per node."""

from rwp_dist.data.remote.cache import CacheStats, NodeCache, Shard, file_name
from rwp_dist.data.remote.download import download, read_url, size_of
from rwp_dist.data.remote.locks import locked
from rwp_dist.data.remote.prefetch import Prefetcher
from rwp_dist.data.remote.retry import Attempts, NoAttemptsLeftError, OutOfReachError, Patience

__all__ = [
    "Attempts",
    "CacheStats",
    "NoAttemptsLeftError",
    "NodeCache",
    "OutOfReachError",
    "Patience",
    "Prefetcher",
    "Shard",
    "download",
    "file_name",
    "locked",
    "read_url",
    "size_of",
]
