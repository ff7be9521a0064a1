"""Marks behind the names of rows: with what code, versions and ranks their runs were trained."""

from collections.abc import Sequence
from dataclasses import replace

from rwp_dist.compare.rows import TRAIN, VAL, Row, key_name, short_texts, value_of, value_text
from rwp_dist.compare.runs import Run
from rwp_dist.record.identity import OTHERS

BESIDE = [key for key in OTHERS if key not in (TRAIN, VAL)]
"""Keys of an identity that split no row."""


def marked(rows: Sequence[Row]) -> tuple[list[Row], list[str]]:
    """The rows with their marks, and notes that explain them.

    There are none if all runs agree in what is ``BESIDE``, and none changed between its attempts.
    """
    runs = [run for row in rows for run in row.runs]
    texts = {key: short_texts(value_of(run, key) for run in runs) for key in BESIDE}
    keys = [key for key in BESIDE if len(texts[key]) > 1]
    changes = any(run.changes for run in runs)
    if not keys and not changes:
        return list(rows), []

    def described(run: Run) -> str:
        found = [f"{key_name(key)} {texts[key][value_text(value_of(run, key))]}" for key in keys]
        if run.changes:
            found.append(f"changed between attempts: {', '.join(run.changes)}")
        return "; ".join(found) or "nothing changed between attempts"

    numbers: dict[str, int] = {}
    for run in runs:
        numbers.setdefault(described(run), len(numbers) + 1)
    shown = [
        replace(row, marks=f"[{_ranges(sorted({numbers[described(run)] for run in row.runs}))}]")
        for row in rows
    ]
    told = ", ".join(map(key_name, keys))
    what = " and ".join([*([told] if keys else []), *(["changes"] if changes else [])])
    notes = [f"[{number}] {text}." for text, number in numbers.items()]
    return shown, [f"Careful: runs differ in {what}, as the numbers behind names tell.", *notes]


def _ranges(numbers: Sequence[int]) -> str:
    """``1–3, 7`` of 1, 2, 3 and 7."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][-1] + 1:
            parts[-1].append(number)
        else:
            parts.append([number])
    return ", ".join("–".join(map(str, dict.fromkeys((p[0], p[-1])))) for p in parts)
