"""``metrics.jsonl``: one JSON record a line. A killed writer may leave a torn line.

Steps never decrease in it, because each attempt first cuts what comes after its checkpoint. So a
resume reads only the end of the file.
"""

import os
import shutil
from collections.abc import Iterable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

from rwp_dist.base.files import atomic_file, parse_json

Record = dict[str, Any]

BLOCK_BYTES = 1 << 16
"""Read at once from the end of the file: some hundred records."""


def read_metrics(path: Path, kind: str | None = None) -> list[Record]:
    """The records in their order, of one ``kind`` or of all; torn lines are left out."""
    if not path.is_file():
        return []
    with path.open("rb") as file:
        lines = file if kind is None else _of_kind(file, kind)
        records = [record for line in lines if (record := _record_in(line)) is not None]
    return [record for record in records if kind in (None, record.get("kind"))]


def read_last_metrics(path: Path, first_step: int) -> list[Record]:
    """The records of ``first_step`` and later steps, in their order."""
    found = list[Record]()
    if path.is_file():
        with path.open("rb") as file:
            for line in _lines_from_end(file):
                record = _record_in(line)
                step = 0 if record is None else _step_of(record)
                if 0 < step < first_step:
                    break
                if record is not None and step >= first_step:
                    found.append(record)
    return found[::-1]


def cut_metrics(path: Path, last_step: int) -> None:
    """Drop what an interrupted attempt logged after the checkpoint that is resumed.

    A record without a step stays. A crash meanwhile loses nothing that stays.

    Args:
        path: the file; it may be missing.
        last_step: the checkpoint's step; 0 starts anew and drops every record.
    """
    if not path.is_file():
        return
    if last_step <= 0:
        os.truncate(path, 0)
        return
    looked_at, kept = list[bytes](), list[bytes]()  # both from the end of the file
    with path.open("rb") as file:
        for line in _lines_from_end(file):
            record = _record_in(line)
            step = 0 if record is None else _step_of(record)
            if 0 < step <= last_step and line.endswith(b"\n"):
                break
            looked_at.append(line)
            if record is not None and step <= last_step:
                kept.append(line.removesuffix(b"\n") + b"\n")
    before, after = (b"".join(reversed(lines)) for lines in (looked_at, kept))
    start = path.stat().st_size - len(before)
    if after != before and before.startswith(after):
        os.truncate(path, start + len(after))
    elif after != before:
        with atomic_file(path) as temporary:
            shutil.copyfile(path, temporary)
            with temporary.open("rb+") as copy:
                copy.truncate(start)
                copy.seek(start)
                copy.write(after)


def _of_kind(lines: Iterable[bytes], kind: str) -> Iterator[bytes]:
    """Lines that may be of one kind, of which most lines are not, and parsing takes long."""
    named = f'"{kind}"'.encode()
    begin = b'{"kind": '  # as tracking/jsonl.py writes each line
    for line in lines:
        if line.startswith(named, len(begin)) if line.startswith(begin) else named in line:
            yield line


def _lines_from_end(file: BinaryIO) -> Iterator[bytes]:
    """The lines with their ends, from the last one on."""
    rest, end = b"", file.seek(0, os.SEEK_END)
    while end:
        start = max(end - max(BLOCK_BYTES, len(rest)), 0)
        file.seek(start)
        rest, *lines = BytesIO(file.read(end - start) + rest).readlines()
        yield from reversed(lines)
        end = start
    if rest:
        yield rest


def _record_in(line: bytes) -> Record | None:
    """The record of a line; None: it is torn."""
    try:
        record = parse_json(line.decode(errors="replace"))
    except ValueError:
        return None
    return record if isinstance(record, dict) else None


def _step_of(record: Record) -> float:
    """Updates done at a record; 0: it does not say."""
    step = record.get("step")
    return step if isinstance(step, int | float) else 0
