"""Samples of a shard by offset: one ``pread`` and one crc32 each, whole or not at all."""

import os
import threading
from collections import OrderedDict
from typing import Any

from numpy.typing import NDArray

from rwp_dist.base import checksum
from rwp_dist.base.errors import DataError
from rwp_dist.data.remote.cache import NodeCache
from rwp_dist.data.remote.held import Held, Wanted, hold_local
from rwp_dist.data.remote.source import local_path, shown


class BadSample(Exception):  # noqa: N818 - a sample is left out, the run goes on
    """A sample whose bytes are not those that its index describes."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class ShardFiles:
    """The shards that a process holds open, the one used longest ago closed first.

    Threads may share it. A forked process opens its own.

    Args:
        max_open: shards at a time; with a cache these are what it cannot evict.
        cache: for shards that are not local paths.
    """

    def __init__(self, max_open: int = 16, cache: NodeCache | None = None) -> None:
        self._max_open = max_open
        self._cache = cache
        self._begin()

    def __reduce__(self) -> tuple[Any, ...]:
        return ShardFiles, (self._max_open, self._cache)

    def read(self, shard: Wanted, size: int, offset: int) -> bytes:
        """At most ``size`` bytes from ``offset`` on; fewer where the shard ends.

        Raises:
            DataError: the shard cannot be had.
            OSError: the disk cannot read it.
        """
        if self._pid != os.getpid():
            self._forget()
        # Held meanwhile, so that no other thread closes the file.
        with self._lock:
            return os.pread(self._hold(shard).fd, size, offset)

    def close(self) -> None:
        """Let go of all shards; reading opens them again."""
        if self._pid != os.getpid():
            self._forget()
        with self._lock:
            while self._let_go():
                pass

    def _hold(self, shard: Wanted) -> Held:
        held = self._held.get(shard)
        if held is not None:
            self._held.move_to_end(shard)
            return held
        while len(self._held) >= self._max_open:
            self._let_go()
        path = local_path(shard.url)
        if path is not None:
            held = hold_local(path, shard.num_bytes)
        elif self._cache is None:
            raise DataError(
                f"{shown(shard.url)}: a remote shard needs a cache; set data.cache_dir."
            )
        else:
            held = self._cache.fetch(*shard, let_go=self._let_go)
        self._held[shard] = held
        return held

    def _let_go(self) -> bool:
        if not self._held:
            return False
        self._held.popitem(last=False)[1].close()
        return True

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._held: OrderedDict[Wanted, Held] = OrderedDict()

    def _forget(self) -> None:
        # The parent's thread may hold the lock and be changing the table: take neither.
        inherited = self._held
        self._begin()
        for held in list(inherited.values()):
            held.close()


class ShardReader:
    """Samples of one shard.

    Args:
        shard: a path or URL, or a ``Wanted`` with what the manifest says about it.
        index: one row per sample, with the fields ``offset``, ``size`` and ``crc32``.
        files: shared by the readers of a process. None: one of its own, for a local path.
    """

    def __init__(
        self, shard: str | Wanted, index: NDArray[Any], files: ShardFiles | None = None
    ) -> None:
        self.shard = shard if isinstance(shard, Wanted) else Wanted(str(shard))
        self.index = index
        self._files = files or ShardFiles(1)

    def __len__(self) -> int:
        return len(self.index)

    def read(self, row: int) -> bytes:
        """The encoded image of a sample.

        Raises:
            BadSample: its bytes cannot be read, are too few, or have another crc32.
            DataError: the shard cannot be had.
            IndexError: there is no such row.
        """
        entry = self.index[row]
        offset, size, crc32 = int(entry["offset"]), int(entry["size"]), int(entry["crc32"])
        try:
            data = self._files.read(self.shard, size, offset)
        except OSError as error:
            raise self._bad(row, f"cannot be read ({error.strerror})") from error
        if len(data) < size:
            raise self._bad(row, f"is cut off: the shard ends after {len(data)} of {size} bytes")
        if checksum.crc32(data) != crc32:
            raise self._bad(row, "is damaged: its crc32 is not the one of the index")
        return data

    def _bad(self, row: int, what: str) -> BadSample:
        return BadSample(f"{shown(self.shard.url)}: sample {row} {what}")
