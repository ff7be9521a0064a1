"""One function for each kind of address: it opens a URL once and streams what comes.

An opener neither retries nor verifies; it says only whether trying again can help:
``TransientError`` if so, ``DataError`` if not. ``source`` retries, ``cache`` verifies.
"""

import contextlib
import http.client
import importlib
import os
import re
import signal
import ssl
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import unquote, urlsplit, urlunsplit
from urllib.request import Request, urlopen

from rwp_dist.base.errors import DataError

READ_BYTES = 1 << 20
"""Most bytes of one read."""
OBJECT_READ_BYTES = 4 << 20
"""Bytes of one request to an object store, which answers whole requests only."""
RETRIED_STATUS = frozenset({408, 425, 429, *range(500, 600)})
CLOUD_SCHEMES = frozenset({"s3", "s3a", "gs", "gcs"})
COMMAND_CANNOT_START = frozenset({126, 127})


class TransientError(Exception):
    """A failure that may be gone at the next attempt; the message is the cause alone."""

    def __init__(self, cause: str, retry_after_s: float = 0.0) -> None:
        super().__init__(cause)
        self.retry_after_s = retry_after_s


@dataclass
class Stream:
    """What one attempt to read a URL gives."""

    chunks: Iterator[bytes]
    """Raises ``TransientError``, ``OSError`` or ``DataError``."""
    start: int = 0
    """Offset of the first byte: the one asked for, or 0 where a source cannot resume."""
    stop: int | None = None
    """Offset behind the last byte that should come. None: the source does not say."""
    version: str | None = None
    """Differs between two contents of one URL. None: the source does not say."""
    abort: Callable[[], None] = lambda: None
    """Ends a read that is under way in another thread, where that is possible."""


def local_path(url: str) -> Path | None:
    """The path that a plain path or a ``file:`` URL names. None: another kind of address."""
    if url.startswith("file:"):
        return Path(unquote(urlsplit(url).path))
    return None if scheme_of(url) else Path(url)


def scheme_of(url: str) -> str:
    """``s3`` of ``s3://...``; empty for a path, which may hold a colon."""
    match = re.match(r"(?:([A-Za-z][A-Za-z0-9+.-]*)://|(pipe):)", url)
    return (match[1] or match[2]).lower() if match else ""


def shown(url: str) -> str:
    """The URL as a message may show it: without a query, which may be a signature."""
    if scheme_of(url) not in {"http", "https"}:
        return url
    scheme, host, path, _, _ = urlsplit(url)
    return urlunsplit((scheme, host.rpartition("@")[2], path, "", ""))


def open_stream(
    url: str, offset: int, end: int | None, stall_s: float, opener: str | None
) -> Stream:
    """Open ``url`` at ``offset`` by the opener that its scheme, or the settings, name.

    Raises:
        DataError: trying again cannot help.
        TransientError: trying again may.
    """
    scheme = scheme_of(url)
    path = local_path(url)
    if path is not None:
        return _open_local(path, offset, end)
    if opener is not None:
        return _open_file_object(url, partial(_named(opener), url), offset)
    handler = _registered(scheme)
    if handler is not None:
        return _open_file_object(url, partial(handler, url, "rb", 8192), offset)
    if scheme in {"http", "https"}:
        return _open_http(url, offset, end, stall_s)
    if scheme in CLOUD_SCHEMES:
        return _open_cloud(url, offset, end)
    if scheme == "pipe":
        return _open_pipe(url)
    from webdataset.gopen import gopen_schemes

    if scheme not in gopen_schemes:
        raise DataError(
            f"{url}: nothing here opens {scheme}://; name a function that does in data.opener, "
            "or by --opener (module:function)."
        )
    return _open_file_object(url, partial(gopen_schemes[scheme], url, "rb", 8192), offset)


def _open_local(path: Path, offset: int, end: int | None) -> Stream:
    try:
        file = path.open("rb")
        size = os.fstat(file.fileno()).st_size
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check the path.") from error

    def chunks() -> Iterator[bytes]:
        with file:
            file.seek(offset)
            while chunk := file.read(READ_BYTES):
                yield chunk

    return Stream(chunks(), offset, size if end is None else min(size, end))


def _open_http(url: str, offset: int, end: int | None, stall_s: float) -> Stream:
    headers = {"User-Agent": "rwp-dist"}
    if offset or end is not None:
        headers["Range"] = f"bytes={offset}-{'' if end is None else end - 1}"
    try:
        # The watchdog gives up first; this ends the thread that it leaves behind.
        response = urlopen(Request(url, headers=headers), timeout=1.5 * stall_s)
    except HTTPError as error:
        with error:
            raise _http_failure(url, error) from error
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        if isinstance(reason, ssl.SSLCertVerificationError):
            cause = f"the server's certificate is not trusted ({reason.verify_message})"
            raise DataError(f"{shown(url)}: {cause}; install its authority's.") from error
        raise TransientError(f"no connection: {reason}") from error

    def chunks() -> Iterator[bytes]:
        with response:
            while chunk := response.read1(READ_BYTES):
                yield chunk

    length = response.headers.get("Content-Length")
    start, stop = 0, int(length) if length else None
    if response.status == 206:
        span = re.match(r"bytes (\d+)-(\d+)/", response.headers.get("Content-Range", ""))
        if span is None:
            raise TransientError("a partial answer that does not say which part it is")
        start, stop = int(span[1]), int(span[2]) + 1
    version = response.headers.get("ETag") or response.headers.get("Last-Modified")
    return Stream(chunks(), start, stop, version)


def _http_failure(url: str, error: HTTPError) -> Exception:
    status = f"the server answered {error.code} {error.reason}"
    if error.code in RETRIED_STATUS:
        wait_s = error.headers.get("Retry-After", "")
        return TransientError(status, float(wait_s) if wait_s.isdigit() else 0.0)
    cure = "check the address and that the shard was uploaded"
    if error.code in {401, 403}:
        cure = "check the credentials, or whether a signed URL has expired"
    elif error.code == 416:
        cure = "the file is shorter than its index says; write the index again"
    return DataError(f"{shown(url)}: {status}; {cure}.")


def _open_cloud(url: str, offset: int, end: int | None) -> Stream:
    try:
        from fsspec.core import url_to_fs

        filesystem, path = url_to_fs(url)
    except ImportError as error:
        raise DataError(
            f"{url}: reading {scheme_of(url)}:// needs a package that is missing; install it with "
            "`pip install rwp-dist[cloud]`."
        ) from error
    with _cloud_failures(url):
        info = filesystem.info(path)
    size = int(info["size"])
    stop = size if end is None else min(size, end)

    def chunks() -> Iterator[bytes]:
        for start in range(offset, stop, OBJECT_READ_BYTES):
            with _cloud_failures(url):
                chunk = filesystem.cat_file(
                    path, start=start, end=min(start + OBJECT_READ_BYTES, stop)
                )
            yield chunk

    return Stream(chunks(), offset, stop, info.get("ETag") or info.get("etag"))


@contextlib.contextmanager
def _cloud_failures(url: str) -> Iterator[None]:
    """Each store has its own exceptions; only those that stay the same are told apart."""
    try:
        yield
    except FileNotFoundError as error:
        raise DataError(f"{url}: is not there; check the bucket and the name.") from error
    except Exception as error:
        if isinstance(error, PermissionError) or "Credential" in type(error).__name__:
            message = f"{url}: access is refused ({error}); check the credentials of this node."
            raise DataError(message) from error
        raise TransientError(f"{type(error).__name__}: {error}") from error


def _open_pipe(url: str) -> Stream:
    messages = tempfile.TemporaryFile()  # noqa: SIM115 - closed by chunks()
    # A session of its own, so that abort reaches every process of a pipeline.
    process = subprocess.Popen(
        url.removeprefix("pipe:"),
        shell=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=messages,
        start_new_session=True,
    )
    assert process.stdout is not None
    output = process.stdout

    def abort() -> None:
        if process.returncode is None:  # once waited for, its number may be another's
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)

    def chunks() -> Iterator[bytes]:
        with messages, output:
            try:
                while chunk := os.read(output.fileno(), READ_BYTES):
                    yield chunk
                status = process.wait()
            finally:
                if process.poll() is None:
                    abort()
                    process.wait()
            if status:
                messages.seek(0)
                words = messages.read()[-300:].decode(errors="replace").split()
                cause = f"the command ended with status {status} ({' '.join(words) or 'silent'})"
                if status in COMMAND_CANNOT_START:
                    raise DataError(f"{url}: {cause}; check the command.")
                raise TransientError(cause)

    return Stream(chunks(), abort=abort)


def _open_file_object(url: str, opener: Callable[[], Any], offset: int) -> Stream:
    try:
        file = opener()
    except FileNotFoundError as error:
        raise DataError(f"{shown(url)}: is not there ({error}); check the address.") from error
    except OSError as error:
        raise TransientError(str(error)) from error
    resumes = hasattr(file, "seekable") and file.seekable()
    if resumes:
        file.seek(offset)

    def chunks() -> Iterator[bytes]:
        with contextlib.closing(file):
            while chunk := file.read(READ_BYTES):
                yield chunk

    process = getattr(file, "proc", None)  # webdataset's openers run a command
    return Stream(
        chunks(), offset if resumes else 0, abort=process.kill if process else lambda: None
    )


def _named(opener: str) -> Callable[[str], Any]:
    module, _, name = opener.partition(":")
    try:
        function = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise DataError(
            f"data.opener (--opener): {opener!r} names no function ({error}); write "
            "module:function."
        ) from error
    return function


def _registered(scheme: str) -> Callable[..., Any] | None:
    """An opener that the user put into webdataset's table; webdataset's own do not count.

    Not imported for this: nobody can have registered anything before, and it imports torch.
    """
    module = sys.modules.get("webdataset.gopen")
    handler = module.gopen_schemes.get(scheme) if module else None
    own = getattr(handler, "__module__", None) == "webdataset.gopen"
    return None if own else handler
