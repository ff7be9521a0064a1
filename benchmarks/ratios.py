"""Ratios of times that were measured in turns."""

import random
import statistics


def median_interval(values: list[float]) -> tuple[float, float, float]:
    """Median, and the ends of its 95 % interval, from 2,000 samples with replacement."""
    draw = random.Random(0)
    medians = sorted(statistics.median(draw.choices(values, k=len(values))) for _ in range(2000))
    return statistics.median(values), medians[49], medians[1949]
