"""Shards found, and opened for one read from start to end, wherever they are."""

import contextlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from braceexpand import braceexpand

from rwp_dist.base.errors import DataError
from rwp_dist.data.format.tar import Stream
from rwp_dist.data.remote.openers import TransientError, local_path, open_stream, scheme_of
from rwp_dist.data.remote.source import Attempts, Patience, read_chunks


@contextmanager
def open_shard(location: str, opener: str | None = None) -> Iterator[Stream]:
    """Open a local path, or any URL that training can read, with its retries.

    ``opener`` is ``module:function`` with ``function(url) -> binary file``, as ``data.opener`` is.

    Raises:
        DataError: it cannot be opened, or reading it fails inside the block.
    """
    path = local_path(location)
    if path is None:
        with contextlib.closing(read_chunks(location, opener=opener)) as chunks:
            yield _Joined(chunks)
        return
    try:
        with path.open("rb") as file:
            yield file
    except OSError as error:
        raise DataError(
            f"{location}: cannot be read ({error.strerror}); check the path."
        ) from error


def shard_size(location: str, opener: str | None = None) -> int | None:
    """Bytes of a shard, without reading it; None where only reading tells.

    Raises:
        DataError: it is not there.
    """
    path = local_path(location)
    if path is None and scheme_of(location) == "pipe":
        return None
    if path is None:
        return _remote_size(location, opener)
    try:
        return path.stat().st_size
    except OSError as error:
        raise DataError(
            f"{location}: cannot be read ({error.strerror}); check that it is there."
        ) from error


def _remote_size(url: str, opener: str | None) -> int | None:
    attempts = Attempts(url, Patience())
    while True:
        try:
            return open_stream(url, 0, None, attempts.patience.stall_s, opener).stop
        except TransientError as error:
            attempts.failed(str(error), error.retry_after_s)


def is_remote(location: str) -> bool:
    """Whether a location is no local path."""
    return local_path(location) is None


class _Joined:
    """Chunks as a stream that is read by size."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._rest = memoryview(b"")

    def read(self, size: int, /) -> bytes:
        """At most ``size`` bytes; none at the end."""
        if not self._rest:
            self._rest = memoryview(next(self._chunks, b""))
        data, self._rest = self._rest[:size], self._rest[size:]
        return bytes(data)


def expand_shards(patterns: Sequence[str]) -> list[str]:
    """Shards that folders, files, URLs and brace patterns (``{000000..000003}``) name, in order.

    Raises:
        DataError: a folder holds none, braces do not match, or a local file is missing.
    """
    shards: list[str] = []
    for pattern in patterns:
        local = local_path(pattern)
        if local is not None:
            pattern = str(local)  # also of a file: URL
        if local is not None and local.is_dir():
            found = sorted(str(path) for path in local.glob("*.tar"))
            if not found:
                raise DataError(f"{pattern}: there are no .tar files here; name another folder.")
            shards += found
            continue
        try:
            expanded = list(braceexpand(pattern))
        except ValueError as error:
            raise DataError(
                f"{pattern}: the braces do not match; write {{000000..000003}}."
            ) from error
        missing = [path for path in expanded if not is_remote(path) and not Path(path).exists()]
        if missing:
            raise DataError(
                f"{pattern}: {len(missing)} of {len(expanded)} files are missing, the first is "
                f"{missing[0]}; check the path."
            )
        shards += expanded
    return shards
