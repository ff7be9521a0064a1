"""A shard as a file that stays where it is while somebody holds it."""

import os
from pathlib import Path
from typing import NamedTuple

from rwp_dist.base.errors import DataError
from rwp_dist.data.remote import locks


class Wanted(NamedTuple):
    """A shard and what its manifest says about it (None: nothing)."""

    url: str
    num_bytes: int | None = None
    sha256: str | None = None


class Held:
    """A shard that stays where it is until this is closed, or left as a context manager."""

    def __init__(self, path: Path, fd: int) -> None:
        self.path = path
        self.fd = fd
        """Open for reading; use ``os.pread``, as its position is shared. -1: closed."""
        self._pid = os.getpid()

    def close(self) -> None:
        """Let go. In a forked process this leaves the parent's hold as it is."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            if os.getpid() == self._pid:
                locks.release(fd)
            os.close(fd)

    def __enter__(self) -> "Held":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()


def hold_local(path: Path, num_bytes: int | None = None) -> Held:
    """Hold a shard that lies on a disk already.

    Raises:
        DataError: it cannot be read, or has another size than the manifest says.
    """
    try:
        fd = os.open(path, os.O_RDONLY)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check the path.") from error
    held = Held(path, fd)
    size = os.fstat(fd).st_size
    if num_bytes not in (None, size):
        held.close()
        raise DataError(
            f"{path}: has {size} bytes where its manifest says {num_bytes}; write the shard again, "
            "or its manifest."
        )
    return held
