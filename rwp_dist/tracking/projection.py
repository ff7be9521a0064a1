"""``metrics.jsonl`` as rows of W&B's history: one row for each kind and step.

``metrics.jsonl`` is the source of truth. What W&B lacks of it is sent, in its order, so W&B ends up
with exactly its records, whatever was killed or away in between.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rwp_dist.base import clock
from rwp_dist.base.files import parse_json
from rwp_dist.tracking.columns import COLUMNS, STEP, named

Key = tuple[str, int]
"""Kind and step: what a record, and its row, is recognised by."""

_KINDS = {column.name: kind for kind, columns in COLUMNS.items() for column in columns}


class Tail:
    """Reads what is appended to ``metrics.jsonl``, once."""

    def __init__(self, path: Path) -> None:
        self._path, self._offset = path, 0

    def read(self) -> Iterator[dict[str, Any]]:
        """The records since the last call. A line without its end waits for the next call."""
        if not self._path.is_file():
            return
        with self._path.open("rb") as file:
            file.seek(self._offset)
            for line in file:
                record = _record_of(line)
                if record is None and not line.endswith(b"\n"):
                    return
                self._offset += len(line)
                if record is not None:
                    yield record


def _record_of(line: bytes) -> dict[str, Any] | None:
    try:
        record = parse_json(line)
    except ValueError:  # torn by a kill
        return None
    if not isinstance(record, dict):
        return None
    has_key = isinstance(record.get("kind"), str) and isinstance(record.get("step"), int)
    return record if has_key else None


def row_of(record: Mapping[str, Any]) -> dict[str, Any]:
    """What W&B gets of a record: its numbers by name, its step and its time."""
    row = named(record["kind"], record) | {STEP: record["step"]}
    return row | ({"_timestamp": clock.seconds(record["time"])} if "time" in record else {})


def losses_of_row(row: Mapping[str, Any]) -> dict[Key, Any]:
    """The loss by kind and step of a row of a history; None if it has none.

    A row that an earlier version sent may be of several kinds.
    """
    step, kinds = row.get(STEP), {_kind_of(name) for name in row if "/" in name}
    return {} if step is None else {(kind, int(step)): row.get(f"{kind}/loss") for kind in kinds}


def _kind_of(name: str) -> str:
    return _KINDS.get(name, name.partition("/")[0])
