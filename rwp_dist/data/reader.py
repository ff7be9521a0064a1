"""Samples of a shard by offset: one ``preadv`` and one crc32 each, whole or not at all."""

import os
from collections import OrderedDict
from io import FileIO
from pathlib import Path
from typing import Any

from rwp_dist.base import checksum
from rwp_dist.base.errors import DataError
from rwp_dist.base.files import open_file
from rwp_dist.base.urls import local_path, shown
from rwp_dist.data.format.index import Index
from rwp_dist.data.remote import NodeCache, Shard
from rwp_dist.process.limits import open_files

OPEN_SHARDS = 128
"""Most local shards that a process keeps open, unless told otherwise or few files may be open."""


FIRST_BYTES = 2**18
"""Room for a sample; it grows with them."""


class BadSample(Exception):  # noqa: N818 - a sample is left out, the run goes on
    """A sample whose bytes are not those that its index describes."""


class ShardFiles:
    """The shards that a process keeps open. The one used longest ago is closed first.

    A forked process may go on reading. Threads may not share it.

    Args:
        max_open: most shards that are open at a time. A shard that the cache evicts takes up disk
            until it is closed.
        cache: for shards that are not local paths.
    """

    def __init__(self, max_open: int = OPEN_SHARDS, cache: NodeCache | None = None) -> None:
        self._max_open = min(max_open, max(open_files() // 4, 1))
        self._cache = cache
        self._files: OrderedDict[Shard, FileIO] = OrderedDict()
        self._memory = memoryview(bytearray(FIRST_BYTES))

    def __reduce__(self) -> tuple[Any, ...]:
        return ShardFiles, (self._max_open, self._cache)

    def sample(self, shard: Shard, index: Index, row: int) -> bytes:
        """The encoded image of a row of the shard's index.

        Raises:
            BadSample: its bytes cannot be read, are too few, or have another crc32.
            DataError: the shard cannot be opened or downloaded.
        """
        return bytes(self.view(shard, index, row))

    def view(self, shard: Shard, index: Index, row: int) -> memoryview:
        """The same bytes, in memory that the next call writes to.

        It stays in the core's cache, where memory of their own for each sample would not: that
        takes twice as long.
        """
        offset, size, crc32, _ = index[row].item()
        if size > len(self._memory):
            self._memory = memoryview(bytearray(2 * size))
        data = self._memory[:size]
        try:
            found = os.preadv(self._opened(shard).fileno(), [data], offset)
        except OSError as error:
            problem = f"cannot be read ({error.strerror})"
        else:
            if found == size and checksum.crc32(data) == crc32:
                return data
            problem = "is damaged: its crc32 is not the one of the index"
            if found < size:
                problem = f"is cut off: the shard ends after {found} of {size} bytes"
        raise BadSample(f"{shown(shard.url)}: sample {row} {problem}")

    def close(self) -> None:
        """Close all shards. Reading opens them again."""
        while self._files:
            self._files.popitem()[1].close()

    def _opened(self, shard: Shard) -> FileIO:
        file = self._files.get(shard)
        if file is None:
            while len(self._files) >= self._max_open:
                self._files.popitem(last=False)[1].close()
            file = self._files[shard] = open_shard(shard, self._cache)
        self._files.move_to_end(shard)
        return file


def open_shard(shard: Shard, cache: NodeCache | None) -> FileIO:
    """A shard, open for reading; a remote one from the cache, which downloads it first.

    Raises:
        DataError: it cannot be read or downloaded, or has not the size of its manifest.
    """
    path = local_path(shard.url)
    if path is not None:
        return open_local(path, shard.num_bytes)
    assert cache is not None, f"{shown(shard.url)}: a remote shard needs a cache"
    return cache.open(shard)


def open_local(path: Path, num_bytes: int | None) -> FileIO:
    """A local shard, open for reading.

    Raises:
        DataError: it cannot be read, or has not the ``num_bytes`` of its manifest (None: unknown).
    """
    cure = "write the shard again, or its manifest with `rwp-dist shards index`"
    try:
        file = open_file(path)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})", cure=cure) from error
    size = os.fstat(file.fileno()).st_size
    if num_bytes not in (None, size):
        file.close()
        raise DataError(f"{path}: has {size} bytes where its manifest says {num_bytes}", cure=cure)
    return file
