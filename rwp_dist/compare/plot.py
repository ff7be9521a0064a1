"""The picture: test accuracy while training on the left, where every run ends on the right."""

from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rwp_dist.compare.notes import conditions
from rwp_dist.compare.rows import Row
from rwp_dist.compare.table import Comparison, mean_std, plus_minus
from rwp_dist.perturb.methods import METHODS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PALETTE = (
    *("#000000", "#E69F00", "#D55E00", "#56B4E9"),
    *("#0072B2", "#009E73", "#CC79A7", "#F0E442"),
)
"""Okabe and Ito's, which people with any common kind of colour blindness can tell apart."""

COLOURS = {**dict(zip(METHODS, cycle(PALETTE), strict=False)), "sgd 2x": "#8C8C8C"}
"""By label, so that a method looks the same in every picture."""

MARKERS = "osD^vP*X"
GREY = "#555555"

WIDTH = 120
"""Of the legend, in characters; an entry takes 8 beside its name."""


class Style(NamedTuple):
    """How a row is drawn, in both panels."""

    colour: str
    marker: str


def draw(comparison: Comparison, path: Path) -> None:
    """Write the picture as PNG.

    Raises:
        OSError: ``path`` cannot be written.
    """
    from matplotlib.figure import Figure  # not pyplot, which keeps state for the whole process

    rows = comparison.rows
    styles = make_styles(rows)
    figure = Figure(figsize=(10, 3.3 + 0.2 * len(rows)), dpi=200, layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[1.25, 1])
    draw_curves(left, rows, styles)
    draw_finals(right, rows, styles)
    for axes in (left, right):
        axes.grid(color="#E6E6E6", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    handles, names = left.get_legend_handles_labels()
    num_columns = min(max(WIDTH // (max(map(len, names)) + 8), 1), 6)
    figure.legend(handles, names, loc="outside lower center", ncols=num_columns, frameon=False)
    figure.suptitle(title(rows), fontsize="medium", color=GREY, x=0.01, ha="left")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def title(rows: Sequence[Row]) -> str:
    """What is drawn: ``2 ranks on cpu, model small_cnn; mean ± standard deviation of 3 runs``."""
    counts = sorted({len(row.runs) for row in rows})
    if counts[-1] == 1:
        return f"{conditions(rows)}; one run each"
    numbers = "–".join(map(str, dict.fromkeys((counts[0], counts[-1]))))
    return f"{conditions(rows)}; mean ± standard deviation of {numbers} runs"


def make_styles(rows: Sequence[Row]) -> list[Style]:
    """A style for each row: the colour of its label, or a free one if an earlier row has that."""
    labels = [row.label for row in rows]
    free = cycle(
        [colour for name, colour in COLOURS.items() if name not in labels] or COLOURS.values()
    )
    colours = [
        COLOURS[label] if label in COLOURS and label not in labels[:i] else next(free)
        for i, label in enumerate(labels)
    ]
    return [Style(*both) for both in zip(colours, cycle(MARKERS), strict=False)]


def draw_curves(axes: "Axes", rows: Sequence[Row], styles: Sequence[Style]) -> None:
    """Test top-1 of the evaluations: mean and standard deviation over the runs of a row."""
    axes.set_title("Test top-1 while training", loc="left", fontsize="medium")
    axes.set(xlabel="progress (% of a run's updates)", ylabel="test top-1 (%)", xlim=(0, 101))
    late = []
    for row, style in zip(rows, styles, strict=True):
        x, mean, std = curve(row)
        axes.plot(x, mean, color=style.colour, marker=style.marker, markersize=4, label=row.name)
        axes.fill_between(x, mean - std, mean + std, color=style.colour, alpha=0.13, linewidth=0)
        late += [*(mean - std)[x >= 25], *(mean + std)[x >= 25]]
    if late:  # the steep start is cut off: methods differ after it
        pad = max(0.06 * (max(late) - min(late)), 0.5)
        axes.set_ylim(max(min(late) - pad, 0), min(max(late) + pad, 100.5))


def curve(row: Row) -> tuple[NDArray[np.float64], ...]:
    """Progress in percent, mean and standard deviation of test top-1, at steps of all its runs."""
    curves = [run.curve for run in row.runs if run.curve]
    steps = [step for step in curves[0] if all(step in c for c in curves)] if curves else []
    top1 = np.array([[c[step] for step in steps] for c in curves]).reshape(len(curves), len(steps))
    progress = 100.0 * np.array(steps, dtype=np.float64) / row.runs[0].summary["steps"]
    if not steps:
        return progress, progress, progress
    std = top1.std(axis=0, ddof=1) if len(curves) > 1 else np.zeros(len(steps))
    return progress, top1.mean(axis=0), std


def draw_finals(axes: "Axes", rows: Sequence[Row], styles: Sequence[Style]) -> None:
    """Mean and standard deviation of each row, as a mark and as text; below the mark its runs."""
    axes.set_title("Final test top-1 (hollow: each run)", loc="left", fontsize="medium")
    axes.set(xlabel="test top-1 (%)", ylim=(len(rows) - 0.5, -0.5))
    for place, (row, (colour, marker)) in enumerate(zip(rows, styles, strict=True)):
        top1s = row.values("top1")
        mean, std = mean_std(top1s)
        assert mean is not None, "every compared run has a top-1"
        below = [place + 0.3] * len(top1s)  # so that the mean hides no run
        axes.plot(top1s, below, marker, color=colour, markersize=5, markerfacecolor="none")
        axes.errorbar([mean], [place], xerr=std, color=colour, marker=marker, capsize=4)
    axes.set_yticks(range(len(rows)), [row.name for row in rows])
    numbers = axes.twinx()
    numbers.set_ylim(axes.get_ylim())
    numbers.set_yticks(range(len(rows)), [plus_minus(row.values("top1")) for row in rows])
    numbers.spines[["top", "right"]].set_visible(False)
    for ticks in (axes, numbers):
        ticks.tick_params(axis="y", length=0)
