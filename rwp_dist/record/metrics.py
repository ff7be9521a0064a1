"""``metrics.jsonl``: one JSON record a line. A killed writer may leave a torn line."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rwp_dist.base.files import parse_json, write_text


def read_metrics(path: Path, kind: str | None = None) -> list[dict[str, Any]]:
    """The records in their order, of one ``kind`` or of all; torn lines are left out."""
    return [record for _, record in _lines(path, kind)]


def cut_metrics(path: Path, last_step: int) -> int:
    """Drop what an interrupted attempt logged after the checkpoint that is resumed.

    Args:
        path: the file; it may be missing.
        last_step: the checkpoint's step; 0 starts anew and drops every record.

    Returns:
        The number of lines dropped, torn ones included.
    """
    if not path.is_file():
        return 0
    before = path.read_bytes()
    kept = [
        line
        for line, record in _lines(path)
        if last_step > 0 and (record.get("step") or 0) <= last_step
    ]
    after = "".join(f"{line}\n" for line in kept)
    if after.encode() == before:
        return 0
    write_text(path, after)
    return len([line for line in before.splitlines() if line.strip()]) - len(kept)


def _lines(path: Path, kind: str | None = None) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each whole line with its record, of one ``kind`` or of all."""
    if not path.is_file():
        return
    with path.open(encoding="utf-8", errors="replace", newline="\n") as file:
        for line in file:
            if kind is not None and f'"{kind}"' not in line:
                continue  # most lines are of another kind, and parsing takes long
            try:
                record = parse_json(line)
            except ValueError:
                continue
            if isinstance(record, dict) and kind in (None, record.get("kind")):
                yield line.removesuffix("\n"), record
