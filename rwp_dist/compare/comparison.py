"""A comparison, and what is written of it as text: all but the picture and the report."""

import csv
import io
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from rwp_dist.compare.columns import make_table
from rwp_dist.compare.curves import Axis
from rwp_dist.compare.pairs import Differences
from rwp_dist.compare.rows import Row
from rwp_dist.compare.runs import Run
from rwp_dist.compare.table import Table


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

    @cached_property
    def table(self) -> Table:
        """A line for each row."""
        return make_table(self.rows, self.columns)

    @property
    def runs(self) -> list[Run]:
        """Of all rows."""
        return [run for row in self.rows for run in row.runs]

    def text(self) -> str:
        """The tables and notes for a terminal."""
        lines = self.table.lines()
        if self.differences is not None:
            lines += ["", self.differences.title, "", *self.differences.table().lines()]
        return "\n".join([*lines, "", *(f"- {note}" for note in self.notes)])

    def markdown(self) -> str:
        """Contents of ``compare.md``."""
        lines = ["# Comparison", "", *self.table.markdown(), ""]
        if self.differences is not None:
            lines += [f"## {self.differences.title}", "", *self.differences.table().markdown(), ""]
        lines += [*(f"- {note}" for note in self.notes), ""]
        lines += ["![test top-1 while training, and final test top-1 of every run](compare.png)"]
        return "\n".join(lines) + "\n"

    def latex(self) -> str:
        """Contents of ``compare.tex``: tables alone, to be read by ``\\input``."""
        lines = ["% Needs \\usepackage{booktabs}.", *self.table.latex()]
        if self.differences is not None:
            lines += ["", f"% {self.differences.title}", *self.differences.table().latex()]
        return "\n".join(lines) + "\n"

    def csv(self) -> str:
        """Contents of ``compare.csv``: a line for each run, with every number that it has."""
        keys = list(dict.fromkeys(key for run in self.runs for key in run.known()))
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["row", "run", *keys])
        for row in self.rows:
            writer.writerows(
                [row.name, run.path, *(run.value(key) for key in keys)] for run in row.runs
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
