"""Read in a thread, so that no wait is endless.

No time-out of a library covers every wait (name look-up, the retries of a file system), and a
thread cannot be interrupted. So the reader runs in a thread of its own, and who waits for it gives
up after ``stall_s``. The thread is left behind and ends when its read returns.
"""

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Generator, Iterator

from rwp_dist.base.errors import RwpError
from rwp_dist.data.remote.retry import TransientError

SLOWEST_BYTES_PER_S = 1024
"""A server that sends less counts as stalled: at this rate a shard takes a day."""
QUEUED_PIECES = 4

Pieces = queue.Queue[bytes | Exception | None]


def watched(read: Callable[[], Iterator[bytes]], stall_s: float) -> Generator[bytes, None, None]:
    """The pieces that ``read()`` yields, read in the background.

    Raises:
        TransientError: nothing came for ``stall_s``, or too little; or an unknown exception.
        Exception: any ``RwpError`` or ``TransientError`` of the reader.
    """
    pieces: Pieces = queue.Queue(QUEUED_PIECES)
    stop = threading.Event()
    thread = threading.Thread(
        target=_read_into, args=(pieces, read, stop), daemon=True, name="rwp-read"
    )
    thread.start()
    since, received = time.monotonic(), 0
    try:
        while True:
            try:
                piece = pieces.get(timeout=stall_s)
            except queue.Empty:
                raise TransientError(f"no byte came for {stall_s:g} s") from None
            if piece is None:
                return
            if isinstance(piece, Exception):
                raise piece
            received += len(piece)
            now = time.monotonic()
            if now - since > stall_s:
                if received < SLOWEST_BYTES_PER_S * stall_s:
                    raise TransientError(f"only {received} bytes came in {stall_s:g} s")
                since, received = now, 0
            yield piece
            since += time.monotonic() - now  # the caller's time is not the server's
    finally:
        stop.set()


def _read_into(pieces: Pieces, read: Callable[[], Iterator[bytes]], stop: threading.Event) -> None:
    def put(piece: bytes | Exception | None) -> bool:
        while not stop.is_set():
            with contextlib.suppress(queue.Full):
                pieces.put(piece, timeout=0.2)
                return True
        return False

    try:
        for piece in read():
            if not put(piece):
                return
        put(None)
    except (TransientError, RwpError) as error:
        put(error)
    except Exception as error:
        put(TransientError(f"{type(error).__name__}: {error}"))
