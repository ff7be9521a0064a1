"""The numbers of all runs as tables: mean ± deviation over seeds, and ratios by seed.

How much the loss rises differs by factors between runs of one method, and a mean of differences
would be that of the sharpest run. So runs are compared by the geometric mean of their ratios.
"""

import math
from collections.abc import Sequence
from typing import Any

from rwp_dist.base.text import DASH
from rwp_dist.compare.columns import value_cells
from rwp_dist.compare.estimates import estimate
from rwp_dist.compare.rows import Row
from rwp_dist.compare.table import Cell, Head, Table
from rwp_dist.flatness.measured import ADVERSARIAL_AT, LOST_POINTS, RANDOM_AT

HEADS = {
    "flatness.loss": Head("loss", "nats"),
    "flatness.random_loss_increase": Head(f"random {RANDOM_AT:g}", "+ nats"),
    "flatness.adversarial_loss_increase": Head(f"adversarial {ADVERSARIAL_AT:g}", "+ nats"),
    "flatness.radius": Head(f"radius of -{LOST_POINTS:g} points", ""),
    "flatness.top_eigenvalue": Head("largest eigenvalue", "nats"),
    "flatness.trace": Head("trace", "nats"),
}
"""What it is, and its unit; weights have none."""


def tables(rows: Sequence[Row]) -> list[str]:
    """Lines for a terminal: a row for each experiment, and its ratios to sgd or the first.

    ``rows``: seeds of one experiment each.
    """
    keys = [key for key in HEADS if any(row.values(key) for row in rows)]
    heads = [Head("", ""), *(HEADS[key] for key in keys)]
    columns = [value_cells(rows, key) for key in keys]
    counts = [Cell(str(row.n)) for row in rows]
    names = [Cell(row.title) for row in rows]
    lines = Table([*heads, Head("", "n")], list(zip(names, *columns, counts, strict=True))).lines()
    first = next((row for row in rows if row.label == "sgd"), rows[0])
    others = [row for row in rows if row is not first]
    if others:
        lines += ["", f"× {first.name}, by seed: geometric mean and 95 % interval", ""]
        columns = [[Cell(_ratio(row, first, key)) for row in others] for key in keys]
        names = [Cell(row.title) for row in others]
        heads = [Head("", ""), *(Head("", HEADS[key].group) for key in keys)]
        lines += Table(heads, list(zip(names, *columns, strict=True))).lines()
    return lines


def _ratio(row: Row, first: Row, key: str) -> str:
    """Geometric mean with its interval over the seeds that both have.

    None if a run lacks its number or has one that is not positive: it may be the flattest, and a
    mean without it would mislead.
    """
    values, base = _by_seed(row, key), _by_seed(first, key)
    pairs = [(values[seed], base[seed]) for seed in values if seed in base]
    ratios = [
        mine / other
        for mine, other in pairs
        if mine is not None and mine > 0 and other is not None and other > 0
    ]
    if len(ratios) < len(pairs):
        return DASH
    found = estimate([math.log(ratio) for ratio in ratios])
    if found is None:
        return DASH
    text = f"{math.exp(found.mean):.2f}"
    if found.low is None or found.high is None:
        return text
    return f"{text} ({math.exp(found.low):.2f}–{math.exp(found.high):.2f})"


def _by_seed(row: Row, key: str) -> dict[Any, float | None]:
    """A number by seed, of seeds that have one run."""
    seeds = [run.seed for run in row.runs]
    return {run.seed: run.number(key) for run in row.runs if seeds.count(run.seed) == 1}
