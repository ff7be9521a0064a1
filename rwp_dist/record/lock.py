"""The lock of a run directory: one process trains in it. The lock ends with that process."""

import errno
import fcntl
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from rwp_dist.base.errors import RunDirError

_held: set[IO[str]] = set()
"""Files that this process has locked."""

WAIT_S = 0.5
"""How long to wait for a lock: others hold it for a moment to look, or to submit a job."""


def cannot_be_written(folder: Path, error: OSError) -> RunDirError:
    """The error of a run directory that does not take files."""
    return RunDirError(
        f"{folder} cannot be written to ({error.strerror})",
        key="run.dir",
        cure="set run.dir to a folder of yours",
    )


def holder(path: Path) -> str | None:
    """Who holds a lock file, as ``process PID on HOST``; None if nobody does.

    A process that died holds nothing.
    """
    try:
        with path.open(encoding="utf-8") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return file.read().strip()
    except OSError:  # no lock file, or a file system without locks
        pass
    return None


@contextmanager
def locked(path: Path, doing: str, cure: str, key: str | None = None) -> Iterator[None]:
    """Hold a lock file, made with its folder if missing. Without effect where flock is not there.

    Args:
        path: the file.
        doing: what the holder does with the run, for the message.
        cure: what else to do, for the message.
        key: the setting that the message is about.

    Raises:
        RunDirError: a living process holds it, or the folder cannot be written to.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a+", encoding="utf-8")
    except OSError as error:
        raise cannot_be_written(path.parent, error) from None
    with file:
        try:
            _lock(file)
        except OSError as error:
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                yield  # a file system without locks
                return
            file.seek(0)
            raise RunDirError(
                f"{path.parent} is being {doing} already ({file.read().strip()})",
                key=key,
                cure=cure,
            ) from None
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        _held.add(file)
        try:
            yield
        finally:
            _held.discard(file)
            fcntl.flock(file, fcntl.LOCK_UN)  # also for children that were forked meanwhile


def _close_in_child() -> None:
    # A forked worker would keep what its parent held, should the parent be killed.
    for file in _held:
        file.close()
    _held.clear()


os.register_at_fork(after_in_child=_close_in_child)


def _lock(file: IO[str]) -> None:
    """Lock a file, after a short wait for those who only look (``holder``)."""
    end = time.monotonic() + WAIT_S
    while True:
        try:
            return fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > end:
                raise
            time.sleep(0.05)
