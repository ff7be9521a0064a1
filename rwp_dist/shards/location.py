"""Where shards are: local paths and URLs, expanded from patterns and opened for one read."""

import math
import posixpath
import re
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path

from braceexpand import braceexpand

from rwp_dist.base.errors import DataError
from rwp_dist.base.files import open_file
from rwp_dist.base.urls import local_path, shown
from rwp_dist.data.format.tar import Stream

MOST_SHARDS = 1_000_000
"""Of one pattern."""
_OTHER_SPLITS = {"val", "valid", "validation", "test"}


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


def name_in_manifest(location: str, folder: Path) -> str:
    """A shard's name in a manifest: relative if it lies beside it, and without secrets."""
    if is_remote(location):
        return shown(location)
    path = Path(location)
    return path.name if path.parent.resolve() == folder.resolve() else str(path.resolve())


def expand_shards(patterns: Sequence[str]) -> list[str]:
    """List the shards that patterns name, in order.

    Args:
        patterns: folders (all their ``.tar`` files), files, URLs, and brace patterns of files and
            URLs such as ``in-{000000..000003}.tar``.

    Raises:
        DataError: a folder holds no shards, braces do not match or name too many, or a local file
            is missing.
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
            _refuse_splits(pattern, tars)
            return tars
    elif "." not in posixpath.basename(shown(pattern)):
        raise DataError(
            f"{shown(pattern)}: this is the address of a folder, and servers do not list those",
            cure="name its shards by a pattern such as URL/{000000..000099}.tar",
        )
    shards = expand_braces(pattern)
    missing = [shard for shard in shards if not is_remote(shard) and not Path(shard).exists()]
    if missing:
        found = f"{len(missing)} of {len(shards)} files are missing, the first is {missing[0]}"
        if len(shards) == 1:
            found = "there is no such file or folder"
        raise DataError(f"{pattern}: {found}", cure="check the path")
    return shards


def _refuse_splits(folder: str, tars: Sequence[str]) -> None:
    """Refuse a folder whose shards are of training and of validation, by their names."""
    words = {word for tar in tars for word in re.findall("[a-z]+", Path(tar).name.lower())}
    if words & {"train", "training"} and (other := words & _OTHER_SPLITS):
        raise DataError(
            f"{folder}: there are shards of train and of {min(other)} here",
            cure="name those of one by a pattern such as FOLDER/train-{000000..000099}.tar, and a "
            "folder of its own by --out",
        )


def expand_braces(pattern: str) -> list[str]:
    """The names that a pattern such as ``in-{000000..000003}.tar`` stands for.

    Raises:
        DataError: its braces do not match, or it stands for more than ``MOST_SHARDS`` names.
    """
    # Counted first, because braceexpand makes them all at once. Nested braces count a bit more.
    most = math.prod(1 + group.count(",") for group in re.findall(r"\{[^{}]*", pattern))
    for first, last in re.findall(r"\{([+-]?\d+)\.\.([+-]?\d+)", pattern):
        few_digits = len(first) < 12 and len(last) < 12
        most *= 1 + abs(int(last) - int(first)) if few_digits else MOST_SHARDS + 1
    if most > MOST_SHARDS:
        raise DataError(
            f"{pattern[:200]}: this stands for more than {MOST_SHARDS:,} names",
            cure="check its braces",
        )
    try:
        return list(braceexpand(pattern))
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"{pattern[:200]}: the braces do not match", cure="write {000000..000003}"
        ) from error


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
        from rwp_dist.data.remote import download  # takes time, which local shards need not

        with tempfile.TemporaryFile() as file:
            download(location, file, opener=opener)
            yield file
        return
    try:
        with BufferedReader(open_file(path)) as file:
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
        from rwp_dist.data.remote import size_of  # as above

        return size_of(location, opener=opener)
    try:
        return path.stat().st_size
    except OSError as error:
        raise _unreadable(location, error) from error


def _unreadable(location: str, error: OSError) -> DataError:
    return DataError(f"{location}: cannot be read ({error.strerror})", cure="check the path")
