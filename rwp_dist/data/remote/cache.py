"""One cache of whole, verified shards for all processes of a node.

    folder/
        shards/   whole shards; whoever holds one keeps a shared lock on it
        parts/    downloads under way; what a killed process left is swept
        locks/    one empty file per shard, locked while it is downloaded, and ``room``

A shard gets its place in ``shards`` by a rename, after its size and sha256 were found right.
Everything in ``shards`` and ``parts`` counts against the limit, a download with its full size
from its start; see ``room``.
"""

import hashlib
import os
import re
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import closing, suppress
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from rwp_dist.base.errors import DataError
from rwp_dist.data.remote import locks
from rwp_dist.data.remote.held import Held, Wanted, hold_local
from rwp_dist.data.remote.prefetch import Prefetcher
from rwp_dist.data.remote.room import CacheFullError, Room
from rwp_dist.data.remote.source import Attempts, Patience, local_path, read_chunks, shown

__all__ = ["CacheFullError", "CacheStats", "Held", "NodeCache", "Wanted", "hold_local"]

RESERVED_BYTES = 16 << 20
"""Largest step of the reservation for a shard whose size nobody knows."""

LetGo = Callable[[], bool]


@dataclass(frozen=True)
class CacheStats:
    """What one process did with the cache; ``+`` sums over processes."""

    hits: int = 0
    misses: int = 0
    bytes_downloaded: int = 0
    retries: int = 0
    evictions: int = 0

    def __add__(self, other: "CacheStats") -> "CacheStats":
        names = [field.name for field in fields(self)]
        return CacheStats(*(getattr(self, name) + getattr(other, name) for name in names))


class NodeCache:
    """Shards of any URL as local files. It may be forked and pickled, and threads may share it.

    Args:
        folder: on a local disk; every process of the node names the same one.
        max_bytes: limit of all files in it. None: the disk's.
        retries: attempts after the first.
        backoff_s: longest wait before the first retry; doubled for each further one.
        stall_s: longest time without a byte.
        opener: ``module:function`` that opens every URL that is not local.
        look_ahead: how many shards ``prefetch`` takes at most.
        room_s: how long to wait for others to let a shard go when all of them are held.

    Raises:
        DataError: the folder cannot be used.
    """

    def __init__(
        self,
        folder: Path,
        max_bytes: int | None,
        *,
        retries: int = 8,
        backoff_s: float = 0.5,
        stall_s: float = 30.0,
        opener: str | None = None,
        look_ahead: int = 2,
        room_s: float = 60.0,
    ) -> None:
        self.folder = folder
        self.max_bytes = max_bytes
        self.patience = Patience(retries, backoff_s, stall_s=stall_s)
        self._opener = opener
        self._room_s = room_s
        self._look_ahead = look_ahead
        self._room = Room(folder, max_bytes)
        self._prefetcher = Prefetcher(self._prefetch, look_ahead)
        self._begin()

    def __reduce__(self) -> tuple[Any, ...]:
        arguments: dict[str, Any] = {
            "retries": self.patience.retries,
            "backoff_s": self.patience.backoff_s,
            "stall_s": self.patience.stall_s,
            "opener": self._opener,
            "look_ahead": self._look_ahead,
            "room_s": self._room_s,
        }
        return partial(NodeCache, self.folder, self.max_bytes, **arguments), ()

    def fetch(
        self,
        url: str,
        num_bytes: int | None = None,
        sha256: str | None = None,
        *,
        let_go: LetGo = lambda: False,
    ) -> Held:
        """Hold a shard, downloaded if it is not here; a local path is held where it is.

        ``let_go`` is called when everything in the cache is held: it should close one of the
        caller's own, and say whether it did.

        Raises:
            DataError: it cannot be had, or is not what the manifest says.
            CacheFullError: other processes held all of the cache for ``room_s``.
        """
        return self._fetch(Wanted(url, num_bytes, sha256), let_go, self._room_s)

    def prefetch(self, wanted: Iterable[Wanted]) -> None:
        """Download the next shards in the background, one after the other; replaces older wishes.

        What fails, or finds no room, is left to ``fetch``, which says so.
        """
        self._prefetcher.want([item for item in wanted if local_path(item.url) is None])

    def stats(self) -> CacheStats:
        """Counts of this process so far, prefetching included."""
        self._count()
        return CacheStats(**self._counts, evictions=self._room.evictions - self._evictions_before)

    def close(self) -> None:
        """End prefetching after the shard that is under way."""
        self._prefetcher.close()

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._counting = threading.Lock()
        self._counts = {"hits": 0, "misses": 0, "bytes_downloaded": 0, "retries": 0}
        self._evictions_before = self._room.evictions

    def _count(self, **more: int) -> None:
        if self._pid != os.getpid():
            self._begin()
        with self._counting:
            for name, count in more.items():
                self._counts[name] += count

    def _prefetch(self, wanted: Wanted) -> None:
        if not (self._room.shards / _name(wanted)).exists():
            with suppress(DataError), self._fetch(wanted, lambda: False, 0.0):
                pass

    def _fetch(self, wanted: Wanted, let_go: LetGo, room_s: float) -> Held:
        path = local_path(wanted.url)
        if path is not None:
            return hold_local(path, wanted.num_bytes)
        name = _name(wanted)
        try:
            held = self._hold(name, wanted.num_bytes)
            if held is None:
                with locks.exclusive(self._room.locks / name, self._waiting(name, wanted.url)):
                    held = self._hold(name, wanted.num_bytes)
                    if held is None:
                        held = self._download(name, wanted, let_go, room_s)
                        self._count(misses=1)
                        return held
        except OSError as error:
            raise self._room.broken(error) from error
        self._count(hits=1)
        return held

    def _hold(self, name: str, num_bytes: int | None) -> Held | None:
        path = self._room.shards / name
        while True:
            try:
                fd = os.open(path, os.O_RDONLY)
            except FileNotFoundError:
                return None
            locks.share(fd)
            status = os.fstat(fd)
            if status.st_nlink and num_bytes in (None, status.st_size):
                _touch(fd)
                return Held(path, fd)
            if status.st_nlink:  # something else than this cache cut it
                path.unlink(missing_ok=True)
            os.close(fd)

    def _waiting(self, name: str, url: str) -> Callable[[], None]:
        """Nobody waits for ever for a process that was stopped in the middle of a download.

        One that still tries again is waited for: it says so at its file, as bytes that come do.
        """
        limit_s = self.patience.stall_s + self.patience.max_backoff_s + self._room_s + 30
        last = time.time()

        def check() -> None:
            nonlocal last
            with suppress(FileNotFoundError):
                last = max(last, (self._room.parts / name).stat().st_mtime)
            if time.time() - last > limit_s:
                raise DataError(
                    f"{shown(url)}: another process of this node is to download it and has "
                    f"neither received anything nor tried again for {limit_s:.0f} s; end that "
                    "process."
                )

        return check

    def _download(self, name: str, wanted: Wanted, let_go: LetGo, room_s: float) -> Held:
        part = self._room.parts / name
        fd = os.open(part, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)
        attempts = Attempts(wanted.url, self.patience, alive=partial(_touch, fd))
        held = Held(part, fd)
        try:
            locks.share(fd)  # before the rename: nobody can evict it in between
            before: tuple[int, str] | None = None
            while True:
                found = self._receive(fd, wanted, attempts, let_go, room_s)
                cause = _mismatch(wanted, *found)
                if cause is None:
                    break
                if found == before:
                    raise DataError(
                        f"{shown(wanted.url)}: {cause}, twice the same; the shard was changed "
                        "after its manifest was written: restore it, or write the manifest again."
                    )
                before = found
                attempts.failed(cause)
            os.fsync(fd)
            _touch(fd)
            held.path = self._room.place(name)
            return held
        finally:
            self._count(retries=attempts.failures)
            if held.path == part:
                held.close()
                part.unlink(missing_ok=True)

    def _receive(
        self, fd: int, wanted: Wanted, attempts: Attempts, let_go: LetGo, room_s: float
    ) -> tuple[int, str]:
        """Size and sha256 of what came; a shard longer than it should be is not read to its end."""
        hasher = hashlib.sha256()
        size = 0
        step = min(RESERVED_BYTES, (self.max_bytes or RESERVED_BYTES) // 16)
        reserved = wanted.num_bytes or 0
        self._reserve(fd, reserved, let_go, room_s)
        with closing(read_chunks(wanted.url, opener=self._opener, attempts=attempts)) as chunks:
            for chunk in chunks:
                hasher.update(chunk)
                self._count(bytes_downloaded=len(chunk))
                if size + len(chunk) > reserved:
                    if wanted.num_bytes is not None:
                        return size + len(chunk), hasher.hexdigest()
                    reserved = size + max(step, len(chunk))
                    self._reserve(fd, reserved, let_go, room_s)
                view = memoryview(chunk)
                while view:
                    written = os.pwrite(fd, view, size)
                    size, view = size + written, view[written:]
        os.ftruncate(fd, size)
        return size, hasher.hexdigest()

    def _reserve(self, fd: int, size_bytes: int, let_go: LetGo, room_s: float) -> None:
        deadline = time.monotonic() + room_s
        while not self._room.reserve(fd, size_bytes):
            if let_go():
                continue
            if time.monotonic() > deadline:
                raise CacheFullError(
                    f"{self.folder}: no room for a shard, because the processes of this node hold "
                    f"all {self.max_bytes} bytes; raise data.cache_gb, or use fewer workers."
                )
            time.sleep(0.02)


def _touch(fd: int) -> None:
    """Note the time of last use, by which eviction goes; the kernel's own clock is too coarse."""
    now = time.time_ns()
    os.utime(fd, ns=(now, now))


def _mismatch(wanted: Wanted, size: int, sha256: str) -> str | None:
    if wanted.num_bytes not in (None, size):
        more = "more" if size > (wanted.num_bytes or 0) else f"only {size}"
        return f"it has {more} bytes where its manifest says {wanted.num_bytes}"
    if wanted.sha256 not in (None, sha256):
        return "its sha256 is not the manifest's"
    return None


def _name(wanted: Wanted) -> str:
    """Readable, and different for any two URLs, or two contents of one."""
    base = urlsplit(wanted.url).path.rpartition("/")[2] or "shard"
    readable = re.sub(r"[^A-Za-z0-9._-]", "_", base)[-60:]
    key = f"{wanted.url}\n{wanted.num_bytes}\n{wanted.sha256}"
    return f"{hashlib.sha256(key.encode()).hexdigest()[:20]}-{readable}"
