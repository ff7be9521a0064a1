"""The content of a URL, tried again from its start after every failure that may pass.

``cache`` downloads shards with the same parts, and verifies them.
"""

import io
from collections.abc import Generator
from contextlib import closing
from functools import partial
from typing import BinaryIO

from rwp_dist.base.errors import DataError
from rwp_dist.base.text import size
from rwp_dist.data.remote.openers import open_once, read_once
from rwp_dist.data.remote.retry import Attempts, Patience
from rwp_dist.data.remote.watchdog import watched


def read_url(
    url: str,
    *,
    attempts: Attempts | None = None,
    opener: str | None = None,
    most_bytes: int | None = None,
) -> bytes:
    """The content of a URL. Arguments and errors are those of ``download``."""
    file = io.BytesIO()
    download(url, file, attempts=attempts, opener=opener, most_bytes=most_bytes)
    return file.getvalue()


def download(
    url: str,
    file: BinaryIO,
    *,
    attempts: Attempts | None = None,
    opener: str | None = None,
    most_bytes: int | None = None,
) -> None:
    """Write the content of a URL into an empty file, and go back to the file's start.

    Args:
        url: any URL that is not local.
        file: open for writing.
        attempts: what is left of them. None: as ``Patience()`` says.
        opener: ``module:function`` that opens the URL, as ``data.opener``.
        most_bytes: what is longer is refused. None: the disk.

    Raises:
        ConfigError: there is no such opener.
        DataError: it is not there, may not be read, is too long, or every attempt failed.
        OSError: the file cannot be written.
    """
    attempts = attempts or Attempts(url, Patience())

    def write() -> None:
        file.seek(0)
        file.truncate()
        with closing(receive(url, attempts.patience.stall_s, opener)) as pieces:
            for piece in pieces:
                file.write(piece)
                if most_bytes is not None and file.tell() > most_bytes:
                    raise DataError(
                        f"{url}: it has more than {size(most_bytes)}", cure="check the address"
                    )
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
