"""The picture: marks are where the numbers are, and no label hides another."""

from collections.abc import Callable
from itertools import combinations
from pathlib import Path

import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Annotation, Text
from support.comparisons import configure, make

from rwp_dist.compare.comparison import Comparison
from rwp_dist.compare.curves import AXES
from rwp_dist.compare.pairs import against
from rwp_dist.compare.plot import (
    draw_curves,
    draw_ends,
    drawn_parts,
    make_styles,
    picture,
    which_rows,
)
from rwp_dist.compare.report import report
from rwp_dist.compare.rows import make_rows
from rwp_dist.compare.runs import collect

ENDS = {"sgd": 90.0, "sam": 91.0, "rwp": 91.05, "m-rwp": 91.1, "m-arwp": 91.12, "asam": 91.0}


def comparison(folder: Path, x: str = "device", baseline: str | None = None) -> Comparison:
    rows = make_rows(collect([folder])[0])
    differences = against(rows, baseline) if baseline else None
    return Comparison(rows, [], {}, AXES[x], differences=differences)


def drawn(draw: Callable[[Axes, Comparison], None], of: Comparison) -> Axes:
    figure = Figure(figsize=(5, 4), dpi=200, layout="constrained")
    axes = figure.subplots()
    draw(axes, of)
    figure.draw_without_rendering()
    return axes


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for label, top1 in ENDS.items():
        for seed in (0, 1):
            slow = 1.9 if "sam" in label else 1.0 + len(label) / 50
            make(tmp_path, label, seed, top1 + seed * (2 if label == "sgd" else 1), 0.1 * slow)
    return tmp_path


def test_a_curve_that_falls_deep_leaves_the_ends_their_room(folder: Path) -> None:
    of = comparison(folder)
    usual = drawn(draw_curves, of).get_ylim()
    for run in of.rows[0].runs:
        for step in sorted(run.evaluations)[:-1]:
            run.evaluations[step]["top1"] = 1.0
    assert drawn(draw_curves, of).get_ylim() == usual


def test_labels_are_beside_their_marks_and_none_is_upon_another_or_a_bar(folder: Path) -> None:
    axes = drawn(draw_curves, comparison(folder))
    labels = [text for text in axes.texts if isinstance(text, Annotation)]
    assert {label.get_text() for label in labels} == ENDS.keys()
    boxes = [Text.get_window_extent(label) for label in labels]  # without their lines
    inside = axes.get_window_extent()
    for one, other in combinations(boxes, 2):
        assert min(one.x1, other.x1) <= max(one.x0, other.x0) or (
            min(one.y1, other.y1) <= max(one.y0, other.y0) + 0.5
        )
    for label, box in zip(labels, boxes, strict=True):
        mark = axes.transData.transform(label.xy)
        assert mark[0] < box.x0 and box.x1 < inside.x1 + 1
        bars = [axes.transData.transform(other.xy)[0] for other in labels]
        assert not any(box.x0 < bar < box.x1 for bar in bars)
        assert abs((box.y0 + box.y1) / 2 - mark[1]) < 4 * box.height


@pytest.mark.parametrize(
    ("x", "label", "end"), [("updates", "updates", 100), ("device", "device time (s)", 20.0)]
)
def test_curves_end_at_the_mean_of_their_runs(
    tmp_path: Path, x: str, label: str, end: float
) -> None:
    for seed, top1 in enumerate((80.0, 84.0)):
        make(tmp_path, "sgd", seed, top1, 0.1)
    axes = drawn(draw_curves, comparison(tmp_path, x))
    xs, ys = axes.lines[0].get_data()
    assert (len(xs), xs[-1], ys[-1]) == (3, pytest.approx(end), pytest.approx(82 - 0.5))
    [mark] = axes.containers
    assert mark.lines[0].get_data() == (pytest.approx([end]), [82.0])
    [bar] = mark.lines[2][0].get_segments()
    assert bar[:, 1] == pytest.approx([82 - 12.706 * 2, 82 + 12.706 * 2], abs=1e-3)
    assert axes.get_xlabel() == label


def test_long_times_are_in_minutes_or_hours(tmp_path: Path) -> None:
    make(tmp_path, "sgd", 0, 80.0, 6.0)  # 1200 s on two devices
    assert drawn(draw_curves, comparison(tmp_path)).get_xlabel() == "device time (min)"
    make(tmp_path, "sgd", 1, 80.0, 200.0)
    assert drawn(draw_curves, comparison(tmp_path)).get_xlabel() == "device time (h)"


def test_ends_are_differences_if_there_is_a_baseline(folder: Path) -> None:
    axes = drawn(draw_ends, comparison(folder, baseline="sam"))
    means = {
        axes.get_yticklabels()[round(mark.lines[0].get_ydata()[0])].get_text(): float(
            mark.lines[0].get_xdata()[0]
        )
        for mark in axes.containers
    }
    assert means == {
        name: pytest.approx(top1 + (0.5 if name == "sgd" else 0) - ENDS["sam"])
        for name, top1 in ENDS.items()
    }
    assert axes.get_xlabel() == "points above sam"


def test_many_rows_and_long_names_are_drawn_without_labels_at_the_curves(tmp_path: Path) -> None:
    for number in range(12):
        make(tmp_path, f"variant {number} with a name that is long", 0, 80.0, 0.1, method="rwp")
    compared = comparison(tmp_path)
    assert not drawn(draw_curves, compared).texts
    assert picture(compared).startswith(b"\x89PNG")


def test_rows_differ_in_colour_or_marker(tmp_path: Path) -> None:
    names = [*ENDS, *(f"variant {number}" for number in range(64 - len(ENDS)))]
    for number, name in enumerate(names):
        make(tmp_path, name, 0, 80.0 + number / 10, 0.1, method="rwp")
    rows = comparison(tmp_path).rows
    styles = make_styles(rows)
    assert len(set(styles)) == len(rows) == 64
    assert styles == make_styles(rows)
    few = make_styles([row for row in rows if row.label in ENDS])
    assert few == [styles[i] for i, row in enumerate(rows) if row.label in ENDS]


def test_of_many_rows_the_best_are_drawn_and_the_baseline(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    every, against_sgd = comparison(folder), comparison(folder, baseline="sgd")
    assert drawn_parts(every) == [every] and not which_rows(every)
    assert "Drawn are" not in report(every)
    monkeypatch.setattr("rwp_dist.compare.plot.MOST_ROWS", 3)
    assert [[row.name for row in part.rows] for part in drawn_parts(every)] == [
        ["rwp", "m-rwp", "m-arwp"]
    ]
    assert [[row.name for row in part.rows] for part in drawn_parts(against_sgd)] == [
        ["sgd", "m-rwp", "m-arwp"]
    ]
    said = "3 of 6 rows: the baseline and the best (compare.md has all)"
    assert which_rows(against_sgd) == said
    assert f"Drawn are {said}." in report(against_sgd)


def test_of_many_test_sets_each_that_is_drawn_has_the_same_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(6):
        run = make(tmp_path, f"rwp {number}", 0, 80.0 + number, 0.1)
        configure(run, data_val_id=f"set {number // 2}")
    compared = comparison(tmp_path)
    for most, numbers in ((6, "012345"), (3, "135"), (2, "13")):
        monkeypatch.setattr("rwp_dist.compare.plot.MOST_ROWS", most)
        rows = [row for part in drawn_parts(compared) for row in part.rows]
        assert [row.label for row in rows] == [f"rwp {number}" for number in numbers]
    assert which_rows(compared) == "2 of 6 rows: the best of each test set (compare.md has all)"
    assert picture(compared).startswith(b"\x89PNG")


def test_a_name_is_no_formula(tmp_path: Path) -> None:
    make(tmp_path, "rwp $^ $", 0, 80.0, 0.1, model="$_$")
    assert picture(comparison(tmp_path, baseline="rwp $^ $")).startswith(b"\x89PNG")
