"""Differences between rows, paired by seed: the luck that runs of one seed share cancels out."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rwp_dist.base.errors import ConfigError
from rwp_dist.base.text import DASH
from rwp_dist.base.text import table as aligned
from rwp_dist.compare.rows import Row
from rwp_dist.compare.runs import Run

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Difference:
    """Test top-1 of a row less that of the baseline, in points, over runs of the same seed."""

    name: str
    n: int
    """Seeds that both have."""
    mean: float | None = None
    low: float | None = None
    """Ends of the confidence interval of the mean (Student's t, n - 1 degrees of freedom)."""
    high: float | None = None
    p: float | None = None
    """Of a paired t-test, two-sided: how often so large a difference comes if there is none."""

    def cells(self) -> list[str]:
        """As text; a dash where there are too few seeds."""
        if self.mean is None:
            return [self.name, DASH, DASH, DASH, str(self.n)]
        interval = DASH if self.low is None else f"{self.low:+.1f} to {self.high:+.1f}"
        p = DASH if self.p is None else "<0.001" if self.p < 0.001 else f"{self.p:.3f}"
        return [self.name, f"{self.mean:+.1f}", interval, p, str(self.n)]


@dataclass(frozen=True)
class Differences:
    """Of all other rows against one."""

    baseline: str
    rows: Sequence[Difference]

    HEADS = ("", "points", "95 % interval", "p", "n")

    @property
    def title(self) -> str:
        """What the numbers are."""
        return f"Test top-1 against {self.baseline}, paired by seed"

    def lines(self) -> list[str]:
        """A table for a terminal."""
        cells = [list(self.HEADS), *(row.cells() for row in self.rows)]
        return [self.title, "", *aligned(cells, num_left=1, num_heads=1)]

    def as_dict(self) -> dict[str, Any]:
        """For ``compare.json``."""
        return {"baseline": self.baseline, "rows": [asdict(row) for row in self.rows]}


def against(rows: Sequence[Row], name: str) -> Differences:
    """Differences of all rows from one.

    Args:
        rows: of the comparison.
        name: what the table calls the baseline, or its label.

    Raises:
        ConfigError: no row, or more than one, has it.
    """
    named = [row for row in rows if row.name == name] or [row for row in rows if row.label == name]
    if len(named) != 1:
        names = ", ".join(f'"{row.name}"' for row in named or rows)
        raise ConfigError(
            f"{len(named) or 'no'} row{'s are' if len(named) > 1 else ' is'} called {name}",
            key="--against",
            cure=f"name one of {names}",
        )
    [baseline] = named
    others = [row for row in rows if row is not baseline]
    return Differences(baseline.name, [difference(row, baseline) for row in others])


def difference(row: Row, baseline: Row) -> Difference:
    """Of the runs whose seed both rows have once."""
    mine, other = _by_seed(row.runs), _by_seed(baseline.runs)
    points = [mine[seed] - other[seed] for seed in mine if seed in other]
    if not points:
        return Difference(row.name, 0)
    mean = statistics.fmean(points)
    if len(points) < 2:
        return Difference(row.name, len(points), mean)
    error = statistics.stdev(points) / math.sqrt(len(points))
    if error == 0:
        return Difference(row.name, len(points), mean, mean, mean)
    from scipy import stats  # a second to import

    t = stats.t(len(points) - 1)
    half = float(t.ppf(0.5 + CONFIDENCE / 2)) * error
    p = float(2 * t.sf(abs(mean) / error))
    return Difference(row.name, len(points), mean, mean - half, mean + half, p)


def _by_seed(runs: Sequence[Run]) -> dict[Any, float]:
    """Top-1 by seed, of seeds that have one run."""
    seeds = [run.seed for run in runs]
    known = [(run.seed, run.number("top1")) for run in runs if seeds.count(run.seed) == 1]
    return {seed: top1 for seed, top1 in known if top1 is not None}
