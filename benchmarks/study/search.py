"""A one-dimensional search that never ends at its edge."""

from collections.abc import Callable

MOST = 12
"""Strengths that are tried."""


def search(score: Callable[[float], float], centre: float, factor: float) -> dict[float, float]:
    """Scores of strengths that are a factor apart, until the best has a worse one on each side.

    Begins with five around ``centre``; 0 has no others. Ends at ``MOST`` in any case.
    """
    powers = list(range(-2, 3)) if centre else [0]
    while True:
        scores = {power: score(centre * factor**power) for power in powers}
        best = max(powers, key=lambda power: scores[power])
        if len(powers) == 1 or len(powers) >= MOST or powers[0] < best < powers[-1]:
            return {centre * factor**power: value for power, value in scores.items()}
        powers = [powers[0] - 1, *powers] if best == powers[0] else [*powers, powers[-1] + 1]
