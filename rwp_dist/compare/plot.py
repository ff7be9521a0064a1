"""The picture: test accuracy over time on the left, where every row ends on the right."""

import io
import math
import statistics
import textwrap
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations, cycle, product
from typing import TYPE_CHECKING, NamedTuple

from rwp_dist.base.fonts import fonts_for
from rwp_dist.base.text import shortened, visible, width
from rwp_dist.compare.comparison import Comparison
from rwp_dist.compare.curves import Axis, Point, curve
from rwp_dist.compare.estimates import Estimate, estimate
from rwp_dist.compare.notes import conditions
from rwp_dist.compare.rows import Row
from rwp_dist.perturb.methods import METHODS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Annotation

PALETTE = (
    *("#000000", "#E69F00", "#D55E00", "#56B4E9"),
    *("#0072B2", "#009E73", "#CC79A7", "#999933"),
)
"""Okabe and Ito's, which people with any common kind of colour blindness can tell apart; but Tol's
olive for their yellow, which is hardly seen on white."""

MARKERS = "osD^vP*X"
INK, GREY = "#222222", "#555555"

WIDTH = 8.3
"""Inches: text of 10 points then has 14 pixels in a README, whose column is 830 pixels wide."""

GAP = 9
"""Points between the middle of a mark and its label."""

LONGEST = 16
"""Characters of a name that a curve can be labelled with, if there are at most ``MOST`` rows."""
MOST = 10

MOST_ROWS = 50
"""That are drawn. More could not be told apart, and would take seconds for every hundred."""

MOST_MARKS = 9
"""Lines below the picture that explain marks."""

MOST_PIXELS = 60_000
"""Of its height; matplotlib draws up to 2^16."""

UNITS = ((3 * 3600, 3600, "h"), (600, 60, "min"), (0, 1, "s"))
"""From how many seconds on, in which unit."""


class Style(NamedTuple):
    """How a row is drawn, in both panels."""

    colour: str
    marker: str


STYLES = {
    **{name: Style(*both) for name, *both in zip(METHODS, cycle(PALETTE), cycle(MARKERS))},
    "sgd 2x": Style("#8C8C8C", "p"),
}
"""By label, so that a method looks the same in every picture."""

ALL_STYLES = tuple(
    dict.fromkeys(
        [
            *STYLES.values(),
            *(
                Style(colour, MARKERS[(i + turn) % len(MARKERS)])
                for turn in range(len(MARKERS))
                for i, colour in enumerate(PALETTE)
            ),
        ]
    )
)
"""Every colour with every marker; neighbours differ in both."""


def picture(comparison: Comparison) -> bytes:
    """Both panels side by side, those of each test set below each other, as PNG."""
    parts = drawn_parts(comparison)
    with fonts_for(texts_of(comparison)):
        heights = [_height(part) for part in parts]
        caption = _caption(comparison)
        figure = _figure(WIDTH, sum(heights) + 0.15 * (caption.count("\n") + 1))
        areas = figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)
        for area, part in zip(areas.flat, parts, strict=True):
            left, right = area.subplots(1, 2, width_ratios=[1.25, 1])
            draw_curves(left, part)
            draw_ends(right, part)
            title = ": ".join(filter(None, (_sentence(part.test_set), _conditions(part.rows))))
            title = wrapped("; ".join(filter(None, (title, which_rows(comparison)))), 110)
            area.suptitle(title, fontsize="medium", color=GREY, x=0.01, ha="left")
        if caption:
            figure.supxlabel(caption, fontsize="small", color=GREY, x=0.01, ha="left")
        return _png(figure)


def panels(comparison: Comparison) -> list[tuple[str, bytes]]:
    """The same panels one by one, as PNG, so that a page can put one below the other.

    Returns:
        What each shows, and the PNG.
    """
    found = []
    with fonts_for(texts_of(comparison)):
        for part in drawn_parts(comparison):
            of = f", {part.test_set}" if part.test_set else ""
            for draw, height, what in (
                (draw_curves, 3.4, f"Test top-1 over {part.axis.label}"),
                (draw_ends, _height(part) - 0.2, "Final test top-1, with 95 % intervals"),
            ):
                figure = _figure(0.6 * WIDTH, height)
                axes = figure.subplots()
                draw(axes, part)
                if part.test_set:
                    figure.suptitle(_sentence(part.test_set), fontsize="medium", color=GREY)
                found.append((f"{what}{of}", _png(figure)))
    return found


def drawn_parts(comparison: Comparison) -> list[Comparison]:
    """The rows of each test set that are drawn: the baseline, and those of the highest top-1."""
    if len(comparison.rows) <= MOST_ROWS:
        return comparison.parts
    parts = comparison.parts[:MOST_ROWS]
    return [replace(part, rows=_best(part, MOST_ROWS // len(parts))) for part in parts]


def which_rows(comparison: Comparison) -> str:
    """Which are drawn, if some are not."""
    total = len(comparison.rows)
    if total <= MOST_ROWS:
        return ""
    shown = sum(len(part.rows) for part in drawn_parts(comparison))
    baseline = "the baseline and " if comparison.differences else ""
    of = " of each test set" if len(comparison.parts) > 1 else ""
    return f"{shown} of {total:,} rows: {baseline}the best{of} (compare.md has all)"


def _best(part: Comparison, most: int) -> list[Row]:
    """In their order."""
    others = {row.name for row in part.rows}
    if part.differences:
        others = {row.name for row in part.differences.rows} | {*part.differences.omitted}

    def place(i: int) -> tuple[bool, float]:
        row = part.rows[i]
        return row.name in others, -statistics.fmean(row.values("top1"))

    return [part.rows[i] for i in sorted(sorted(range(len(part.rows)), key=place)[:most])]


def boxes_in(comparison: Comparison) -> str:
    """Characters that no font of this machine has, and that are drawn as boxes."""
    with fonts_for(texts_of(comparison)) as boxes:
        return boxes


def texts_of(comparison: Comparison) -> list[str]:
    """All texts of the pictures that come from runs."""
    names = [row.title for part in drawn_parts(comparison) for row in part.rows]
    return [*names, *comparison.marks, conditions(comparison.rows)]


def wrapped(text: str, columns: int) -> str:
    """A text in lines of about as many columns of a terminal."""
    return textwrap.fill(text, max(1, columns * len(text) // max(width(text), 1)))


def _name(row: Row) -> str:
    """A row's title in short lines."""
    return wrapped(row.title, 22)


def _height(part: Comparison) -> float:
    """Inches of the panels of a test set."""
    lines = max(_name(row).count("\n") + 1 for row in part.rows)
    return max(3.6, 1.5 + max(0.34, 0.17 * lines) * len(part.rows))


def _caption(comparison: Comparison) -> str:
    """What the marks mean, as far as there is room."""
    lines = [wrapped(mark, 130) for mark in comparison.marks]
    if len(lines) > MOST_MARKS:
        lines[MOST_MARKS:] = [f"… and {len(lines) - MOST_MARKS} more, see compare.md."]
    return "\n".join(lines)


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _conditions(rows: Sequence[Row]) -> str:
    return f"{conditions(rows)}; {_counts(rows)}"


def _figure(width: float, height: float) -> "Figure":
    from matplotlib.figure import Figure  # not pyplot, which keeps state for the whole process

    dpi = min(200, MOST_PIXELS // max(1, math.ceil(height)))
    return Figure(figsize=(width, height), dpi=dpi, layout="constrained")


def _png(figure: "Figure") -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()


def _counts(rows: Sequence[Row]) -> str:
    """``3 runs each``, ``1–3 runs each``."""
    counts = sorted({row.n for row in rows})
    numbers = "–".join(map(str, dict.fromkeys((counts[0], counts[-1]))))
    return f"{numbers} run{'' if counts == [1] else 's'} each"


def make_styles(rows: Sequence[Row]) -> list[Style]:
    """A style for each row: that of its label, or one that no other row has, as far as they go."""
    own = {row.label: STYLES[row.label] for row in rows if row.label in STYLES}
    free = cycle([style for style in ALL_STYLES if style not in own.values()])
    return [own.pop(row.label) if row.label in own else next(free) for row in rows]


def _style(axes: "Axes", title: str) -> None:
    axes.set_title(title, loc="left", fontsize="medium")
    axes.grid(color="#E6E6E6", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


# --- left: curves ---


def draw_curves(axes: "Axes", comparison: Comparison) -> None:
    """Mean test top-1 of the evaluations; the end of a row has its name and its interval."""
    from matplotlib.patheffects import withStroke

    rows, styles = comparison.rows, make_styles(comparison.rows)
    curves = [curve(row, comparison.axis) for row in rows]
    unit, label = _unit(comparison.axis, curves)
    _style(axes, "Test top-1 while training (bar: 95 % interval)")
    axes.set(xlabel=label, ylabel="test top-1 (%)")
    direct = len(rows) <= MOST and all(width(visible(row.name)) <= LONGEST for row in rows)
    ends, shown = [], []
    for row, points, (colour, marker) in zip(rows, curves, styles, strict=True):
        if not points:
            continue
        x = [point.x / unit for point in points]
        axes.plot(x, [point.top1 for point in points], color=colour, marker=".", markersize=4)
        end = row.estimate("top1")
        assert end is not None, "every compared run has a top-1"
        _mark(axes, x[-1], end, colour, marker, vertical=True)
        shown += [end.mean - end.half, end.mean + end.half]
        if direct:
            ends.append(
                axes.annotate(
                    row.title,
                    (x[-1], end.mean),
                    (GAP, 0),
                    textcoords="offset points",
                    arrowprops={"arrowstyle": "-", "color": colour, "relpos": (0, 0.5)},
                    path_effects=[withStroke(linewidth=2.5, foreground="white")],
                    color=INK,
                    va="center",
                )
            )
    if shown:  # the steep start is cut off: methods differ after it
        spread = max(max(shown) - min(shown), 2.0)
        axes.set_ylim(max(min(shown) - spread, 0), min(max(shown) + 0.1 * spread, 100.5))
        longest = max(point.x for points in curves for point in points)
        axes.set_xlim(0, 1.02 * longest / unit or 1.0)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,g}")
    _place(axes, ends)


def _unit(axis: Axis, curves: Sequence[Sequence[Point]]) -> tuple[float, str]:
    """By what to divide, and the label of the axis."""
    if not axis.label.endswith("time"):
        return 1.0, axis.label
    longest = max((point.x for points in curves for point in points), default=0.0)
    unit, name = next((unit, name) for least, unit, name in UNITS if longest >= least)
    return unit, f"{axis.label} ({name})"


def _mark(
    axes: "Axes", place: float, found: Estimate, colour: str, marker: str, vertical: bool
) -> None:
    """A mean with its interval, upright or lying."""
    x, y = (place, found.mean) if vertical else (found.mean, place)
    half = found.half or None
    x_half, y_half = (None, half) if vertical else (half, None)
    axes.errorbar(
        [x], [y], y_half, x_half, color=colour, marker=marker, markersize=7, capsize=4, zorder=3
    )


def _place(axes: "Axes", labels: Sequence["Annotation"]) -> None:
    """Put each label to the right of its mark, none upon another, a mark or a bar; make room."""
    from matplotlib.text import Text

    figure = axes.get_figure(root=True)
    assert figure is not None
    figure.draw_without_rendering()
    pixels = figure.dpi / 72
    gap = GAP * pixels
    sizes = [Text.get_window_extent(label) for label in labels]  # without the lines
    inside = axes.get_window_extent()
    while True:  # more room brings bars nearer to each other, and so labels further to the right
        ends = [axes.transData.transform(label.xy) for label in labels]
        left = [
            _right_of_bars(x, [other for other, _ in ends], size.width + gap) + gap
            for (x, _), size in zip(ends, sizes, strict=True)
        ]
        needs = [
            (at - gap - inside.x0) / (inside.width - gap - size.width)
            for at, size in zip(left, sizes, strict=True)
        ]
        if max(needs, default=0.0) < 1.001:
            break
        axes.set_xlim(0, axes.get_xlim()[1] * max(needs))
    marks = [_Box(x - 5 * pixels, x + 5 * pixels, y, 10 * pixels) for x, y in ends]
    boxes = [
        _Box(x, x + size.width, mark.y, size.height)
        for x, size, mark in zip(left, sizes, marks, strict=True)
    ]
    upwards = sorted(range(len(boxes)), key=lambda i: marks[i].y)
    for _ in range(100):
        for lower, upper in combinations(upwards, 2):  # push each other apart, in their order
            half = boxes[upper].overlap(boxes[lower]) / 2
            boxes[upper], boxes[lower] = boxes[upper].moved(half), boxes[lower].moved(-half)
        for i, mark in product(upwards, marks):
            away = boxes[i].overlap(mark)
            boxes[i] = boxes[i].moved(away if boxes[i].y >= mark.y else -away)
    for label, (x, y), box in zip(labels, ends, boxes, strict=True):
        label.set(position=((box.left - x) / pixels, (box.y - y) / pixels))
        assert label.arrow_patch is not None
        far = box.left - x > 2 * gap or abs(box.y - y) > box.height
        label.arrow_patch.set_visible(far)


def _right_of_bars(x: float, bars: Sequence[float], width: float) -> float:
    """The first place from ``x`` on that has no bar within a width to its right."""
    for bar in sorted(bars):
        if x < bar < x + width:
            x = bar
    return x


class _Box(NamedTuple):
    """A place that is taken, in pixels."""

    left: float
    right: float
    y: float
    """Of its middle."""
    height: float

    def overlap(self, other: "_Box") -> float:
        """How far it must move upwards or downwards until it touches another no more."""
        if self.left > other.right or other.left > self.right:
            return 0.0
        return max((self.height + other.height) / 2 - abs(self.y - other.y), 0.0)

    def moved(self, up: float) -> "_Box":
        return self._replace(y=self.y + up)


# --- right: ends ---


def draw_ends(axes: "Axes", comparison: Comparison) -> None:
    """Where rows end, or their differences from the baseline if there is one."""
    rows, styles = comparison.rows, make_styles(comparison.rows)
    differences = comparison.differences
    if differences and all(row.name in differences.omitted for row in rows):
        differences = None  # no baseline in this test set
    if differences is None:
        values: list[Sequence[float]] = [row.values("top1") for row in rows]
        _style(axes, "Final test top-1 (hollow: each run)")
        axes.set_xlabel("test top-1 (%)")
    else:
        points = {difference.name: difference.points for difference in differences.rows}
        points |= {name: [] for name in differences.omitted}
        values = [points.get(row.name, [0.0]) for row in rows]
        _style(axes, "Difference (hollow: each seed)")
        axes.set_xlabel(f"points above {shortened(visible(differences.baseline), 40)}")
        axes.axvline(0, color=GREY, linewidth=1)
    for place, (own, (colour, marker)) in enumerate(zip(values, styles, strict=True)):
        if (found := estimate(own)) is None:
            continue
        if found.n > 1:  # below the mean, so that it hides none
            axes.plot(own, [place + 0.3] * found.n, marker, color=colour, markersize=4, mfc="none")
        _mark(axes, place, found, colour, marker, vertical=False)
    texts = [_mean_text(own, signed=differences is not None) for own in values]
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_yticks(range(len(rows)), list(map(_name, rows)))
    numbers = axes.twinx()
    numbers.set_ylim(axes.get_ylim())
    numbers.set_yticks(range(len(rows)), texts)
    numbers.spines[["top", "right"]].set_visible(False)
    for ticks in (axes, numbers):
        ticks.tick_params(axis="y", length=0)


def _mean_text(values: Sequence[float], signed: bool) -> str:
    if not values:
        return ""
    mean = statistics.fmean(values)
    if signed:
        return f"{mean:+.2f}".replace("-", "−") if mean else "0"
    return f"{mean:.1f}"
