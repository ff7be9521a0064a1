"""The pictures: curves and Hessian of all runs, and slices."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rwp_dist.base.fonts import plain
from rwp_dist.compare.estimates import estimate
from rwp_dist.compare.plot import GREY, STYLES, WIDTH, make_styles
from rwp_dist.compare.rows import Row
from rwp_dist.flatness.measured import Measured, Values

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

LEAST = 1e-6
"""Nats below which a rise of the loss is drawn as this: rounding decides it."""

LINEAR = 0.1
"""Eigenvalues nearer to 0 are drawn to a linear scale, others to a logarithmic one."""

SMOOTHING = 0.2
"""Standard deviation of the kernel that smooths their density, in natural logarithms."""

COLUMNS = 3
"""Planes beside each other."""

UNITS = {
    "around": "every filter moves by this share of its norm",
    "between": "in distances between the first two runs",
}
"""Of the axes of a slice."""

RISE, HITS = "rise of the loss (nats)", "training top-1 (%)"
RADII = (
    ((0.02, 0.1, 0.5), "radius, random directions"),
    ((0.001, 0.005, 0.02), "radius, adversarial"),
)
"""Ticks and names of the axes of the curves."""


def picture(
    rows: Sequence[Row], measured: Mapping[Path, Measured], metadata: dict[str, str]
) -> bytes:
    """Curves of all rows, and their Hessian if it was measured, as PNG.

    Args:
        rows: what is drawn.
        measured: by the directories of the rows' runs.
        metadata: text that the PNG carries.
    """
    hessian = any(run.hessian for run in measured.values())
    figure = _figure(5.6)
    panels = figure.subplots(2, 2 + hessian, squeeze=False)
    for row, (colour, marker) in zip(rows, make_styles(rows), strict=True):
        runs = [measured[run.path] for run in row.runs]
        style = {"label": plain(row.title), "color": colour, "marker": marker, "markersize": 4}
        for column, kind in enumerate(("random", "adversarial")):
            curves = [getattr(run, kind) for run in runs]
            _draw_band(panels[0, column], curves[0].radii, [c.rise for c in curves], style, True)
            _draw_band(panels[1, column], curves[0].radii, [c.top1 for c in curves], style, False)
        if hessian:
            _draw_density(panels[0, 2], [run.hessian["density"] for run in runs], colour)
            _draw_sizes(panels[1, 2], runs, style)
    for column, (ticks, label) in enumerate(RADII):
        least = min(min(line.get_ydata()) for line in panels[0, column].lines)
        panels[0, column].set(yscale="log", ylabel=RISE, ylim=(max(least, LEAST) / 2, None))
        panels[1, column].set(ylabel=HITS, xlabel=label)
        for axes in panels[:, column]:
            axes.set_xscale("log")
            axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
            axes.minorticks_off()
    for axes in panels.flat:
        _tidy(axes)
    figure.legend(
        *panels[0, 0].get_legend_handles_labels(),
        loc="outside lower center",
        ncols=6,
        frameon=False,
    )
    figure.suptitle(_title(rows, measured), fontsize="medium", color=GREY, x=0.01, ha="left")
    return _png(figure, metadata)


def picture_of_slices(slices: Sequence[dict[str, Any]], metadata: dict[str, str]) -> bytes:
    """Loss and top-1 on all lines, then the loss on each plane, as PNG."""
    lines = [one for one in slices if len(one["y"]) == 1]
    planes = [one for one in slices if len(one["y"]) > 1]
    rows = -(-len(planes) // COLUMNS)
    heights = [height for height in (3.0 * bool(lines), 2.7 * rows) if height]
    figure = _figure(sum(heights), 0.6 if len(slices) == 1 and planes else 1.0)
    parts = list(figure.subfigures(len(heights), 1, squeeze=False, height_ratios=heights).flat)
    if lines:
        _draw_lines(parts[0], lines)
    if planes:
        _draw_planes(parts[-1], planes, rows)
    return _png(figure, metadata)


def _draw_band(
    axes: "Axes",
    radii: Sequence[float],
    curves: Sequence[Values],
    style: dict[str, Any],
    factors: bool,
) -> None:
    """Mean and standard deviation over runs, or over the directions of a single run.

    ``factors``: of the logarithms, as the table has them.
    """
    each = np.stack([curve.mean(0) for curve in curves]) if len(curves) > 1 else curves[0]
    each, radii = each[:, 1:], radii[1:]  # 0 has no place on a logarithmic axis
    if factors:
        each = np.log(np.maximum(each, LEAST))
    mean = each.mean(0)
    std = each.std(0, ddof=1) if len(each) > 1 else np.zeros(len(mean))
    low, middle, high = (
        np.exp(line) if factors else line for line in (mean - std, mean, mean + std)
    )
    axes.plot(radii, middle, **style)
    axes.fill_between(radii, low, high, color=style["color"], alpha=0.15, linewidth=0)


def _draw_density(axes: "Axes", densities: Sequence[dict[str, Any]], colour: str) -> None:
    """Share of the eigenvalues per unit of a nearly logarithmic axis, mean over runs."""
    places, weights = (
        np.concatenate([np.array(d[key], dtype=float).ravel() for d in densities])
        for key in ("eigenvalues", "weights")
    )
    known = np.isfinite(places)
    places = np.arcsinh(places[known] / LINEAR)
    grid = np.linspace(places.min() - 1, places.max() + 1, 500)
    kernel = np.exp(-(((grid[:, None] - places) / SMOOTHING) ** 2) / 2)
    share = (kernel * weights[known]).sum(1) / (weights.sum() * SMOOTHING * np.sqrt(2 * np.pi))
    axes.plot(LINEAR * np.sinh(grid), share, color=colour, linewidth=1.2)
    axes.set_xscale("asinh", linear_width=LINEAR)
    low, high = axes.get_xlim()
    ticks = [
        0,
        *(t for power in range(0, 9, 2) for t in (-(10.0**power), 10.0**power) if low < t < high),
    ]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks], minor=False)
    axes.set(yscale="log", ylim=(1e-7, 3), xlabel="eigenvalue", ylabel="density of eigenvalues")


def _draw_sizes(axes: "Axes", runs: Sequence[Measured], style: dict[str, Any]) -> None:
    """Largest eigenvalue and trace, mean and standard deviation over runs."""
    for place, name in enumerate(("top_eigenvalue", "trace")):
        found = estimate([run.hessian[name]["value"] for run in runs])
        assert found is not None, "there are runs"
        axes.errorbar([place], [found.mean], yerr=found.std, capsize=4, **style)
    axes.set(yscale="log", xlim=(-0.6, 1.6), ylabel="of the Hessian (nats)")
    axes.set_xticks([0, 1], ["largest\neigenvalue", "trace"])


def _draw_lines(figure: "SubFigure", lines: Sequence[dict[str, Any]]) -> None:
    colours = [style.colour for style in STYLES.values()]
    panels = figure.subplots(1, 2)
    for axes, key, label in zip(panels, ("loss", "top1"), ("loss (nats)", HITS), strict=True):
        for number, line in enumerate(lines):
            name, colour = " to ".join(line["runs"]), colours[number % len(colours)]
            axes.plot(line["x"], line[key][0], color=colour, label=plain(name))
            for name, (x, _) in line["runs"].items() if len(line["runs"]) > 1 else ():
                axes.axvline(x, color=GREY, linestyle=":")
                axes.text(x, 1.01, plain(name), transform=axes.get_xaxis_transform(), ha="center")
        axes.set(ylabel=label, xlabel=UNITS[lines[0]["kind"]])
        _tidy(axes)
    if lines[0]["kind"] == "around":
        figure.legend(
            *panels[0].get_legend_handles_labels(),
            loc="outside lower center",
            ncols=6,
            frameon=False,
        )


def _draw_planes(figure: "SubFigure", planes: Sequence[dict[str, Any]], rows: int) -> None:
    """Contours of the loss, to one logarithmic scale of colours."""
    from matplotlib.colors import LogNorm

    panels = figure.subplots(rows, min(len(planes), COLUMNS), squeeze=False)
    losses = np.concatenate([np.ravel(np.array(plane["loss"], dtype=float)) for plane in planes])
    levels = np.geomspace(np.nanmin(losses), np.nanmax(losses), 15)
    for axes, plane in zip(panels.flat, planes, strict=False):
        loss = np.array(plane["loss"], dtype=float)
        filled = axes.contourf(plane["x"], plane["y"], loss, levels, norm=LogNorm(), cmap="cividis")
        for name, (x, y) in plane["runs"].items():
            axes.plot(x, y, "o", color="white", markeredgecolor="black")
            text = axes.annotate(
                plain(name), (x, y), (0, 8), textcoords="offset points", ha="center"
            )
            text.set_bbox({"facecolor": "white", "alpha": 0.7, "linewidth": 0, "pad": 1})
        axes.set_aspect("equal")
        axes.locator_params(nbins=4)
    for axes in list(panels.flat)[len(planes) :]:
        axes.set_axis_off()
    figure.supxlabel(UNITS[planes[0]["kind"]], fontsize="medium")
    figure.colorbar(filled, ax=panels, label="loss (nats)", format="%.2g")


def _title(rows: Sequence[Row], measured: Mapping[Path, Measured]) -> str:
    counts = sorted({row.n for row in rows})
    numbers = "–".join(map(str, dict.fromkeys((counts[0], counts[-1]))))
    spread = f"{numbers} runs" if counts[-1] > 1 else "the random directions"
    images = next(iter(measured.values())).num_images
    return f"{images:,} training images without augmentation; mean ± deviation of {spread}"


def _tidy(axes: "Axes") -> None:
    axes.grid(color="#E6E6E6", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _figure(height: float, share: float = 1.0) -> "Figure":
    from matplotlib.figure import Figure  # not pyplot, which keeps state for the whole process

    return Figure(figsize=(share * WIDTH, height), dpi=200, layout="constrained")


def _png(figure: "Figure", metadata: dict[str, str]) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="png", metadata=metadata)
    return file.getvalue()
