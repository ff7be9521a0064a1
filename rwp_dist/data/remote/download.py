"""The content of a URL, tried again from its start after every failure that may pass.

``cache`` downloads shards with the same parts, and verifies them.
"""

from collections.abc import Generator
from contextlib import closing
from functools import partial
from typing import BinaryIO

from rwp_dist.data.remote.openers import open_once, read_once
from rwp_dist.data.remote.retry import Attempts, Patience
from rwp_dist.data.remote.watchdog import watched


def read_url(
    url: str,
    limit: int | None = None,
    *,
    attempts: Attempts | None = None,
    opener: str | None = None,
) -> bytes:
    """The first ``limit`` bytes of a URL, fewer if it ends before; all of them without a limit.

    Args:
        url: any URL that is not local.
        limit: number of bytes.
        attempts: what is left of them. None: as ``Patience()`` says.
        opener: ``module:function`` that opens the URL, as ``data.opener``.

    Raises:
        ConfigError: there is no such opener.
        DataError: it is not there, may not be read, or every attempt failed.
    """
    attempts = attempts or Attempts(url, Patience())

    def read() -> bytes:
        content = bytearray()
        with closing(receive(url, attempts.patience.stall_s, opener)) as pieces:
            for piece in pieces:
                content += piece
                if limit is not None and len(content) >= limit:
                    break
        return bytes(content[:limit])

    return attempts.retry(read)


def download(url: str, file: BinaryIO, *, opener: str | None = None) -> None:
    """Write the content of a URL into an empty file, and go back to the file's start.

    Raises:
        ConfigError: there is no such opener.
        DataError: it is not there, may not be read, or every attempt failed.
        OSError: the file cannot be written.
    """
    attempts = Attempts(url, Patience())

    def write() -> None:
        file.seek(0)
        file.truncate()
        with closing(receive(url, attempts.patience.stall_s, opener)) as pieces:
            for piece in pieces:
                file.write(piece)
        file.seek(0)

    attempts.retry(write)


def size_of(url: str, *, opener: str | None = None) -> int | None:
    """Bytes of a URL's content, without reading it. None: the source does not say.

    Raises:
        ConfigError: there is no such opener.
        DataError: it is not there, may not be read, or every attempt failed.
    """
    attempts = Attempts(url, Patience())

    def ask() -> int | None:
        with open_once(url, attempts.patience.stall_s, opener) as (_, size):
            return size

    return attempts.retry(ask)


def receive(url: str, stall_s: float, opener: str | None) -> Generator[bytes, None, None]:
    """One attempt to read a URL, in pieces, under the watchdog.

    Raises:
        ConfigError, DataError, TransientError: as ``openers.read_once`` and ``watchdog.watched``.
    """
    return watched(partial(read_once, url, stall_s, opener), stall_s)
