"""Standard streams that end no run: UTF-8, open, and without an error when nobody reads them.

A terminal that was closed, ``| head`` that has read enough and a ``tee`` that was killed cost what
would have been shown, and nothing else. Imports nothing that takes time.
"""

import codecs
import errno
import io
import locale
import os
import select
import sys
from typing import Any, TextIO

GONE = {errno.EPIPE, errno.EIO, errno.ENXIO, errno.EBADF, errno.ECONNRESET}
"""Errors of writing to a reader that is gone, and not those of a disk that is full."""

REPLACED = "rwp_dist.replaced"
"""How a stream handles characters that it cannot show."""

PATIENCE_S = 10.0
"""How long a write may wait for the reader of a stream that another program made non-blocking."""

_outliving = False
_unwritten: OSError | None = None


def prepare() -> None:
    """What a program does first. It may begin anew, in UTF-8."""
    _fill_closed()
    _use_utf8()
    outlive_reader()


def outlive_reader() -> None:
    """From now on stdout and stderr of this process raise no errors (see ``unwritten``)."""
    global _outliving
    if not _outliving:  # a process that was forked has such streams
        _outliving = True
        sys.stdout, sys.stderr = _kept(sys.stdout, 1), _kept(sys.stderr, 2)
        sys.stdin = sys.stdin or io.TextIOWrapper(io.FileIO(0, closefd=False), "utf-8")


def unwritten() -> OSError | None:
    """The first error of a stream that somebody should read, such as a full disk's."""
    return _unwritten


def nobody_reads() -> bool:
    """Whether the reader of stdout is gone, or was never there."""
    if sys.stdout is None:
        return True
    try:
        number = sys.stdout.fileno()
    except (OSError, ValueError):  # a test's
        return False
    poll = select.poll()
    poll.register(number, 0)
    return any(happened & (select.POLLERR | select.POLLHUP) for _, happened in poll.poll(0))


def can_redraw(stream: TextIO) -> bool:
    """Whether a stream is a terminal that can show a line anew, as a progress bar does."""
    return stream.isatty() and os.environ.get("TERM", "dumb") not in ("dumb", "")


def in_colour() -> bool | None:
    """Whether to print colours, as the user says (no-color.org, force-color.org); None: to a
    terminal."""
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR"):
        return True
    return False if os.environ.get("TERM") == "dumb" else None


class _Outliving(io.FileIO):
    """A file whose writes raise nothing."""

    def write(self, data: Any, /) -> int:
        global _unwritten
        try:
            written: int | None = super().write(data)
            if written is None:  # the reader is slow, and nothing waits for it
                select.select([], [self], [], PATIENCE_S)
                written = super().write(data)
        except OSError as error:
            if error.errno not in GONE:
                _unwritten = _unwritten or error
            written = None
        return len(data) if written is None else written


def _fill_closed() -> None:
    """Open /dev/null as each standard stream that is closed, as after ``>&-``.

    Or the next file that is opened gets its number, and all that is printed.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest number is free


def _use_utf8() -> None:
    """Begin this process anew in Python's UTF-8 mode if the locale has another encoding.

    Names of files and arguments are UTF-8 then, and so is what libraries read and write. An option
    for that comes too late for a process that has begun. Children inherit it.
    """
    mode = os.environ.get("PYTHONUTF8")
    if sys.getfilesystemencoding() == "utf-8" or mode == "1" or not sys.executable:
        return
    environment = os.environ | {"PYTHONUTF8": "1"}
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)


def _kept(stream: TextIO | None, number: int) -> TextIO:
    """The same stream, whose writes raise nothing; what it cannot show is replaced."""
    raw = _Outliving(number, "w", closefd=False)
    encoding = stream.encoding if stream else "utf-8"
    if raw.isatty() and "PYTHONIOENCODING" not in os.environ:
        encoding = _of_terminal() or encoding
    unbuffered = isinstance(stream, io.TextIOWrapper) and stream.write_through
    return io.TextIOWrapper(
        raw if unbuffered else io.BufferedWriter(raw),
        encoding=encoding,
        errors=REPLACED,
        line_buffering=raw.isatty() or number == 2,
        write_through=unbuffered,
    )


def _replaced(error: UnicodeError) -> tuple[bytes, int]:
    """``?`` for each character, but the bytes of a file's name that is not UTF-8 as they are."""
    assert isinstance(error, UnicodeEncodeError)
    text = error.object[error.start : error.end]
    shown = (bytes([ord(c) - 0xDC00]) if "\udc80" <= c <= "\udcff" else b"?" for c in text)
    return b"".join(shown), error.end


codecs.register_error(REPLACED, _replaced)


def _of_terminal() -> str | None:
    """A terminal's encoding, by its locale; None: UTF-8, or the locale says nothing."""
    try:
        name = codecs.lookup(locale.nl_langinfo(locale.CODESET)).name
    except LookupError:
        return None
    return None if name in ("ascii", "utf-8") else name
