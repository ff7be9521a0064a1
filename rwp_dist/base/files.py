"""Atomic, durable writes, and reads that end.

A written file is complete or absent, even after a kill or a power cut: the content goes to a
temporary file ``.NAME.HOST-PID.tmp`` in the same folder, which is synced to disk and then renamed.
What some disks lack for that is in ``base/disk.py``.

What is read may come from anywhere. So only files are read, never pipes or devices, and none that
is larger than its kind can be. All functions raise ``OSError`` with the name of the file.
"""

import codecs
import errno
import json
import math
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path
from typing import Any

from rwp_dist.base import disk
from rwp_dist.base.text import size

MOST_JSON_BYTES = 1 << 27
"""Of a JSON file: enough for a manifest of 500,000 shards."""
MOST_LIST_BYTES = 1 << 31
"""Of a text file with a line for each sample."""


def expand_home(path: str) -> str:
    """A path that begins with ``~`` or ``~user``, with the home folder in its place.

    Raises:
        ValueError: nobody knows that folder.
    """
    try:
        return str(Path(path).expanduser())
    except RuntimeError:
        user = path.partition("/")[0]
        raise ValueError(f"{user} has no home folder here") from None


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path to write to; it becomes ``path`` when the block ends without an error.

    Makes the folder of ``path`` if needed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Nodes that share a file system may use the same process number, so the host is in the name.
    temporary = path.with_name(f".{path.name}.{os.uname().nodename}-{os.getpid()}.tmp")
    try:
        yield temporary
        _sync(temporary)
        disk.replace(temporary, path)
        with suppress(PermissionError, IsADirectoryError):  # disks where folders cannot be opened
            _sync(path.parent)
    except OSError as error:
        if error.filename not in (None, str(temporary)):
            raise
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(path: Path, data: bytes) -> None:
    """Replace a file's content."""
    with atomic_file(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: Path, text: str) -> None:
    """Replace a file's content, as UTF-8; bytes in names of files that are not are escaped."""
    write_bytes(path, text.encode(errors="backslashreplace"))


def open_file(path: str | Path) -> FileIO:
    """A file, open for reading.

    Raises:
        OSError: it cannot be opened, or it is a pipe, socket or device, which might never end.
    """
    try:
        mode = os.stat(path).st_mode  # noqa: PTH116  a Path costs as much as the call
    except ValueError as error:  # a zero byte, or half of a character
        raise OSError(errno.EINVAL, "no file has such a name", str(path)) from error
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise OSError(errno.EINVAL, "it is a pipe, socket or device, not a file", str(path))
    return FileIO(path)


def read_file(path: Path, most_bytes: int) -> bytes:
    """The content of a file.

    Raises:
        OSError: as ``open_file``, or it has more than ``most_bytes``.
    """
    with open_file(path) as file:
        num_bytes = os.fstat(file.fileno()).st_size
        if num_bytes > most_bytes:
            cause = f"it has {size(num_bytes)}, and {size(most_bytes)} are the most"
            raise OSError(errno.EINVAL, cause, str(path))
        return file.readall()


def read_lines(path: Path) -> list[str]:
    """The lines of a text file, as ``text_lines``.

    Raises:
        OSError: it cannot be read.
        UnicodeDecodeError: it is no text.
    """
    return text_lines(read_file(path, MOST_LIST_BYTES))


def text_lines(data: bytes) -> list[str]:
    """The lines of a text that a person or a tool has made, without their ends.

    Ends of lines are those of any system; for the encoding see ``decoded``.

    Raises:
        UnicodeDecodeError: it is no text.
    """
    text = decoded(data)
    # Not str.splitlines: it also ends a line at characters that names may hold.
    return text.replace("\r\n", "\n").replace("\r", "\n").removesuffix("\n").split("\n")


def decoded(data: bytes) -> str:
    """Text without its byte order mark.

    It is UTF-8 whatever the locale, or UTF-16 if its mark says so, as Windows writes it.

    Raises:
        UnicodeDecodeError: it is no text.
    """
    wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    return data.decode("utf-16" if wide else "utf-8-sig")


def read_json(path: Path) -> Any:
    """The value in a JSON file.

    Raises:
        OSError: it cannot be read.
        ValueError: see ``parse_json``.
    """
    return parse_json(read_file(path, MOST_JSON_BYTES))


def parse_json(text: str | bytes) -> Any:
    """The value of a JSON text.

    Raises:
        ValueError: it is no JSON, nested too deeply, or has a key twice in one object.
    """
    try:
        return json.loads(text, object_pairs_hook=_unique)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object, in which readers would not agree on the value of a key that comes twice."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key comes twice")
    return found


def write_json(path: Path, value: Any) -> None:
    """Replace a file by strict JSON; nan and infinities become null."""
    write_text(path, json.dumps(finite(value), indent=2, ensure_ascii=False) + "\n")


def remove_leftovers(folder: Path, name: str = "*") -> None:
    """Remove the temporary files of killed writers of ``name``.

    Call this only where no other process can be writing these files.
    """
    for left in folder.glob(f".{name}.*.tmp"):
        left.unlink(missing_ok=True)


def finite(value: Any) -> Any:
    """A copy of nested dicts and lists in which nan and infinities, unknown to JSON, are None."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        disk.sync(descriptor)
    finally:
        os.close(descriptor)
