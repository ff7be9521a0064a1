"""Where shards are: local paths and URLs, expanded from patterns and opened for one read."""

import stat
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from braceexpand import braceexpand

from rwp_dist.base.errors import DataError
from rwp_dist.base.urls import local_path
from rwp_dist.data.format.tar import Stream
from rwp_dist.data.remote import download, size_of


def is_remote(location: str) -> bool:
    """Whether a location is no local path."""
    return local_path(location) is None


def tars_in(folder: Path) -> list[Path]:
    """The ``.tar`` files of a folder, sorted; not the hidden ones, such as a Mac's ``._x.tar``."""
    return sorted(path for path in folder.glob("*.tar") if not path.name.startswith("."))


def count_left_out(patterns: Sequence[str]) -> Counter[str]:
    """How many files of the folders among ``patterns`` ``expand_shards`` leaves out, by kind."""
    folders = {path for pattern in patterns if (path := local_path(pattern)) and path.is_dir()}
    hidden = [path for folder in folders for path in folder.glob(".*.tar")]
    return Counter("hidden file beside shards" for _ in hidden)


def expand_shards(patterns: Sequence[str]) -> list[str]:
    """List the shards that patterns name, in order.

    Args:
        patterns: folders (all their ``.tar`` files), files, URLs, and brace patterns of files and
            URLs such as ``in-{000000..000003}.tar``.

    Raises:
        DataError: a folder holds no shards, braces do not match, or a local file is missing.
    """
    return [shard for pattern in patterns for shard in _expand(pattern)]


def _expand(pattern: str) -> list[str]:
    local = local_path(pattern)
    if local is not None:
        pattern = str(local)  # a file: URL becomes a path
        if local.is_dir():
            tars = [str(path) for path in tars_in(local)]
            if not tars:
                raise DataError(
                    f"{pattern}: there are no .tar files here", cure="name another folder"
                )
            return tars
    try:
        shards = list(braceexpand(pattern))
    except ValueError as error:
        raise DataError(
            f"{pattern}: the braces do not match", cure="write {000000..000003}"
        ) from error
    missing = [shard for shard in shards if not is_remote(shard) and not Path(shard).exists()]
    if missing:
        raise DataError(
            f"{pattern}: {len(missing)} of {len(shards)} files are missing, the first is "
            f"{missing[0]}",
            cure="check the path",
        )
    return shards


@contextmanager
def open_shard(location: str, opener: str | None = None) -> Iterator[Stream]:
    """Open a shard for one read from start to end; failed reads of a URL are retried.

    Args:
        location: a local path, or any URL that training can read.
        opener: ``module:function`` with ``function(url) -> binary file``, as ``data.opener``.

    Raises:
        DataError: it cannot be opened, or reading it fails inside the block.
    """
    path = local_path(location)
    if path is None:
        with tempfile.TemporaryFile() as file:
            download(location, file, opener=opener)
            yield file
        return
    try:
        mode = path.stat().st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):  # a pipe would be waited for
            raise DataError(f"{location}: this is no file", cure="write it to a file first")
        with path.open("rb") as file:
            yield file
    except OSError as error:
        raise _unreadable(location, error) from error


def shard_size(location: str, opener: str | None = None) -> int | None:
    """Bytes of a shard, without reading it; None if only reading tells.

    Raises:
        DataError: it is not there.
    """
    path = local_path(location)
    if path is None:
        return size_of(location, opener=opener)
    try:
        return path.stat().st_size
    except OSError as error:
        raise _unreadable(location, error) from error


def _unreadable(location: str, error: OSError) -> DataError:
    return DataError(f"{location}: cannot be read ({error.strerror})", cure="check the path")
