"""The numbers of all runs as tables: mean ± deviation over seeds, and differences by seed."""

from collections.abc import Callable, Sequence
from typing import Any

from rwp_dist.base.text import DASH
from rwp_dist.compare.columns import number_format, value_cells
from rwp_dist.compare.estimates import Estimate, estimate
from rwp_dist.compare.rows import Row
from rwp_dist.compare.table import Cell, Head, Table
from rwp_dist.flatness.measured import ADVERSARIAL_AT, LOST_POINTS, RANDOM_AT

HEADS = {
    "flatness.loss": Head("loss", "nats"),
    "flatness.random_loss_increase": Head(f"random {RANDOM_AT:g}", "+ nats"),
    "flatness.adversarial_loss_increase": Head(f"adversarial {ADVERSARIAL_AT:g}", "+ nats"),
    "flatness.radius": Head("radius of", f"-{LOST_POINTS:g} points"),
    "flatness.top_eigenvalue": Head("largest", "eigenvalue"),
    "flatness.trace": Head("", "trace"),
}


def tables(rows: Sequence[Row]) -> list[str]:
    """Lines for a terminal: a row for each experiment, and its differences from sgd or the first.

    ``rows``: seeds of one experiment each.
    """
    keys = [key for key in HEADS if any(row.values(key) for row in rows)]
    heads = [Head("", ""), *(HEADS[key] for key in keys)]
    columns = [value_cells(rows, key) for key in keys]
    counts = [Cell(str(row.n)) for row in rows]
    names = [Cell(row.name) for row in rows]
    lines = Table([*heads, Head("", "n")], list(zip(names, *columns, counts, strict=True))).lines()
    first = next((row for row in rows if row.label == "sgd"), rows[0])
    others = [row for row in rows if row is not first]
    if others:
        lines += ["", f"Less {first.name}, paired by seed: mean and 95 % interval", ""]
        columns = [_differences(others, first, key) for key in keys]
        names = [Cell(row.name) for row in others]
        lines += Table(heads, list(zip(names, *columns, strict=True))).lines()
    return lines


def _differences(rows: Sequence[Row], first: Row, key: str) -> list[Cell]:
    base = _by_seed(first, key)
    found = [
        estimate([value - base[seed] for seed, value in _by_seed(row, key).items() if seed in base])
        for row in rows
    ]
    written = number_format([one for one in found if one])
    return [Cell(_with_interval(one, written) if one else DASH) for one in found]


def _with_interval(found: Estimate, written: Callable[[float], str]) -> str:
    if found.low is None or found.high is None:
        return written(found.mean)
    return f"{written(found.mean)} ({written(found.low)} to {written(found.high)})"


def _by_seed(row: Row, key: str) -> dict[Any, float]:
    """A number by seed, of seeds that have one run."""
    seeds = [run.seed for run in row.runs]
    values = {run.seed: run.number(key) for run in row.runs if seeds.count(run.seed) == 1}
    return {seed: value for seed, value in values.items() if value is not None}
