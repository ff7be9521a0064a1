"""Open a URL once, and tell failures that may pass from failures that stay.

urllib reads http(s), because it needs no other package; fsspec reads s3, gs and every other
protocol that it knows; a function named by ``data.opener`` replaces both. Nothing here tries
again (see ``retry``) or verifies what comes (see ``cache``).
"""

import ssl
from base64 import b64encode
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from http.client import InvalidURL
from netrc import NetrcParseError, netrc
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import unquote, urlsplit, urlunsplit
from urllib.request import Request, urlopen

from rwp_dist.base.errors import DataError, RwpError
from rwp_dist.base.named import load_named
from rwp_dist.base.urls import scheme_of, shown
from rwp_dist.data.remote.retry import OutOfReachError, TransientError

READ_BYTES = 1 << 20
"""Most bytes of one piece."""
OBJECT_READ_BYTES = 4 << 20
"""Bytes of one request to an object store."""
RETRIED_STATUS = frozenset({408, 425, 429, *range(500, 600)})


def read_once(url: str, stall_s: float, opener: str | None) -> Iterator[bytes]:
    """The content of a URL, in pieces of at most ``READ_BYTES``.

    Args:
        url: any URL that is not local.
        stall_s: longest wait for the server, in seconds.
        opener: ``module:function`` with ``function(url) -> binary file``. None: urllib or fsspec.

    Raises:
        ConfigError: there is no such opener.
        DataError: it cannot be read, and trying again would not help.
        TransientError: it cannot be read now, or it broke off.
    """
    with open_once(url, stall_s, opener) as (file, size):
        # read1 returns as soon as there is something, so that a slow server can be recognised.
        read = getattr(file, "read1", file.read)
        received = 0
        while piece := read(READ_BYTES):
            received += len(piece)
            yield piece
        if size is not None and received < size:
            raise TransientError(f"it broke off at byte {received} of {size}")


@contextmanager
def open_once(url: str, stall_s: float, opener: str | None) -> Iterator[tuple[Any, int | None]]:
    """A binary file of a URL, and its size in bytes (None: the source does not say).

    Raises:
        ConfigError, DataError, TransientError: as ``read_once``; also for what fails in the block.
    """
    try:
        with closing(_open(url, stall_s, opener)) as file:
            # urllib's responses have a length, fsspec's files a size.
            size = getattr(file, "length", getattr(file, "size", None))
            yield file, size if isinstance(size, int) else None
    except (RwpError, TransientError):
        raise
    except Exception as error:  # every store, and every opener of a user's, has its own
        raise _failure(url, error) from error


def _open(url: str, stall_s: float, opener: str | None) -> Any:
    if opener is not None:
        return load_named(opener, key="data.opener")(url)
    if scheme_of(url) in {"http", "https"}:
        # The watchdog gives up first. This ends the thread that it leaves behind.
        return urlopen(_request(url), timeout=1.5 * stall_s)
    return _open_by_fsspec(url)


def _request(url: str) -> Request:
    """User and password as HTTP wants them: those of the URL, or those of ``~/.netrc``."""
    parts = urlsplit(url)
    address = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
    request = Request(address, headers={"User-Agent": "rwp-dist"})
    user, password = unquote(parts.username or ""), unquote(parts.password or "")
    if not user and not password:
        with suppress(OSError, NetrcParseError):
            if login := netrc().authenticators(parts.hostname or ""):
                user, password = login[0], login[2] or ""
    if user or password:
        known = b64encode(f"{user}:{password}".encode()).decode()
        # Whoever the server sends us on to does not get it.
        request.add_unredirected_header("Authorization", f"Basic {known}")
    return request


def _open_by_fsspec(url: str) -> Any:
    scheme = scheme_of(url)
    try:
        from fsspec.core import get_filesystem_class, url_to_fs

        get_filesystem_class(scheme)
        filesystem, path = url_to_fs(url)
    except ImportError as error:
        raise OutOfReachError(
            f"{url}: reading {scheme}:// needs a package that is missing ({error})",
            cure="install it; for s3 and gs with `pip install rwp-dist[cloud]`",
        ) from error
    except ValueError as error:  # fsspec knows no such protocol
        raise DataError(
            f"{url}: nothing here opens {scheme}://",
            key="data.opener",
            cure="name a function that does in data.opener, or by --opener (module:function)",
        ) from error
    return filesystem.open(path, "rb", block_size=OBJECT_READ_BYTES)


def _failure(url: str, error: Exception) -> Exception:
    """What to raise for an exception of a library."""
    if isinstance(error, HTTPError):
        return _http_failure(url, error)
    if isinstance(error, FileNotFoundError):
        return DataError(f"{shown(url)}: is not there ({error})", cure="check the address")
    if isinstance(error, PermissionError) or "Credential" in type(error).__name__:
        return OutOfReachError(
            f"{shown(url)}: access is refused ({error})", cure="check the credentials of this node"
        )
    if isinstance(error, ValueError | InvalidURL) or "ParamValidation" in type(error).__name__:
        return DataError(f"{shown(url)}: this is no address ({error})", cure="check it")
    cause = error.reason if isinstance(error, URLError) else error
    if isinstance(cause, ssl.SSLCertVerificationError):
        return OutOfReachError(
            f"{shown(url)}: the server's certificate is not trusted ({cause.verify_message})",
            cure="install the certificate of its authority",
        )
    if isinstance(error, URLError):
        return TransientError(f"no connection: {cause}")
    return TransientError(f"{type(error).__name__}: {error}")


def _http_failure(url: str, error: HTTPError) -> Exception:
    error.close()
    status = f"the server answered {error.code} {error.reason}"
    if error.code in RETRIED_STATUS:
        wait_s = error.headers.get("Retry-After", "")
        return TransientError(status, float(wait_s) if wait_s.isdigit() else 0.0)
    cure = "check the address and that the shard was uploaded"
    if error.code in {401, 403}:
        cure = (
            "check the credentials, in the address or in ~/.netrc, or whether a signed URL has "
            "expired; no file of a run keeps them, so give data.train and data.val again"
        )
        return OutOfReachError(f"{shown(url)}: {status}", cure=cure)
    return DataError(f"{shown(url)}: {status}", cure=cure)
