"""The lock of a run directory: one process trains in it. The lock ends with that process.

On a disk without locks (flock), the name of the process in the file is the lock. It keeps out other
processes of this machine; of another machine's nobody can say here whether it still lives.
"""

import fcntl
import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path

from rwp_dist.base import disk
from rwp_dist.base.errors import ConfigError, RunDirError, RwpError

_held: set[FileIO] = set()
"""Files that this process has locked."""

WAIT_S = 0.5
"""How long to wait for a lock: others hold it for a moment to look, or to submit a job."""

_NAME_BYTES = 4096
"""Enough of a lock file to read whose it is."""


def cannot_be_written(folder: Path, error: OSError) -> RwpError:
    """The error of a run directory that does not take files."""
    return disk.unwritable(folder, error, "set run.dir to", key="run.dir", kind=RunDirError)


def holder(path: Path) -> str | None:
    """Who holds a lock file, as ``process PID on HOST``; None if nobody does.

    A process that died holds nothing.
    """
    try:
        with FileIO(path) as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return _names(file)[0]
            except OSError:  # a disk without locks
                name, began = _names(file)
                return name if _lives(name, began) else None
    except OSError:  # no lock file, or one that cannot be read
        pass
    return None


@contextmanager
def locked(path: Path, doing: str, cure: str, key: str | None = None) -> Iterator[None]:
    """Hold a lock file, made with its folder if missing.

    Args:
        path: the file.
        doing: what the holder does with the run, for the message.
        cure: what else to do, for the message.
        key: the setting that the message is about.

    Raises:
        ConfigError: the folder is none that can be written to.
        RunDirError: a living process holds it, or the disk is full or fails.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and not path.is_file():  # a pipe would be waited for
            raise ConfigError(f"{path} is not a file", key=key, cure="remove it")
        file = FileIO(path, "a+")
    except OSError as error:
        raise cannot_be_written(path.parent, error) from None
    with file:
        if other := _lock(file):
            problem = f"{path.parent} is being {doing} already ({other})"
            raise RunDirError(problem, key=key, cure=cure)
        try:
            file.truncate(0)
            file.write(f"{_own_name()}\n{_began(os.getpid())}\n".encode())
        except OSError as error:
            raise cannot_be_written(path.parent, error) from None
        _held.add(file)
        try:
            yield
        finally:
            _held.discard(file)
            with suppress(OSError):
                file.truncate(0)
            with suppress(OSError):  # a disk without locks
                fcntl.flock(file, fcntl.LOCK_UN)  # also for children that were forked meanwhile


def _close_in_child() -> None:
    # A forked worker would keep what its parent held, should the parent be killed.
    for file in _held:
        file.close()
    _held.clear()


os.register_at_fork(after_in_child=_close_in_child)


def _lock(file: FileIO) -> str | None:
    """Lock a file, after a short wait for those who only look (``holder``), or say who has it."""
    end = time.monotonic() + WAIT_S
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return None
        except BlockingIOError:
            if time.monotonic() > end:
                return _names(file)[0]
            time.sleep(0.05)
        except OSError:  # a disk without locks
            name, began = _names(file)
            if _lives(name, began):
                return name
            if name and not name.endswith(_here()):
                what = f"the disk of {file.name!s} has no locks, so make sure that {name} is gone"
                print(f"run.dir: {what}.", file=sys.stderr, flush=True)
            return None


def _names(file: FileIO) -> tuple[str, str]:
    """Whose a lock file is, and when that process began."""
    text = os.pread(file.fileno(), _NAME_BYTES, 0).decode(errors="replace")
    name, _, began = text.partition("\n")
    return name.strip(), began.strip()


def _own_name() -> str:
    return f"process {os.getpid()}{_here()}"


def _here() -> str:
    return f" on {socket.gethostname()}"


def _lives(name: str, began: str) -> bool:
    """Whether a process of this machine still is the one that wrote this."""
    number = name.removeprefix("process ").removesuffix(_here())
    return number.isdigit() and name.endswith(_here()) and began == _began(int(number)) != ""


def _began(process: int) -> str:
    """When a process of this machine began, in the kernel's ticks; empty: there is none."""
    try:
        stat = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    state, *numbers = stat.rpartition(")")[2].split()
    return "" if state == "Z" else numbers[18]
