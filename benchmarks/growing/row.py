"""A row of the table: one cost at several sizes, its exponent, and what it must not exceed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

WIDTH, NAME_WIDTH = 10, 46


@dataclass(frozen=True)
class Row:
    """One cost, measured at several sizes."""

    name: str
    unit: str
    by_size: Mapping[int, float]
    most: float | None = None
    """The goal at the largest size; None: there is none."""
    most_exponent: float | None = None
    """Likewise of ``exponent``."""

    @property
    def exponent(self) -> float | None:
        """The cost grows as this power of the size; None if there is one size."""
        if len(self.by_size) < 2:
            return None
        return exponent(list(self.by_size), list(self.by_size.values()))

    @property
    def met(self) -> bool:
        """Whether it is within its goals."""
        last = self.by_size[max(self.by_size)]
        flat = self.most_exponent is None or (self.exponent or 0.0) <= self.most_exponent
        return flat and (self.most is None or last <= self.most)

    def __str__(self) -> str:
        power = self.exponent
        goals = [] if self.most is None else [f"<= {self.most:g} {self.unit}".rstrip()]
        if self.most_exponent is not None:
            goals.append(f"exponent <= {self.most_exponent:g}")
        cells = "".join(f"{_digits(value):>{WIDTH}}" for value in self.by_size.values())
        text = f"{f'{self.name}, {self.unit}' if self.unit else self.name:{NAME_WIDTH}s}{cells}"
        text += f"{'' if power is None else f'{power:.2f}':>{WIDTH}}"
        verdict = "met" if self.met else "MISSED"
        return f"{text}   {', '.join(goals)}: {verdict}" if goals else text


def exponent(sizes: Sequence[float], costs: Sequence[float]) -> float:
    """The slope of the least-squares line through the logarithms."""
    return float(np.polyfit(np.log(sizes), np.log(np.maximum(costs, 1e-9)), 1)[0])


def heading(what: str, sizes: Sequence[int]) -> str:
    """The line above rows of the same sizes."""
    cells = "".join(f"{_count(size):>{WIDTH}}" for size in sizes)
    return f"\n{what:{NAME_WIDTH}s}{cells}{'exponent':>{WIDTH}}   goal at the largest"


def _digits(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _count(size: int) -> str:
    for unit, name in ((10**6, "M"), (1000, "k")):
        if size >= unit:
            return f"{size / unit:g} {name}"
    return str(size)
