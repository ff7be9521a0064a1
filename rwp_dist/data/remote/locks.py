"""File locks among the processes of a node. The kernel frees them when a process is killed."""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PAUSE_S = 0.02

_held: set[int] = set()
"""Descriptors of locks that threads of this process hold or wait for."""


@contextmanager
def locked(path: Path, wait_s: float) -> Iterator[None]:
    """Hold the lock file ``path`` while the block runs.

    The block runs without the lock if another process keeps it for ``wait_s`` seconds, or on a disk
    without locks. So use it to save work, not to keep data whole.
    """
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    _held.add(fd)
    deadline = time.monotonic() + wait_s
    try:
        while not _try_lock(fd) and time.monotonic() < deadline:
            time.sleep(PAUSE_S)
        yield
    finally:
        _held.discard(fd)
        os.close(fd)


def _try_lock(fd: int) -> bool:
    """Whether there is nothing to wait for."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a disk without locks
        return True
    return True


def _close_in_child() -> None:
    # A forked worker would keep what a thread of its parent held, should the parent be killed.
    for fd in _held:
        os.close(fd)
    _held.clear()


os.register_at_fork(after_in_child=_close_in_child)
