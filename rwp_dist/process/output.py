"""What this process prints, in a log too. The console stays as it is.

Python's streams are copied, not file descriptors: behind a pipe the console would be no terminal,
and a kill would take the last lines. What C code prints is on the console alone. Each piece is
written at once, so that a log has all that was printed before a kill. Imports nothing that takes
time.
"""

import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO, cast

EARLY_PIECES = 10_000
"""Most pieces of text that are kept for the first log."""

_early: list[str] | None = None
"""What was printed before there was a log; None: nothing is copied yet, or there is one."""
_copied = False
_logs: dict[str, int] = {}
"""File descriptors of the logs, by what they are of."""


def copy_output() -> None:
    """From now on keep what this process prints, for the log that ``copy_to`` will name."""
    global _early, _copied
    if not _copied:
        _early, _copied = [], True
        sys.stdout, sys.stderr = _with_copy(sys.stdout), _with_copy(sys.stderr)


def is_copied() -> bool:
    """Whether ``copy_output`` was called in this process."""
    return _copied


def has_log() -> bool:
    """Whether what is printed is in a log, too."""
    return bool(_logs)


def copy_to(log: Path, of: str) -> None:
    """Append to this log, too. Its first lines are those printed before the first log, if it is it.

    A log that cannot be opened or written is left out: that is no reason to stop.

    Args:
        log: the file; its folder is there.
        of: what it is the log of. It takes the place of the one before it of the same.
    """
    global _early
    with suppress(OSError):
        opened = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        if of in _logs:
            os.close(_logs[of])
        _logs[of] = opened
        early, _early = _early or [], None
        write_copy("".join(early))


def write_copy(text: str) -> None:
    """Write to the logs alone; a signal's handler may call it."""
    if _early is not None and len(_early) < EARLY_PIECES:
        _early.append(text)
    data = text.encode("utf-8", "backslashreplace")
    for log in _logs.values():
        with suppress(OSError):
            os.write(log, data)


def _with_copy(stream: TextIO) -> TextIO:
    return cast("TextIO", _Copied(stream)) if stream else stream


class _Copied:
    """A text stream whose writes go to the logs as well."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        count = self._stream.write(text)
        if not text.startswith("\r"):  # a progress bar, which is drawn again and again
            write_copy(text)
        return count

    def writelines(self, lines: list[str]) -> None:
        for line in lines:
            self.write(line)
