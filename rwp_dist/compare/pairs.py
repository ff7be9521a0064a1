"""Differences between rows, paired by seed: the luck that runs of one seed share cancels out."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rwp_dist.base.errors import ConfigError
from rwp_dist.base.text import DASH
from rwp_dist.compare.estimates import Estimate, estimate
from rwp_dist.compare.rows import Row
from rwp_dist.compare.runs import Run
from rwp_dist.compare.table import Cell, Head, Table

HEADS = (
    Head("", "method"),
    Head("", "points"),
    Head("", "95 % interval"),
    Head("", "p"),
    Head("", "n"),
)


@dataclass(frozen=True)
class Difference:
    """Test top-1 of a row less that of the baseline, in points, over runs of the same seed."""

    name: str
    title: str
    """Its name with its marks."""

    points: Sequence[float]
    """Of each seed that both have."""

    @property
    def estimate(self) -> Estimate | None:
        """Mean and interval; None if there is no common seed."""
        return estimate(self.points)

    @property
    def p(self) -> float | None:
        """Of a paired t-test, two-sided: how often so large a difference comes if there is none.

        None if it cannot be told: of fewer than two seeds, or if all differ by the same.
        """
        found = self.estimate
        if found is None or not found.std:
            return None
        from scipy.special import stdtr  # scipy takes a while to import

        return float(2 * stdtr(found.n - 1, -abs(found.mean) * math.sqrt(found.n) / found.std))

    def cells(self) -> list[Cell]:
        """A dash where there are too few seeds."""
        found, p = self.estimate, self.p
        number = Cell(str(len(self.points)), len(self.points))
        if found is None:
            return [Cell(self.title), *[Cell(DASH)] * 3, number]
        interval = DASH if found.low is None else f"{found.low:+.2f} to {found.high:+.2f}"
        p_text = DASH if p is None else "<0.001" if p < 0.001 else f"{p:.3f}"
        mean = Cell(f"{found.mean:+.2f}", found.mean)
        return [Cell(self.title), mean, Cell(interval, found.low), Cell(p_text, p), number]

    def as_dict(self) -> dict[str, Any]:
        """For ``compare.json``."""
        found = self.estimate
        mean, low, high = (found.mean, found.low, found.high) if found else (None, None, None)
        return {
            "name": self.name,
            "n": len(self.points),
            **{"mean": mean, "low": low, "high": high, "p": self.p},
            "points": list(self.points),
        }


@dataclass(frozen=True)
class Differences:
    """Of all other rows against one."""

    baseline: str
    """What was named: a row, or the label of one row of each test set."""

    rows: Sequence[Difference]
    omitted: Sequence[str] = ()
    """Names of rows whose test set has no such row."""

    @property
    def title(self) -> str:
        """What the numbers are."""
        return f"Test top-1 against {self.baseline}, paired by seed"

    def table(self) -> Table:
        """A line for each row."""
        return Table(HEADS, [row.cells() for row in self.rows])

    def as_dict(self) -> dict[str, Any]:
        """For ``compare.json``."""
        rows = [row.as_dict() for row in self.rows]
        return {"baseline": self.baseline, "rows": rows, "omitted": list(self.omitted)}


def against(rows: Sequence[Row], name: str) -> Differences:
    """Differences of all rows from one of the same test set.

    Args:
        rows: of the comparison.
        name: its label, which may be in several test sets, or what the table calls the baseline.

    Raises:
        ConfigError: no row has it, or more than one of a test set.
    """
    named = [row for row in rows if row.label == name]
    named = named or [row for row in rows if name in (row.name, row.title)]
    baselines = {row.test_set: row for row in named}
    if not named or len(baselines) < len(named):
        names = ", ".join(f'"{row.name}"' for row in named or rows)
        raise ConfigError(
            f"{len(named) or 'no'} row{'s are' if len(named) > 1 else ' is'} called {name}",
            key="--against",
            cure=f"name one of {names}",
        )
    others = [row for row in rows if row is not baselines.get(row.test_set)]
    top1 = {test_set: top1_by_seed(row.runs) for test_set, row in baselines.items()}
    return Differences(
        named[0].name if len(named) == 1 else name,
        [difference(row, top1[row.test_set]) for row in others if row.test_set in top1],
        [row.name for row in others if row.test_set not in baselines],
    )


def difference(row: Row, baseline: Mapping[Any, float]) -> Difference:
    """Of the runs whose seed both have once.

    Args:
        row: the one.
        baseline: ``top1_by_seed`` of the other.
    """
    points = [
        top1 - baseline[seed] for seed, top1 in top1_by_seed(row.runs).items() if seed in baseline
    ]
    return Difference(row.name, row.title, points)


def top1_by_seed(runs: Sequence[Run]) -> dict[Any, float]:
    """Top-1 by seed, of seeds that have one run."""
    counts = Counter(run.seed for run in runs)
    known = {run.seed: run.number("top1") for run in runs if counts[run.seed] == 1}
    return {seed: top1 for seed, top1 in known.items() if top1 is not None}
