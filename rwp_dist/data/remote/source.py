"""Bytes of a URL, whatever carries them: retried, resumed, and never waited for without end.

Local paths and ``file:``, ``http(s)://``, ``s3://`` and ``gs://``, ``pipe:command``, what
webdataset opens, or a function that the settings name. Integrity is checked by ``cache``.
"""

import contextlib
import queue
import random
import sys
import threading
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from functools import partial

from rwp_dist.base import checksum
from rwp_dist.base.errors import DataError
from rwp_dist.data.remote.openers import (
    READ_BYTES,
    Stream,
    TransientError,
    local_path,
    open_stream,
    shown,
)

__all__ = [
    "Attempts",
    "Patience",
    "TransientError",
    "local_path",
    "open_url",
    "read_chunks",
    "shown",
]

SLOWEST_BYTES_PER_S = 1024
"""A server that sends less than this is stalled too: at this rate a shard takes a day."""
QUEUED_CHUNKS = 4
TELLING_FAILURES = 3
"""After so many somebody who waits is told what for, once."""


@dataclass(frozen=True)
class Patience:
    """How long a source may misbehave before a run stops."""

    retries: int = 8
    """Attempts after the first."""
    backoff_s: float = 0.5
    """Longest wait before the first retry; doubled for each further one."""
    max_backoff_s: float = 30.0
    """Longest wait before any retry."""
    stall_s: float = 30.0
    """Longest time without a byte, and longest time to connect."""

    def wait_s(self, failures: int, chance: float) -> float:
        """Wait after so many failures: full jitter, so that nodes do not come back together."""
        return chance * min(self.max_backoff_s, self.backoff_s * 2.0 ** (failures - 1))


class Attempts:
    """The attempts left for one URL, shared by all that can go wrong with it.

    ``alive`` is called before each wait: a sign of life for those who wait for this process.
    """

    def __init__(
        self, url: str, patience: Patience, alive: Callable[[], None] = lambda: None
    ) -> None:
        self.url = url
        self.patience = patience
        self._alive = alive
        self.failures = 0
        # Not the global generator: training must not depend on the network.
        self._random = random.SystemRandom()

    def failed(self, cause: str, retry_after_s: float = 0.0) -> None:
        """Wait for the next attempt.

        Raises:
            DataError: there is none left.
        """
        self.failures += 1
        if self.failures > self.patience.retries:
            raise DataError(
                f"{shown(self.url)}: cannot be read after {self.failures} attempts, the last one: "
                f"{' '.join(cause.split())}; check the source; data.retries lets "
                "training try longer."
            )
        self._alive()
        if self.failures == TELLING_FAILURES:
            left = self.patience.retries - self.failures + 1
            print(
                f"{shown(self.url)}: {' '.join(cause.split())}; "
                f"trying again, {left} times at most.",
                file=sys.stderr,
                flush=True,
            )
        wait_s = self.patience.wait_s(self.failures, self._random.random())
        time.sleep(max(wait_s, min(retry_after_s, self.patience.max_backoff_s)))


def open_url(
    url: str,
    offset: int = 0,
    length: int | None = None,
    *,
    patience: Patience | None = None,
    opener: str | None = None,
) -> bytes:
    """Bytes ``[offset, offset + length)`` of a URL; fewer if it ends before, all without a length.

    Raises:
        DataError: it is not there, may not be read, or every attempt failed.
    """
    chunks = read_chunks(url, offset=offset, length=length, patience=patience, opener=opener)
    return b"".join(chunks)


def read_chunks(
    url: str,
    chunk_bytes: int = READ_BYTES,
    *,
    offset: int = 0,
    length: int | None = None,
    patience: Patience | None = None,
    opener: str | None = None,
    attempts: Attempts | None = None,
) -> Generator[bytes, None, None]:
    """Stream a URL in pieces of at most ``chunk_bytes``; after a failure it goes on where it was.

    A source that cannot resume is read again from its start; what is known already is compared.
    ``opener`` is ``module:function`` with ``function(url) -> binary file``; ``attempts`` lets a
    caller count its own failures, such as a wrong checksum, against the same limit.

    Raises:
        DataError: it is not there, may not be read, changed meanwhile, or every attempt failed.
    """
    attempts = attempts or Attempts(url, patience or Patience())
    stall_s = attempts.patience.stall_s
    end = None if length is None else offset + length
    position, version, crc32 = offset, None, 0
    while end is None or position < end:
        try:
            opening = partial(open_stream, url, position, end, stall_s, opener)
            with contextlib.closing(_watched(opening, stall_s)) as items:
                stream = next(items)
                assert isinstance(stream, Stream)
                if version not in (None, stream.version):
                    raise _changed(url)
                version = stream.version
                if stream.start > position:
                    raise TransientError(f"bytes from {stream.start} on, not from {position}")
                at, again = stream.start, 0
                for chunk in items:
                    assert isinstance(chunk, bytes)
                    if at < position and version is None:
                        known = chunk[max(0, offset - at) : position - at]
                        again = checksum.crc32(known, again)
                        if at + len(chunk) >= position and again != crc32:
                            raise _changed(url)
                    fresh = chunk[max(0, position - at) : None if end is None else end - at]
                    at += len(chunk)
                    position += len(fresh)
                    if version is None:  # else that tells whether it changed, at no cost
                        crc32 = checksum.crc32(fresh, crc32)
                    for first in range(0, len(fresh), chunk_bytes):
                        yield fresh[first : first + chunk_bytes]
                    if end is not None and position >= end:
                        return
                if stream.stop is not None and at < stream.stop:
                    raise TransientError(f"it broke off at byte {at} of {stream.stop}")
            return
        except TransientError as error:
            attempts.failed(str(error), error.retry_after_s)


def _changed(url: str) -> DataError:
    return DataError(f"{shown(url)}: it changed while it was read; start again.")


def _watched(
    opening: Callable[[], Stream], stall_s: float
) -> Generator[Stream | bytes, None, None]:
    """The stream, then its chunks, read by a thread that is left behind when nothing comes.

    No time-out of a library covers every wait (name look-up, a filesystem's own retries, a
    command), and no thread can be interrupted; so the wait itself is what gets bounded.
    """
    items: queue.Queue[Stream | bytes | BaseException | None] = queue.Queue(QUEUED_CHUNKS)
    left = threading.Event()
    thread = threading.Thread(
        target=_read, args=(opening, items, left), daemon=True, name="rwp-read"
    )
    thread.start()
    stream: Stream | None = None
    since, received = time.monotonic(), 0
    try:
        while True:
            try:
                item = items.get(timeout=stall_s)
            except queue.Empty:
                raise TransientError(f"no byte came for {stall_s:g} s") from None
            if item is None:
                return
            if isinstance(item, BaseException):
                raise item
            if isinstance(item, Stream):
                stream = item
            else:
                received += len(item)
            before = time.monotonic()
            if before - since > stall_s:
                if received < SLOWEST_BYTES_PER_S * stall_s:
                    raise TransientError(f"only {received} bytes came in {stall_s:g} s")
                since, received = before, 0
            yield item
            # Time that the caller took is not the source's.
            since += time.monotonic() - before
    finally:
        left.set()
        if stream is not None and thread.is_alive():
            stream.abort()


def _read(
    opening: Callable[[], Stream],
    items: "queue.Queue[Stream | bytes | BaseException | None]",
    left: threading.Event,
) -> None:
    def put(item: Stream | bytes | BaseException | None) -> bool:
        while not left.is_set():
            with contextlib.suppress(queue.Full):
                items.put(item, timeout=0.2)
                return True
        return False

    last: BaseException | None = None
    try:
        stream = opening()
        going = put(stream)
        try:
            while going and (chunk := next(stream.chunks, None)) is not None:
                going = put(chunk)
        finally:
            close = getattr(stream.chunks, "close", None)
            if close is not None:
                close()
    except (TransientError, DataError) as error:
        last = error
    except Exception as error:  # what an opener of the user's raises is anybody's guess
        last = TransientError(f"{type(error).__name__}: {error}")
    put(last)
