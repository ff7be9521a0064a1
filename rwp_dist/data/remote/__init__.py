"""Shards on servers and in object stores: downloaded, verified, kept in a cache per node."""

from rwp_dist.data.remote.cache import CacheStats, NodeCache, Shard
from rwp_dist.data.remote.download import download, read_url, size_of
from rwp_dist.data.remote.prefetch import Prefetcher
from rwp_dist.data.remote.retry import Attempts, Patience

__all__ = [
    "Attempts",
    "CacheStats",
    "NodeCache",
    "Patience",
    "Prefetcher",
    "Shard",
    "download",
    "read_url",
    "size_of",
]
