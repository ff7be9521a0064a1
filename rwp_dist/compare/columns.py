"""The columns of the table: those that it always has, and those that one asks for by key."""

import difflib
import math
import re
import statistics
from collections.abc import Callable, Sequence

from rwp_dist.base.errors import ConfigError, RwpError
from rwp_dist.base.text import DASH
from rwp_dist.compare.estimates import Estimate
from rwp_dist.compare.rows import Row
from rwp_dist.compare.table import Cell, Head, Table

HEADS = (
    Head("", "method"),
    Head("test", "top-1 %"),
    Head("95 %", "interval"),
    Head("time", "× SGD"),
    Head("", "n"),
)
NAMES = {
    "top1": Head("test", "top-1 %"),
    "top5": Head("test", "top-5 %"),
    "loss": Head("test", "loss"),
    "train_top1": Head("train", "top-1 %"),
    "steps": Head("", "updates"),
    "device_seconds": Head("device", "s"),
    "train_s": Head("training", "s"),
    "wall_s": Head("wall-clock", "s"),
    "step_s": Head("s per", "update"),
    "num_parameters": Head("", "parameters"),
    "passes_per_step": Head("passes", "per update"),
}
"""Heads of keys that do not say it themselves."""

MEASURED_BY = {"flatness": "flatness"} | dict.fromkeys(
    ("ece", "nll", "corruptions", "weight_noise", "bits"), "evaluate"
)
"""The command that measures a group of numbers."""

WORDS = {"top1": "top-1 %", "top5": "top-5 %", "ece": "ECE %", "nll": "NLL"}
"""How a part of a key is written."""

FLATNESS = "flatness."


def make_table(rows: Sequence[Row], keys: Sequence[str] = (), test_set: str = "") -> Table:
    """The table of a comparison, with a column for each of ``keys``, of a test set."""
    asked = [value_cells(rows, key) for key in keys]
    return Table(
        (*HEADS, *map(head_of, keys)),
        [
            [Cell(row.title), *accuracy(row), time_cell(row), Cell(str(row.n), row.n), *more]
            for row, *more in zip(rows, *asked, strict=True)
        ],
        test_set[:1].upper() + test_set[1:],
    )


def accuracy(row: Row) -> list[Cell]:
    """Mean ± deviation of test top-1, and the interval of its mean."""
    found = row.estimate("top1")
    assert found is not None, "every compared run has a top-1"
    interval = DASH if found.low is None else f"{found.low:.1f}–{found.high:.1f}"
    return [Cell(plus_minus(found, one_decimal), found.mean), Cell(interval, found.low)]


def time_cell(row: Row) -> Cell:
    """``1.83 (1.80–1.90)``: median and range over seeds; no range if both ends look the same."""
    if not row.time_ratios:
        return Cell(DASH)
    median = statistics.median(row.time_ratios)
    low, high = f"{min(row.time_ratios):.2f}", f"{max(row.time_ratios):.2f}"
    return Cell(f"{median:.2f}" + (f" ({low}–{high})" if low != high else ""), median)


def value_cells(rows: Sequence[Row], key: str) -> list[Cell]:
    """A cell for each row: mean ± deviation of numbers, or the texts that its runs have.

    Where not all runs of a row have a number, the cell says how many have: ``93.9 (n 1)``.
    """
    found = [row.estimate(key) for row in rows]
    written = number_format([one for one in found if one])
    return [
        Cell(plus_minus(one, written) + (f" (n {one.n})" if one.n < row.n else ""), one.mean)
        if one
        else Cell(" / ".join(row.texts(key)) or DASH)
        for row, one in zip(rows, found, strict=True)
    ]


def plus_minus(found: Estimate, written: Callable[[float], str]) -> str:
    """Mean ± sample standard deviation, ``93.9 ± 0.6``; no deviation where nothing deviates."""
    mean = written(found.mean)
    return f"{mean} ± {written(found.std)}" if found.std else mean


def one_decimal(value: float) -> str:
    """For percentages."""
    return f"{value:.1f}"


def number_format(estimates: Sequence[Estimate]) -> Callable[[float], str]:
    """How to write the numbers of a column: so that the typical deviation has two digits.

    If nothing deviates, the typical mean has four, or is a whole number.
    """
    means = [abs(one.mean) for one in estimates] or [0.0]
    deviations = [one.std for one in estimates if one.std]
    if deviations:
        last = _magnitude(statistics.median(deviations)) - 1
    else:
        last = 0 if all(map(float.is_integer, means)) else _magnitude(statistics.median(means)) - 3
    if last < -6 or last > 3:
        return lambda value: f"{value:.3g}"
    return lambda value: f"{value:,.{max(-last, 0)}f}"


def _magnitude(value: float) -> int:
    """Exponent of the first digit: 2 of 345."""
    return math.floor(math.log10(value)) if value > 0 else 0


def head_of(key: str) -> Head:
    """``flatness.top_eigenvalue`` → flatness | top eigenvalue."""
    if key in NAMES:
        return NAMES[key]
    parts = re.findall(r"\d+\.\d+|[^.]+", key)  # weight_noise.0.01.top1
    *group, name = (WORDS.get(part, part.replace("_", " ")) for part in parts)
    return Head(" ".join(group), name)


def check_columns(rows: Sequence[Row], keys: Sequence[str]) -> None:
    """Refuse a key that no run has.

    Raises:
        ConfigError: with the nearest keys.
    """
    known = list(dict.fromkeys(key for row in rows for run in row.runs for key in run.known()))
    for key in keys:
        if key not in known:
            near = [
                name for name in known if name.startswith(f"{key}.") or name.endswith(f".{key}")
            ]
            near = (near or difflib.get_close_matches(key, known, n=3, cutoff=0.6))[:5]
            group = key.partition(".")[0]
            if group in MEASURED_BY and group not in {name.partition(".")[0] for name in known}:
                cure = f"run `rwp-dist {MEASURED_BY[group]}` first, which measures it"
            elif near:
                cure = f"did you mean {' or '.join(near)}?"
            else:
                cure = f"known are {', '.join(known)}"
            raise ConfigError(f"no run has a number {key}", key="--columns", cure=cure)


def flatness_keys(rows: Sequence[Row]) -> list[str]:
    """Keys of what ``rwp-dist flatness`` measured.

    Raises:
        RwpError: none of the runs was measured.
    """
    found = {key for row in rows for run in row.runs for key in run.measured}
    keys = sorted(key for key in found if key.startswith(FLATNESS))
    if not keys:
        raise RwpError(
            "the flatness of no run here was measured",
            cure="measure it with `rwp-dist flatness RUN...`, then compare again",
        )
    return keys
