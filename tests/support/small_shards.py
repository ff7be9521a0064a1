"""A small data set for tests: on a server, in a cache, with an index."""

import hashlib
import multiprocessing
import zlib

import numpy as np

from rwp_dist.data.remote import NodeCache, Patience, Shard

SIZE = 200_000
FORK = multiprocessing.get_context("fork")
INDEX = np.dtype([("offset", "<u8"), ("size", "<u4"), ("crc32", "<u4"), ("label", "<i4")])


def content(number):
    return np.random.default_rng(number).bytes(SIZE)


def path_of(number):
    return f"/train/{number:06d}.tar"


def shard_at(server, path):
    data = server.files[path]
    return Shard(server.url(path), len(data), hashlib.sha256(data).hexdigest())


def cache_in(folder, max_bytes=None, **patience):
    quick = {"retries": 3, "backoff_s": 0.005, "stall_s": 0.5, **patience}
    return NodeCache(folder / "cache", max_bytes, Patience(**quick))


def files_of(cache):
    return sorted(p.name for kind in ("shards", "parts") for p in (cache.folder / kind).iterdir())


def index_of(data, samples=10):
    size = len(data) // samples
    rows = [
        (start, size, zlib.crc32(data[start : start + size]), 0)
        for start in range(0, samples * size, size)
    ]
    return np.array(rows, dtype=INDEX)
