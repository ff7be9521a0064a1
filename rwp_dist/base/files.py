"""Files that are there as a whole or not at all, also after a kill or a power cut."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rwp_dist.base.errors import DataError


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A temporary name to write to; when the block ends well, ``path`` is that file, on disk.

    Raises:
        DataError: it cannot be written.
    """
    # Nodes that share a file system have equal process numbers, so the host is in the name.
    temporary = path.with_name(f".{path.name}.{os.uname().nodename}-{os.getpid()}.tmp")
    try:
        yield temporary
        _sync(temporary)
        temporary.replace(path)
        _sync(path.parent)
    except OSError as error:
        raise _cannot_write(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)


def write_whole(path: Path, data: bytes) -> None:
    """Replace ``path`` by ``data``.

    Raises:
        DataError: it cannot be written.
    """
    with whole_file(path) as temporary:
        temporary.write_bytes(data)


def remove_leftovers(path: Path) -> None:
    """Remove what killed writers of ``path`` left; only where no other one can be at work."""
    for left in path.parent.glob(f".{path.name}.*.tmp"):
        left.unlink(missing_ok=True)


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, unless it is there.

    Raises:
        DataError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _cannot_write(folder, error) from error


def _cannot_write(path: Path, error: OSError) -> DataError:
    return DataError(
        f"{path}: cannot be written ({error.strerror or error}); see to space and permissions, "
        "or name another place."
    )


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
