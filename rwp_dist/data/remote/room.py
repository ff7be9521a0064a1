"""Room in a cache folder: reserved before a download, made by evicting what nobody holds."""

import errno
import os
from contextlib import suppress
from pathlib import Path

from rwp_dist.base.errors import DataError
from rwp_dist.data.remote import locks

NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT})


class CacheFullError(DataError):
    """Nothing can be evicted, because processes hold all of it."""


class Room:
    """The files of a cache folder, whose sizes together never exceed ``max_bytes``.

    Raises:
        DataError: the folder cannot be made or written.
    """

    def __init__(self, folder: Path, max_bytes: int | None) -> None:
        self.folder = folder
        self.max_bytes = max_bytes
        self.evictions = 0
        """Shards that this process removed for others."""
        self.shards, self.parts, self.locks = (folder / n for n in ("shards", "parts", "locks"))
        self._lock = self.locks / "room"
        try:
            for path in (self.shards, self.parts, self.locks):
                path.mkdir(parents=True, exist_ok=True)
            with locks.exclusive(self._lock):
                self._sweep()
        except OSError as error:
            raise self.broken(error) from error

    def reserve(self, fd: int, size_bytes: int) -> bool:
        """Make a file of ``parts`` so large, on the disk too. False: too much is held for that.

        Raises:
            DataError: it can never fit, or the disk is full.
        """
        if self.max_bytes is not None and size_bytes > self.max_bytes:
            raise DataError(
                f"{self.folder}: a shard of {size_bytes} bytes does not fit into a cache of "
                f"{self.max_bytes} bytes; raise data.cache_gb."
            )
        with locks.exclusive(self._lock):
            more = size_bytes - os.fstat(fd).st_size
            if more <= 0:
                return True
            if self.max_bytes is not None:
                over = self._used() + more - self.max_bytes
                if over > 0:
                    over -= self._sweep()
                while over > 0:
                    freed = self._evict()
                    if not freed:
                        return False
                    over -= freed
            self._allocate(fd, size_bytes)
            return True

    def place(self, name: str) -> Path:
        """Move a verified file from ``parts`` to ``shards``; nobody counts it twice, or not."""
        with locks.exclusive(self._lock):
            return (self.parts / name).rename(self.shards / name)

    def broken(self, error: OSError) -> DataError:
        """What to tell the user about a folder that cannot be used."""
        return DataError(
            f"{self.folder}: the cache cannot be kept here ({error.strerror}); make room, or set "
            "data.cache_dir."
        )

    def _allocate(self, fd: int, size_bytes: int) -> None:
        while True:
            try:
                os.posix_fallocate(fd, 0, size_bytes)
                return
            except OSError as error:
                if error.errno not in NO_SPACE or not self._evict():
                    raise self.broken(error) from error

    def _used(self) -> int:
        return sum(_size(path) for folder in (self.shards, self.parts) for path in folder.iterdir())

    def _evict(self) -> int:
        """Bytes of the shard used longest ago that nobody holds; 0: all are held."""
        for path in sorted(self.shards.iterdir(), key=_last_use):
            # Who opens it meanwhile gets its lock after us, and then finds its name gone.
            with locks.unheld(path) as free:
                if free:
                    size = _size(path)
                    path.unlink(missing_ok=True)
                    self.evictions += 1
                    return size
        return 0

    def _sweep(self) -> int:
        """Bytes of downloads whose process was killed."""
        freed = 0
        for path in self.parts.iterdir():
            with locks.unheld(self.locks / path.name) as free:
                if free:
                    freed += _size(path)
                    path.unlink(missing_ok=True)
        return freed


def _size(path: Path) -> int:
    with suppress(FileNotFoundError):
        return path.stat().st_size
    return 0


def _last_use(path: Path) -> float:
    with suppress(FileNotFoundError):
        return path.stat().st_mtime_ns
    return 0.0
