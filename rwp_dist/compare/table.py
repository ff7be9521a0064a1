"""The comparison as a table: for a terminal, as ``compare.md`` and as ``compare.json``."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rwp_dist.base.text import DASH, count, whole
from rwp_dist.base.text import table as aligned
from rwp_dist.compare.pairs import Differences
from rwp_dist.compare.rows import Row

COLUMNS = (
    ("", "method"),
    ("passes", "per step"),
    ("", "updates"),
    ("", "samples"),
    ("device", "s"),
    ("step time", "× SGD"),
    ("test", "top-1 %"),
    ("", "n"),
    ("train", "top-1 %"),
)
"""Heads of the columns; a terminal shows them on two lines, so that the table stays narrow."""


@dataclass(frozen=True)
class Comparison:
    """Rows, and the notes below them."""

    rows: Sequence[Row]
    notes: Sequence[str]
    left_out: Mapping[Path, str]
    """Run directories that are not compared, and why."""

    differences: Differences | None = None

    def text(self) -> str:
        """The table for a terminal."""
        heads = [list(head) for head in zip(*COLUMNS, strict=True)]
        lines = aligned([*heads, *map(cells, self.rows)], num_left=2, num_heads=2)
        if self.differences is not None:
            lines += ["", *self.differences.lines()]
        return "\n".join([*lines, "", *(f"- {note}" for note in self.notes)])

    def markdown(self) -> str:
        """Contents of ``compare.md``."""
        lines = [
            "# Comparison",
            "",
            _bars([" ".join(filter(None, head)) for head in COLUMNS]),
            _bars(["---"] * 2 + ["---:"] * (len(COLUMNS) - 2)),
            *(_bars(cells(row)) for row in self.rows),
            "",
            *self._difference_lines(),
            *(f"- {note}" for note in self.notes),
            "",
            "![test top-1 while training, and final test top-1 of every run](compare.png)",
        ]
        return "\n".join(lines) + "\n"

    def _difference_lines(self) -> list[str]:
        if self.differences is None:
            return []
        heads = self.differences.HEADS
        return [
            f"## {self.differences.title}",
            "",
            _bars(heads),
            _bars(["---", *["---:"] * (len(heads) - 1)]),
            *(_bars(row.cells()) for row in self.differences.rows),
            "",
        ]

    def as_dict(self) -> dict[str, Any]:
        """Contents of ``compare.json``."""
        differences = {"against": self.differences.as_dict()} if self.differences else {}
        return differences | {
            "rows": [as_dict(row) for row in self.rows],
            "notes": list(self.notes),
            "left_out": [{"run": str(path), "reason": why} for path, why in self.left_out.items()],
        }


def cells(row: Row) -> list[str]:
    """A row as text, a cell for each of ``COLUMNS``."""
    return [
        row.name,
        row.passes,
        whole(row.median("steps")),
        whole(row.median("samples")),
        count(row.median("device_seconds")),
        step_time(row),
        plus_minus(row.values("top1")),
        str(len(row.runs)),
        plus_minus(row.values("train_top1")),
    ]


def as_dict(row: Row) -> dict[str, Any]:
    """A row for ``compare.json``."""
    top1, std = mean_std(row.values("top1"))
    train_top1, train_std = mean_std(row.values("train_top1"))
    return {
        "label": row.name,
        "run_label": row.label,
        "differs": row.settings,
        "method": row.method,
        "passes_per_step": row.passes,
        "n": len(row.runs),
        "seeds": [run.seed for run in row.runs],
        "updates": row.median("steps"),
        "samples": row.median("samples"),
        "device_seconds": row.median("device_seconds"),
        "step_s": row.median("step_s"),
        "step_time_vs_sgd": statistics.median(row.step_ratios) if row.step_ratios else None,
        "step_time_vs_sgd_pairs": list(row.step_ratios),
        "top1": row.values("top1"),
        "top1_mean": top1,
        "top1_std": std,
        "train_top1_mean": train_top1,
        "train_top1_std": train_std,
        "runs": [str(run.path) for run in row.runs],
    }


def step_time(row: Row) -> str:
    """``×1.3 (1.2–1.5)``: median and range over the runs; no range if both ends look the same."""
    if not row.step_ratios:
        return DASH
    low, high = f"{min(row.step_ratios):.1f}", f"{max(row.step_ratios):.1f}"
    return f"×{statistics.median(row.step_ratios):.1f}" + (
        f" ({low}–{high})" if low != high else ""
    )


def plus_minus(values: Sequence[float]) -> str:
    """Mean ± sample standard deviation, ``93.9 ± 0.6``; of a single value no deviation."""
    mean, std = mean_std(values)
    if mean is None:
        return DASH
    return f"{mean:.1f}" if std is None else f"{mean:.1f} ± {std:.1f}"


def mean_std(values: Sequence[float]) -> tuple[float | None, float | None]:
    """Mean and sample standard deviation; None where there are too few values."""
    if not values:
        return None, None
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None


def _bars(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
