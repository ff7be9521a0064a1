"""A comparison, and what is written of it as text: all but the picture and the report."""

import csv
import io
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from rwp_dist.base.text import visible
from rwp_dist.compare.columns import make_table
from rwp_dist.compare.curves import Axis
from rwp_dist.compare.notes import test_sets
from rwp_dist.compare.pairs import Differences
from rwp_dist.compare.rows import Row, value_of
from rwp_dist.compare.runs import Run
from rwp_dist.compare.table import Table, markdown_text
from rwp_dist.record.identity import OTHERS


@dataclass(frozen=True)
class Comparison:
    """Rows, and the notes below them."""

    rows: Sequence[Row]
    notes: Sequence[str]
    left_out: Mapping[Path, str]
    """Run directories that are not compared, and why."""

    axis: Axis
    """What curves are drawn over."""

    columns: Sequence[str] = ()
    """Keys of the columns that were asked for."""

    differences: Differences | None = None

    marks: Sequence[str] = ()
    """Those of the notes that explain the marks behind names."""

    test_set: str = ""
    """The heading of rows of one test set, if there are several."""

    @cached_property
    def parts(self) -> list["Comparison"]:
        """The rows of each test set: only these are drawn and written beside each other."""
        short = test_sets(self.rows)
        if len(short) < 2:
            return [self]
        own: dict[str, list[Row]] = {}
        for row in self.rows:
            own.setdefault(row.test_set, []).append(row)
        return [
            replace(self, rows=rows, test_set=f"test set {short[test_set]}")
            for test_set, rows in own.items()
        ]

    @cached_property
    def table(self) -> Table:
        """A line for each row."""
        return make_table(self.rows, self.columns, self.test_set)

    @property
    def runs(self) -> list[Run]:
        """Of all rows."""
        return [run for row in self.rows for run in row.runs]

    def text(self) -> str:
        """The tables and notes for a terminal."""
        lines = [line for part in self.parts for line in (*part.table.lines(), "")]
        if self.differences is not None:
            lines += [visible(self.differences.title), "", *self.differences.table().lines(), ""]
        return "\n".join([*lines, *(f"- {note}" for note in self.notes)])

    def markdown(self) -> str:
        """Contents of ``compare.md``."""
        lines = ["# Comparison", "", *self.markdown_tables()]
        if self.differences is not None:
            title = markdown_text(self.differences.title)
            lines += [f"## {title}", "", *self.differences.table().markdown(), ""]
        lines += [*self.markdown_notes(), ""]
        lines += ["![test top-1 while training, and final test top-1 of every run](compare.png)"]
        return "\n".join(lines) + "\n"

    def markdown_tables(self) -> list[str]:
        """Lines of a table for each test set."""
        return [line for part in self.parts for line in (*part.table.markdown(), "")]

    def markdown_notes(self) -> list[str]:
        """A line for each note."""
        return [f"- {markdown_text(note, code=True)}" for note in self.notes]

    def latex(self) -> str:
        """Contents of ``compare.tex``: tables alone, to be read by ``\\input``."""
        lines = ["% Needs \\usepackage{booktabs}."]
        for part in self.parts:
            lines += [*part.table.latex(), ""]
        if self.differences is not None:
            lines += [f"% {visible(self.differences.title)}", *self.differences.table().latex(), ""]
        return "\n".join([*lines, *(f"% {mark}" for mark in self.marks)]).rstrip() + "\n"

    def csv(self) -> str:
        """Contents of ``compare.csv``: a line for each run, with every number that it has."""
        keys = list(dict.fromkeys(key for run in self.runs for key in run.known()))
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["row", "run", "test_set", *keys])
        for row in self.rows:
            writer.writerows(
                [row.name, run.path, row.test_set, *(run.value(key) for key in keys)]
                for run in row.runs
            )
        return text.getvalue()

    def as_dict(self) -> dict[str, Any]:
        """Contents of ``compare.json``."""
        differences = {"against": self.differences.as_dict()} if self.differences else {}
        return differences | {
            "rows": [row_as_dict(row, self.columns) for row in self.rows],
            "notes": list(self.notes),
            "left_out": [{"run": str(path), "reason": why} for path, why in self.left_out.items()],
        }


def row_as_dict(row: Row, columns: Sequence[str]) -> dict[str, Any]:
    """A row for ``compare.json``; times are medians."""
    top1 = row.estimate("top1")
    assert top1 is not None, "every compared run has a top-1"
    times = row.values("device_seconds")
    estimates = {key: row.estimate(key) for key in columns}
    return {
        "label": row.name,
        "run_label": row.label,
        "differs": row.settings,
        "test_set": row.test_set,
        "identity": {key: _each(value_of(run, key) for run in row.runs) for key in OTHERS},
        "changes": _each(change for run in row.runs for change in run.changes),
        "method": row.method,
        "n": row.n,
        "seeds": [run.seed for run in row.runs],
        "device_seconds": statistics.median(times),
        "time_vs_sgd": statistics.median(row.time_ratios) if row.time_ratios else None,
        "time_vs_sgd_pairs": list(row.time_ratios),
        "top1": row.values("top1"),
        "top1_mean": top1.mean,
        "top1_std": top1.std,
        "top1_interval": [top1.low, top1.high],
        "columns": {
            key: found._asdict() if found else row.texts(key) for key, found in estimates.items()
        },
        "runs": [str(run.path) for run in row.runs],
    }


def _each(values: Iterable[Any]) -> list[Any]:
    """Every value once."""
    return list({str(value): value for value in values}.values())
