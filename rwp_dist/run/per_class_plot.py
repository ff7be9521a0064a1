"""The picture of a network's answers by class.

Few classes: the whole confusion matrix. Hundreds: its colours, the worst classes and the most
confused pairs. More: these two, and the accuracy of all classes as one curve.
"""

import io
from typing import TYPE_CHECKING

import numpy as np

from rwp_dist.base.fonts import fonts_for
from rwp_dist.base.text import visible
from rwp_dist.run.per_class import PerClass

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FEW, MANY = 20, 150
"""Classes up to which a matrix has numbers in its cells, and up to which it is drawn."""

WORST = 20
"""Classes, and pairs, that a list shows."""

LONGEST = 22
"""Characters of a class's name."""

WIDTH = 8.3
INK, GREY, BLUE, ORANGE = "#222222", "#555555", "#0072B2", "#E69F00"


def draw_per_class(found: PerClass) -> bytes:
    """The picture as PNG."""
    from matplotlib.figure import Figure  # not pyplot, which keeps state for the whole process

    names = [_shown(name) for name in found.names]
    num = len(names)
    with fonts_for(names):
        if num <= FEW:
            figure = Figure(figsize=(WIDTH, 1.6 + 0.3 * num), dpi=150, layout="constrained")
            left, right = figure.subplots(1, 2, width_ratios=(2.2, 1))
            _draw_matrix(left, found, names)
            _draw_bars(right, found, names, list(range(num)))
            right.set_title("Top-1 of each class (%)", loc="left", fontsize="medium")
        else:
            height = 8.6 if num <= MANY else 2.6
            figure = Figure(figsize=(WIDTH, height + 4.4), dpi=150, layout="constrained")
            areas = figure.subfigures(2, 1, height_ratios=(height, 4.4), squeeze=False)
            top, (left, right) = areas[0, 0].subplots(), areas[1, 0].subplots(1, 2)
            if num <= MANY:
                _draw_matrix(top, found, names)
            else:
                _draw_all(top, found)
            worst = found.worst(WORST)
            _draw_bars(left, found, names, worst)
            left.set_title(f"The {len(worst)} worst classes: top-1 (%)", loc="left", fontsize=10)
            _draw_pairs(right, found, names)
        return _png(figure)


def _shown(name: str) -> str:
    name = visible(name)
    return name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…"


def _draw_matrix(axes: "Axes", found: PerClass, names: list[str]) -> None:
    """Shares of the images of each class, by answer."""
    from matplotlib.colors import PowerNorm

    num = len(names)
    shares = 100 * found.counts / np.maximum(found.num_images, 1)[:, None]
    # Rare mistakes are seen, too.
    norm = PowerNorm(0.5, 0, 100)
    drawn = axes.imshow(shares, cmap="Blues", norm=norm, interpolation="nearest")
    size = min(8.0, max(3.0, 420 / num))
    axes.set_xticks(range(num), names, rotation=90, fontsize=size)
    axes.set_yticks(range(num), names, fontsize=size)
    axes.tick_params(length=0)
    axes.set(xlabel="answer", ylabel="right class")
    axes.set_title("Images of each class by answer (%)", loc="left", fontsize="medium")
    if num <= FEW:
        for (row, column), share in np.ndenumerate(shares):
            if share:
                text = f"{share:.0f}" if share >= 1 else "<1"
                colour = "white" if share > 30 else INK
                axes.text(column, row, text, ha="center", va="center", fontsize=7, color=colour)
    else:
        axes.figure.colorbar(drawn, ax=axes, ticks=(0, 1, 5, 20, 50, 100), shrink=0.6)


def _draw_bars(axes: "Axes", found: PerClass, names: list[str], shown: list[int]) -> None:
    """Accuracy of some classes, the first one on top."""
    places, top1 = range(len(shown)), found.top1
    values = [top1[number] for number in shown]
    axes.barh(places, [value or 0.0 for value in values], color=BLUE)
    for place, number, value in zip(places, shown, values, strict=True):
        text = "no images" if value is None else f"{value:.0f} % of {found.num_images[number]:,}"
        axes.text(101, place, text, va="center", fontsize=7, color=GREY)
    axes.set_yticks(places, [names[number] for number in shown], fontsize=8)
    axes.set_xlim(0, 100)
    _tidy(axes, len(shown))


def _draw_pairs(axes: "Axes", found: PerClass, names: list[str]) -> None:
    """The mistakes that are made most often, the most frequent one on top."""
    pairs = found.confused()[:WORST]
    counts = [count for *_, count in pairs]
    axes.barh(range(len(pairs)), counts, color=ORANGE)
    labels = [f"{names[right]} → {names[answer]}" for right, answer, _ in pairs]
    axes.set_yticks(range(len(pairs)), labels, fontsize=8)
    for place, (right, _, count) in enumerate(pairs):
        text = f" {count:,} of {found.num_images[right]:,}"
        axes.text(count, place, text, va="center", fontsize=7, color=GREY)
    axes.set_title("Most confused (images)", loc="right", fontsize=10)
    axes.set_xlim(0, 1.35 * max(counts, default=1))
    _tidy(axes, len(pairs))


def _draw_all(axes: "Axes", found: PerClass) -> None:
    """The accuracy of all classes, from the lowest to the highest."""
    values = sorted(value for value in found.top1 if value is not None)
    axes.fill_between(range(len(values)), values, step="mid", color=BLUE, alpha=0.25)
    axes.plot(range(len(values)), values, drawstyle="steps-mid", color=BLUE)
    mean = float(np.mean(values)) if values else 0.0
    axes.axhline(mean, color=GREY, linewidth=1, linestyle=":")
    axes.set_title(
        f"Top-1 of each of {len(values):,} classes, sorted (%); dotted: their mean, {mean:.1f}",
        loc="left",
        fontsize=10,
    )
    axes.set(xlim=(0, max(len(values) - 1, 1)), ylim=(0, 100), xlabel="classes")
    axes.spines[["top", "right"]].set_visible(False)


def _tidy(axes: "Axes", num: int) -> None:
    axes.set_ylim(max(num, 1) - 0.4, -0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(axis="y", length=0)


def _png(figure: "Figure") -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()
