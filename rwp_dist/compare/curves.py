"""Test accuracy while training, over what it took to get there."""

import statistics
from collections.abc import Sequence
from typing import NamedTuple

from rwp_dist.compare.rows import Row
from rwp_dist.compare.runs import Run


class Axis(NamedTuple):
    """What accuracy can be drawn over: the key of a run's summary, and the label."""

    key: str
    label: str


AXES = {
    "device": Axis("device_seconds", "device time"),
    "wall": Axis("wall_s", "wall-clock time"),
    "samples": Axis("samples", "training samples"),
    "updates": Axis("steps", "updates"),
}
"""By the name that ``--x`` has for it."""


class Point(NamedTuple):
    """A place of a curve."""

    x: float
    top1: float
    """In percent, as a mean over runs."""


def curve(row: Row, axis: Axis) -> list[Point]:
    """Means over the runs of a row, at the steps that all of them evaluated."""
    runs = [run for run in row.runs if run.evaluations]
    steps = [step for step in runs[0].evaluations if in_all(step, runs)] if runs else []
    return [
        Point(
            statistics.fmean(spent(run, step, axis) for run in runs),
            statistics.fmean(run.evaluations[step]["top1"] for run in runs),
        )
        for step in steps
    ]


def in_all(step: int, runs: Sequence[Run]) -> bool:
    """Whether every run was evaluated there."""
    return all(step in run.evaluations for run in runs)


def spent(run: Run, step: int, axis: Axis) -> float:
    """What a run took up to an evaluation."""
    if axis.key == "steps":
        return step
    if (recorded := run.evaluations[step].get(axis.key)) is not None:
        return float(recorded)
    return total(run, axis) * step / run.summary["steps"]


def total(run: Run, axis: Axis) -> float:
    """What the whole run took. A run of version 0.1 knows no wall-clock, only its training time."""
    known = run.number(axis.key)
    return (
        run.summary["device_seconds"] / run.summary.get("world_size", 1) if known is None else known
    )


def estimated(run: Run, axis: Axis) -> bool:
    """Whether an evaluation's place is not known, but taken from its share of the updates."""
    return axis.key != "steps" and any(axis.key not in e for e in run.evaluations.values())
