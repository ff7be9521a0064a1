"""File locks among the processes of a node. The kernel frees them when a process is killed."""

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

_EXCLUSIVE: set[int] = set()
"""Descriptors of exclusive locks that threads of this process hold."""


@contextlib.contextmanager
def exclusive(path: Path, waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Hold the lock file ``path``; ``waiting`` is called now and then meanwhile, and may raise."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    _EXCLUSIVE.add(fd)
    pause_s = 0.005
    try:
        while not try_lock(fd):
            waiting()
            time.sleep(pause_s)
            pause_s = min(0.1, pause_s * 1.5)
        try:
            yield
        finally:
            fcntl.flock(fd, fcntl.LOCK_UN)
    finally:
        _EXCLUSIVE.discard(fd)
        os.close(fd)


def try_lock(fd: int) -> bool:
    """Take the exclusive lock of an open file. False: another holds it."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextlib.contextmanager
def unheld(path: Path) -> Iterator[bool]:
    """Whether nobody holds a lock on a file, and keep it so meanwhile; True if it is not there."""
    try:
        fd = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        yield True
        return
    try:
        yield try_lock(fd)
    finally:
        os.close(fd)


def share(fd: int) -> None:
    """Hold an open file together with others, until it is closed."""
    fcntl.flock(fd, fcntl.LOCK_SH)


def release(fd: int) -> None:
    """Give a lock up, also where a forked process still has the file open."""
    fcntl.flock(fd, fcntl.LOCK_UN)


def _close_in_child() -> None:
    # A forked loader worker must not keep what its parent's thread held, should the parent die.
    for fd in _EXCLUSIVE:
        os.close(fd)
    _EXCLUSIVE.clear()


os.register_at_fork(after_in_child=_close_in_child)
