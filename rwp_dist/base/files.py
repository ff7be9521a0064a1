"""Atomic, durable writes: a file is complete or absent, even after a kill or a power cut.

The content goes to a temporary file ``.NAME.HOST-PID.tmp`` in the same folder, which is synced to
disk and then renamed. All functions raise ``OSError`` with the name of the final file.
"""

import codecs
import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


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
        temporary.replace(path)
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
    """Replace a file's content, as UTF-8."""
    write_bytes(path, text.encode())


def read_lines(path: Path) -> list[str]:
    """The lines of a text file that a person or a tool has made, without their ends.

    Byte order marks and ends of lines are those of any system. The text is UTF-8 whatever the
    locale, or UTF-16 if its mark says so, as Windows writes it.

    Raises:
        OSError: it cannot be read.
        UnicodeDecodeError: it is no text.
    """
    data = path.read_bytes()
    wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    text = data.decode("utf-16" if wide else "utf-8-sig")
    # Not str.splitlines: it also ends a line at characters that names may hold.
    return text.replace("\r\n", "\n").replace("\r", "\n").removesuffix("\n").split("\n")


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
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
