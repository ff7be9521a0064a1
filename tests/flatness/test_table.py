"""The table: ratios by seed, whose mean is the geometric one."""

import re
from pathlib import Path

import pytest
from support.comparisons import make

from rwp_dist.compare.rows import make_rows
from rwp_dist.compare.runs import collect
from rwp_dist.flatness.table import tables

KEY = "flatness.random_loss_increase"


def lines(folder: Path, increases: dict[str, list[float]]) -> list[str]:
    for label, values in increases.items():
        for seed, value in enumerate(values):
            run = make(folder, label, seed, 90.0, 0.01)
            run.write_measurement("flatness", {"numbers": {KEY: value}})
    return tables(make_rows(collect([folder])[0]))


def test_a_factor_that_all_seeds_share_has_no_interval_however_much_the_runs_differ(
    tmp_path: Path,
) -> None:
    text = lines(tmp_path, {"sgd": [0.001, 0.1, 10.0], "sam": [0.0005, 0.05, 5.0]})
    assert "× sgd, paired by seed: mean and 95 % interval" in text
    assert re.split(" {2,}", text[-1]) == ["sam", "0.50 (0.50–0.50)"]


def test_the_interval_is_that_of_the_logarithms(tmp_path: Path) -> None:
    text = lines(tmp_path, {"sgd": [1.0, 1.0], "rwp": [0.5, 2.0]})
    # ln 2 either side of 0: the standard error is ln 2, of two runs 12.706 times that.
    low, high = (2.0 ** (sign * 12.706) for sign in (-1, 1))
    found = re.search(r"rwp +1\.00 \((.*)–(.*)\)", text[-1])
    assert found is not None
    assert float(found[1]) == pytest.approx(low, abs=0.005)
    assert float(found[2]) == pytest.approx(high, rel=1e-3)


def test_a_number_that_is_not_positive_has_no_ratio(tmp_path: Path) -> None:
    text = lines(tmp_path, {"sgd": [0.1, 0.1], "rwp": [-0.1, 0.1]})
    assert re.split(" {2,}", text[-1]) == ["rwp", "—"]
