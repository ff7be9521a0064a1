"""The picture: bands are where the numbers are."""

import math
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from support.comparisons import make

from rwp_dist.compare.rows import make_rows
from rwp_dist.compare.runs import collect
from rwp_dist.flatness import plot
from rwp_dist.flatness.measured import Curve, Measured


def test_a_band_is_the_deviation_of_the_logarithms_over_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures: list[Figure] = []
    monkeypatch.setattr(plot, "_png", lambda figure, metadata: figures.append(figure))
    measured = {}
    for seed, rise in enumerate((1.0, math.e**2)):
        curve = Curve((0.0, 0.1), np.array([[1.0, 1.0 + rise]]), np.array([[90.0, 80.0]]))
        measured[make(tmp_path, "sgd", seed, 90.0, 0.01).path] = Measured(4, curve, curve, {})
    plot.picture(make_rows(collect([tmp_path])[0]), measured, {})
    axes = figures[0].axes[0]
    assert axes.lines[0].get_ydata() == pytest.approx([math.e])
    ends = np.asarray(axes.collections[0].get_paths()[0].vertices)[:, 1]
    assert (ends.min(), ends.max()) == pytest.approx((math.exp(1 - 2**0.5), math.exp(1 + 2**0.5)))


def test_a_name_is_no_formula_and_no_legend_skips_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures: list[Figure] = []
    real = plot._png
    monkeypatch.setattr(
        plot, "_png", lambda figure, metadata: (figures.append(figure), real(figure, metadata))[1]
    )
    run = make(tmp_path, "rwp", 0, 90.0, 0.01)
    run.write_summary((run.read_summary() or {}) | {"label": "_lr_$x^ $y"})
    curve = Curve((0.0, 0.1), np.array([[1.0, 2.0]]), np.array([[90.0, 80.0]]))
    rows = make_rows(collect([tmp_path])[0])
    assert plot.picture(rows, {run.path: Measured(4, curve, curve, {})}, {}).startswith(b"\x89PNG")
    [legend] = figures[0].legends
    assert [text.get_text() for text in legend.get_texts()] == [r" _lr_\$x^ \$y"]
