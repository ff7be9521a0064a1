"""A mean of a few runs, and how far it can be trusted."""

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple

CONFIDENCE = 0.95


class Estimate(NamedTuple):
    """A mean with what is known of its spread; of a single value nothing is."""

    n: int
    mean: float
    std: float | None = None
    """Sample standard deviation of the values."""

    low: float | None = None
    """Ends of the confidence interval of the mean (Student's t, n - 1 degrees of freedom)."""
    high: float | None = None

    @property
    def half(self) -> float:
        """Half the interval's length; 0 if there is none."""
        return 0.0 if self.high is None else self.high - self.mean


def estimate(values: Sequence[float]) -> Estimate | None:
    """None: there are no values."""
    if not values:
        return None
    n, mean = len(values), statistics.fmean(values)
    if n == 1:
        return Estimate(n, mean)
    from scipy.special import stdtrit  # scipy takes a while to import

    std = statistics.stdev(values)
    half = float(stdtrit(n - 1, 0.5 + CONFIDENCE / 2)) * std / math.sqrt(n)
    return Estimate(n, mean, std, mean - half, mean + half)
