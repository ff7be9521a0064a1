"""One cache of whole, verified shards for all processes of a node.

    folder/
        shards/   whole shards
        parts/    downloads under way
        locks/    an empty file per shard, locked while it is downloaded

A download gets its place in ``shards`` by a rename, after its size and sha256 were compared with
the manifest's. To evict a shard is to unlink it: a process that has it open can still read it. So
open files need no locks, and the cache may exceed its limit by what is open.
"""

import hashlib
import os
import re
import secrets
import shutil
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, fields
from functools import partial
from io import FileIO
from pathlib import Path
from typing import NamedTuple, TypeVar
from urllib.parse import urlsplit

from rwp_dist.base import disk
from rwp_dist.base.errors import DataError, RwpError
from rwp_dist.base.files import open_file
from rwp_dist.base.urls import shown
from rwp_dist.data.remote.download import receive
from rwp_dist.data.remote.locks import locked
from rwp_dist.data.remote.retry import Attempts, Patience

T = TypeVar("T")

WAIT_FOR_OTHERS_S = 600.0
"""How long to wait for another process that downloads the same shard, before doing it as well."""
LEFTOVER_S = 3600.0
"""A download that has not been written to for so long is what a killed process left."""


class Shard(NamedTuple):
    """Where a shard, or its index, is, and what its manifest says about it (None: nothing)."""

    url: str
    num_bytes: int | None = None
    sha256: str | None = None
    most_bytes: int | None = None
    """If its size is not known. None: the disk."""


@dataclass(frozen=True)
class CacheStats:
    """What one process did with the cache; ``+`` sums over processes."""

    hits: int = 0
    """Shards that were there already."""
    misses: int = 0
    """Shards that were downloaded."""
    bytes_downloaded: int = 0
    """By attempts that failed, too."""
    retries: int = 0
    """Attempts that failed."""
    evictions: int = 0
    """Shards removed to make room."""

    def __add__(self, other: "CacheStats") -> "CacheStats":
        names = [field.name for field in fields(self)]
        return CacheStats(*(getattr(self, name) + getattr(other, name) for name in names))


class NodeCache:
    """Remote shards as local files. It may be forked and pickled, and threads may share it.

    Args:
        folder: on a local disk; every process of the node names the same one.
        max_bytes: limit of all files in it. None: the disk.
        patience: with the sources.
        opener: ``module:function`` that opens every URL, as ``data.opener``.

    Raises:
        DataError: the folder cannot be used.
    """

    def __init__(
        self,
        folder: Path,
        max_bytes: int | None = None,
        patience: Patience | None = None,
        opener: str | None = None,
    ) -> None:
        self.folder = folder
        self.max_bytes = max_bytes
        self.patience = patience or Patience()
        self.opener = opener
        self._shards, self._parts, self._locks = (folder / n for n in ("shards", "parts", "locks"))
        self._events: deque[CacheStats] = deque()  # of all threads; appending needs no lock
        try:
            for path in (self._shards, self._parts, self._locks):
                path.mkdir(parents=True, exist_ok=True)
            for path in self._leftovers():
                path.unlink(missing_ok=True)
        except OSError as error:
            raise self._unusable(error) from error

    def open(self, shard: Shard) -> FileIO:
        """A remote shard, open for reading at its start; downloaded unless it is here already.

        It stays readable until it is closed, also when it is evicted meanwhile.

        Raises:
            ConfigError: there is no such opener.
            DataError: it cannot be read, is not what the manifest says, or does not fit.
        """
        name = file_name(shard)
        try:
            file = self._find(name, shard.num_bytes)
            if file is None:
                with locked(self._locks / name, WAIT_FOR_OTHERS_S):
                    file = self._find(name, shard.num_bytes)  # another may have fetched it by now
                    if file is None:
                        return self._download(name, shard)
        except OSError as error:
            raise self._unusable(error) from error
        self._events.append(CacheStats(hits=1))
        return file

    def prefetch(self, shard: Shard) -> None:
        """Download a remote shard that is not here, if there is room; ``open`` reports failures."""
        if not (self._shards / file_name(shard)).exists() and self._may_prefetch(shard):
            with suppress(RwpError):
                self.open(shard).close()

    def forget(self, shard: Shard) -> None:
        """Remove a shard; the next ``open`` downloads it again."""
        with suppress(OSError):
            (self._shards / file_name(shard)).unlink(missing_ok=True)

    def take_stats(self) -> CacheStats:
        """Counts since the last call; a forked process inherits those of its parent."""
        total = CacheStats()
        while self._events:
            total += self._events.popleft()
        return total

    def _find(self, name: str, num_bytes: int | None) -> FileIO | None:
        path = self._shards / name
        try:
            file = open_file(path)
        except FileNotFoundError:
            return None
        if num_bytes not in (None, os.fstat(file.fileno()).st_size):  # something has cut it
            file.close()
            path.unlink(missing_ok=True)
            return None
        _touch(file)
        return file

    def _download(self, name: str, shard: Shard) -> FileIO:
        part = self._parts / f"{name}.{secrets.token_hex(4)}"
        file = FileIO(part, "x+")
        attempts = Attempts(shard.url, self.patience)
        before: tuple[int, str] | None = None
        try:
            while True:
                found = attempts.retry(partial(self._receive, file, shard))
                cause = _mismatch(shard, *found)
                if cause is None:
                    break
                if found == before:
                    raise DataError(
                        f"{shown(shard.url)}: {cause}, twice the same; the shard was changed after "
                        "its manifest was written",
                        cure="restore it, or write the manifest again",
                    )
                before = found
                attempts.failed(cause)
            disk.sync(file.fileno())
            file.seek(0)
            _touch(file)
            disk.replace(part, self._shards / name)
        except BaseException:
            file.close()
            part.unlink(missing_ok=True)
            raise
        finally:
            self._events.append(CacheStats(retries=attempts.failures))
        self._events.append(CacheStats(misses=1))
        return file

    def _receive(self, file: FileIO, shard: Shard) -> tuple[int, str]:
        """One attempt: size and sha256 of what came. What is too long is not read to its end."""
        hasher, size = hashlib.sha256(), 0
        most = shard.most_bytes if shard.num_bytes is None else shard.num_bytes
        file.seek(0)
        file.truncate()
        if shard.num_bytes is not None:
            self._make_room(shard.num_bytes)
            self._on_disk(partial(_reserve, file, shard.num_bytes))
        try:
            with closing(receive(shard.url, self.patience.stall_s, self.opener)) as pieces:
                for piece in pieces:
                    size += len(piece)
                    if most is not None and size > most:
                        return most + 1, ""
                    hasher.update(piece)
                    rest = memoryview(piece)
                    while rest:
                        rest = rest[self._on_disk(partial(file.write, rest)) :]
        finally:
            self._events.append(CacheStats(bytes_downloaded=size))
        return size, hasher.hexdigest()

    def _may_prefetch(self, shard: Shard) -> bool:
        """Not while downloads take up half of the cache: they would evict what is being read."""
        under_way = sum(map(_size, self._parts.iterdir())) + (shard.num_bytes or 0)
        return self.max_bytes is None or under_way <= self.max_bytes / 2

    def _make_room(self, num_bytes: int) -> None:
        """Evict shards until ``num_bytes`` more fit under the limit, or none is left."""
        total = shutil.disk_usage(self.folder).total
        if 0 < total < num_bytes:  # else all shards would be evicted for nothing
            raise DataError(
                f"{self.folder}: a shard of {num_bytes} bytes does not fit onto this disk of "
                f"{total} bytes",
                key="data.cache_dir",
                cure="set data.cache_dir to a larger one, or make the manifest again",
            )
        if self.max_bytes is None:
            return
        if num_bytes > self.max_bytes:
            raise DataError(
                f"{self.folder}: a shard of {num_bytes} bytes does not fit into a cache of "
                f"{self.max_bytes} bytes",
                key="data.cache_gb",
                cure="raise data.cache_gb",
            )
        files = (path for folder in (self._shards, self._parts) for path in folder.iterdir())
        self._evict(sum(map(_size, files)) + num_bytes - self.max_bytes)

    def _on_disk(self, action: Callable[[], T]) -> T:
        """What ``action`` returns; while the disk is full, a shard is evicted and it runs again."""
        while True:
            try:
                return action()
            except OSError as error:
                if error.errno not in disk.FULL or not self._evict(1):
                    raise

    def _evict(self, num_bytes: int) -> int:
        """Remove shards, the one used longest ago first, until ``num_bytes`` are freed.

        Returns the bytes freed.
        """
        freed = 0
        for path in (*self._leftovers(), *sorted(self._shards.iterdir(), key=_last_use)):
            if freed >= num_bytes:
                break
            size = _size(path)
            with suppress(FileNotFoundError):  # another process was faster
                path.unlink()
                freed += size
                self._events.append(CacheStats(evictions=1))
        return freed

    def _leftovers(self) -> Iterator[Path]:
        parts = list(self._parts.iterdir())
        with suppress(OSError):  # no place to ask the disk for its time: none is known to be left
            oldest = disk.disk_time(self._locks) - LEFTOVER_S if parts else 0.0
            yield from (path for path in parts if 0 < _last_use(path) < oldest * 1e9)

    def _unusable(self, error: OSError) -> DataError:
        return DataError(
            f"{self.folder}: the cache cannot be kept here ({error.strerror})",
            key="data.cache_dir",
            cure="make room, or set data.cache_dir",
        )


def _mismatch(shard: Shard, size: int, sha256: str) -> str | None:
    if shard.num_bytes not in (None, size):
        found = "more" if size > (shard.num_bytes or 0) else f"only {size}"
        return f"it has {found} bytes where its manifest says {shard.num_bytes}"
    if shard.sha256 not in (None, sha256):
        return "its sha256 is not the manifest's"
    return None


def _touch(file: FileIO) -> None:
    """Note the time of last use, which eviction goes by; the kernel's own clock is too coarse."""
    now = time.time_ns()
    with suppress(OSError):  # a cache that was filled before, and is read-only now
        os.utime(file.fileno(), ns=(now, now))


def _reserve(file: FileIO, num_bytes: int) -> None:
    """Have the disk say at once that it is too full; one that cannot reserve says it later."""
    try:
        os.posix_fallocate(file.fileno(), 0, num_bytes)
    except OSError as error:
        if error.errno not in disk.NOT_OFFERED:
            raise


def file_name(shard: Shard) -> str:
    """Readable, and different for any two URLs, or two contents of one.

    The same when an address is signed anew, if the manifest tells its contents apart.
    """
    base = urlsplit(shard.url).path.rpartition("/")[2] or "shard"
    readable = re.sub(r"[^A-Za-z0-9._-]", "_", base)[-60:]
    url = shown(shard.url) if shard.sha256 else shard.url
    key = f"{url}\n{shard.num_bytes}\n{shard.sha256}"
    return f"{hashlib.sha256(key.encode()).hexdigest()[:20]}-{readable}"


def _size(path: Path) -> int:
    with suppress(FileNotFoundError):
        return path.stat().st_size
    return 0


def _last_use(path: Path) -> int:
    with suppress(FileNotFoundError):
        return path.stat().st_mtime_ns
    return 0
