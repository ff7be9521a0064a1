"""The picture: how test accuracy develops, and where every seed ends, under one sentence."""

from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rwp_dist.compare.experiments import related
from rwp_dist.compare.table import (
    DASH,
    SMALL_TIMES,
    Comparison,
    Row,
    mean_std,
    plus_minus,
    setting,
    times_are_overheads,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = {
    "sgd": "#000000",
    "sgd 2x": "#8C8C8C",
    "sam": "#E69F00",
    "asam": "#D55E00",
    "rwp": "#56B4E9",
    "arwp": "#0072B2",
    "m-rwp": "#009E73",
    "m-arwp": "#CC79A7",
}
"""Okabe and Ito's palette: told apart with every common kind of colour blindness."""

OURS = ("m-rwp", "m-arwp", "rwp", "arwp")
"""Which row the headline is about: the first that is there."""

SMALL, NORMAL, LARGE = 10, 11.5, 15
"""Font sizes in points."""

RIGHT_WIDTH = 0.215
"""Of the right panel, as a share of the picture's; beside it stand two columns of numbers."""

MEAN_END, TIME_END = 1.41, 1.91
"""Right edges of these columns, in widths of the right panel."""

LEADER_END = 104.0
"""Where the line from a curve to its label ends, in percent of progress."""

Curve = tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]


def draw(table: Comparison, path: Path) -> None:
    """Write the picture as PNG.

    Raises:
        OSError: ``path`` cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # A figure of its own rather than pyplot, which keeps state for the whole process.
    note = 0.3 if times_are_overheads(table.rows) else 0.0
    height = max(5.6, 2.3 + 0.48 * len(table.rows)) + note
    figure = Figure(figsize=(14, height), dpi=150)
    FigureCanvasAgg(figure)
    top, bottom = 1 - 1.35 / height, (0.75 + note) / height
    # Labels stand twice between the panels; the left panel gives way to long ones.
    longest = max(len(_name(row)) for row in table.rows)
    width = 0.37 - 2 * 0.0058 * max(0, longest - 8)
    left = figure.add_axes((0.055, bottom, width, top - bottom))
    right = figure.add_axes((0.575, bottom, RIGHT_WIDTH, top - bottom))
    colours = _colours(table.rows)
    bold = _subject(table)
    _draw_curves(left, table.rows, colours, bold)
    _draw_finals(right, table.rows, colours, bold)
    main, detail = headline(table)
    size = LARGE * min(1.0, 98 / len(main))
    figure.text(0.02, 1 - 0.38 / height, main, fontsize=size, fontweight="bold", va="center")
    size = NORMAL * min(1.0, 145 / len(detail))
    figure.text(0.02, 1 - 0.74 / height, detail, fontsize=size, color="#444444", va="center")
    if note:
        figure.text(0.02, 0.2 / height, SMALL_TIMES, fontsize=SMALL, color="#444444", va="center")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def headline(table: Comparison) -> tuple[str, str]:
    """What the runs show, as one sentence, and the circumstances as another."""
    detail = []
    best = max(table.rows, key=lambda row: mean_std(row.top1s)[0] or 0.0)
    ours = _subject(table)
    base = _baseline(table, ours)
    if ours and base and ours is not base:
        main = f"{_score(ours)} test top-1 vs {_score(base)} {_at_what_price(ours, base)}"
        if best is ours:
            detail.append(f"no other method here is higher than {ours.label}")
        else:
            detail.append(f"highest mean: {_score(best)} (passes per step: {best.passes})")
    else:
        what = "the highest of these" if len(table.rows) > 1 else "the only method here"
        main = f"{_score(best)} test top-1, {what}"
    counts = sorted({row.n for row in table.rows})
    runs = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    detail.append(f"{runs} run{'' if runs == '1' else 's'} of each")
    if counts[-1] > 1:
        detail.append("± and bands: sample standard deviation")
    detail.append(setting([run for row in table.rows for run in row.runs]))
    text = "; ".join(detail)
    return main, text[0].upper() + text[1:] + "."


def _subject(table: Comparison) -> Row | None:
    """The row that the headline is about and that is drawn bold."""
    return next((rows[0] for name in OURS if (rows := _rows(table, name))), None)


def _baseline(table: Comparison, ours: Row | None) -> Row | None:
    """The sgd row; of several, the one with most in common with ours beside the method."""
    mine = (related(ours.runs[0]) if ours else None) or {}

    def distance(row: Row) -> int:
        theirs = related(row.runs[0]) or {}
        return sum(theirs.get(k) != v for k, v in mine.items() if not k.startswith("method."))

    return min(_rows(table, "sgd"), key=distance, default=None)


def _rows(table: Comparison, name: str) -> list[Row]:
    """The rows of that label, else those of that method."""
    return [row for row in table.rows if row.experiment.label == name] or [
        row for row in table.rows if row.method == name
    ]


def _name(row: Row) -> str:
    """The label, cut in its middle to what the picture has room for."""
    return row.label if len(row.label) <= 20 else f"{row.label[:7]}…{row.label[-12:]}"


def _score(row: Row) -> str:
    return f"{row.label}: {plus_minus(row.top1s)} %"


def _at_what_price(row: Row, base: Row) -> str:
    """``at equal updates, ×2.0 samples``."""
    parts = []
    for key, name in (("steps", "updates"), ("samples", "samples")):
        mine, other = row.median(key), base.median(key)
        if mine and other:
            same = abs(mine / other - 1) < 0.01
            parts.append(f"equal {name}" if same else f"×{mine / other:.1f} {name}")
    if parts == ["equal updates", "equal samples"]:
        parts = ["equal updates and samples"]
    return f"at {', '.join(parts)}" if parts else ""


def _colours(rows: Sequence[Row]) -> list[str]:
    """One colour for each row: its label's for the first of that label, others a free one."""
    labels = [row.experiment.label for row in rows]
    free = cycle([c for name, c in COLOURS.items() if name not in labels] or COLOURS.values())
    return [
        COLOURS[label] if label in COLOURS and label not in labels[:i] else next(free)
        for i, label in enumerate(labels)
    ]


def _curve(row: Row) -> Curve | None:
    """Progress in percent, mean and standard deviation of test top-1 over the row's runs."""
    runs = [run for run in row.runs if run.curve]
    if not runs:
        return None
    progress = [
        np.array([100.0 * step / run.summary["steps"] for step, _ in run.curve]) for run in runs
    ]
    start, end = max(p[0] for p in progress), min(p[-1] for p in progress)
    grid = np.unique(np.clip(progress[0], start, end))
    values = np.stack(
        [
            np.interp(grid, p, [top1 for _, top1 in run.curve])
            for p, run in zip(progress, runs, strict=True)
        ]
    )
    std = values.std(axis=0, ddof=1) if len(runs) > 1 else np.zeros_like(grid)
    return grid, values.mean(axis=0), std


def _draw_curves(
    axes: "Axes", rows: Sequence[Row], colours: Sequence[str], bold: Row | None
) -> None:
    axes.set_title("Test top-1 while training", fontsize=NORMAL, loc="left")
    axes.set_xlabel("progress (% of a run's own updates)", fontsize=NORMAL)
    axes.set_ylabel("test top-1 (%)", fontsize=NORMAL)
    _plain(axes)
    curves = [
        (row, c, colour) for row, colour in zip(rows, colours, strict=True) if (c := _curve(row))
    ]
    if not curves:
        axes.text(
            0.5, 0.5, "no evaluations in metrics.jsonl", transform=axes.transAxes, ha="center"
        )
        return
    for row, (x, mean, std), colour in curves:
        alone = "o" if len(x) == 1 else None
        axes.plot(
            x, mean, color=colour, linewidth=2.8 if row is bold else 1.7, marker=alone, zorder=3
        )
        axes.fill_between(x, mean - std, mean + std, color=colour, alpha=0.13, linewidth=0)
    # The steep start is cut off: what tells methods apart happens in the last three quarters.
    late = [(m - s)[x >= 25] for _, (x, m, s), _ in curves]
    late_values = [float(v.min()) for v in late if v.size]
    low = min(late_values or [float(m.min()) for _, (_, m, _), _ in curves])
    high = max(float((m + s).max()) for _, (_, m, s), _ in curves)
    pad = max(0.06 * (high - low), 0.5)
    axes.set_ylim(max(low - pad, 0.0), min(high + pad, 100.5))
    axes.set_xlim(0, 100)
    ends = [float(mean[-1]) for _, (_, mean, _), _ in curves]
    for (row, (x, mean, _), colour), y in zip(curves, _spread(axes, ends), strict=True):
        # The leader ends before the text begins, at its middle, and so crosses none.
        axes.plot(
            [float(x[-1]), LEADER_END],
            [float(mean[-1]), y],
            color=colour,
            linewidth=0.8,
            clip_on=False,
        )
        axes.text(
            LEADER_END + 0.8,
            y,
            _name(row),
            color=colour,
            fontsize=NORMAL,
            fontweight="bold" if row is bold else "normal",
            va="center_baseline",
        )


def _spread(axes: "Axes", wanted: Sequence[float]) -> list[float]:
    """Heights for labels: as wanted, but a line of text apart and within the axes."""
    low, high = axes.get_ylim()
    inches = axes.get_window_extent().height / axes.figure.dpi
    gap = (high - low) * (1.35 * NORMAL / 72) / inches
    # Half a line stays free at the top and the bottom, so that text does not leave the axes.
    low, high = low + gap / 2, high - gap / 2
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    # Labels that would touch form a block centred on the mean of what its members wanted.
    blocks: list[tuple[float, list[int]]] = []
    for i in order:
        blocks.append((min(max(wanted[i], low), high), [i]))
        while len(blocks) > 1:
            (below, first), (above, second) = blocks[-2:]
            if above - below >= gap * (len(first) + len(second)) / 2:
                break
            members = first + second
            half = gap * (len(members) - 1) / 2
            centre = sum(wanted[i] for i in members) / len(members)
            blocks[-2:] = [(max(min(centre, high - half), low + half), members)]
    heights = [0.0] * len(wanted)
    for centre, members in blocks:
        for place, i in enumerate(members):
            heights[i] = centre + gap * (place - (len(members) - 1) / 2)
    return heights


def _draw_finals(
    axes: "Axes", rows: Sequence[Row], colours: Sequence[str], bold: Row | None
) -> None:
    axes.set_title("Final test top-1, a dot for each run", fontsize=NORMAL, loc="left")
    axes.set_xlabel("test top-1 (%)", fontsize=NORMAL)
    _plain(axes)
    axes.grid(axis="y", visible=False)
    beside = axes.get_yaxis_transform()
    for place, (row, colour) in enumerate(zip(rows, colours, strict=True)):
        mean, std = mean_std(row.top1s)
        assert mean is not None, "a run without top-1 is left out before"
        axes.axhline(place, color="#EEEEEE", linewidth=1, zorder=0)
        axes.plot(row.top1s, [place] * row.n, "o", color=colour, alpha=0.55, markersize=7, mew=0)
        axes.plot([mean, mean], [place - 0.28, place + 0.28], color=colour, linewidth=2.6)
        if std is not None:
            axes.plot([mean - std, mean + std], [place, place], color=colour, linewidth=1.4)
        weight = "bold" if row is bold else "normal"
        style: dict[str, Any] = {
            "transform": beside,
            "ha": "right",
            "va": "center",
            "fontsize": NORMAL,
            "fontweight": weight,
            "color": "#222222",
        }
        axes.text(MEAN_END, place, plus_minus(row.top1s), **style)
        axes.text(TIME_END, place, row.step_time, **style)
    head: dict[str, Any] = {"transform": axes.transAxes, "ha": "right", "va": "bottom"}
    head |= {"fontsize": SMALL, "color": "#444444"}
    axes.text(MEAN_END, 1.015, "mean ± std\n(%)", **head)
    axes.text(TIME_END, 1.015, "step time × SGD\n(range over seeds)", **head)
    if all(row.step_ratio is None for row in rows):
        axes.text(TIME_END, -0.02, f"{DASH}: no sgd run\nof the session", **(head | {"va": "top"}))
    axes.set_yticks(range(len(rows)), [_name(row) for row in rows], fontsize=NORMAL)
    for tick, row, colour in zip(axes.get_yticklabels(), rows, colours, strict=True):
        tick.set_color(colour)
        tick.set_fontweight("bold" if row is bold else "normal")
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    values = [v for row in rows for v in row.top1s]
    pad = max(0.08 * (max(values) - min(values)), 0.5)
    axes.set_xlim(max(min(values) - pad, 0.0), min(max(values) + pad, 100.5))


def _plain(axes: "Axes") -> None:
    axes.grid(color="#E6E6E6", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=SMALL)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
