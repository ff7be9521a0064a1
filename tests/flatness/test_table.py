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
    assert "× sgd, by seed: geometric mean and 95 % interval" in text
    assert re.split(" {2,}", text[-1]) == ["sam", "0.50 (0.50–0.50)"]


def test_the_interval_is_that_of_the_logarithms(tmp_path: Path) -> None:
    text = lines(tmp_path, {"sgd": [1.0, 1.0], "rwp": [0.5, 2.0]})
    # ln 2 either side of 0: the standard error is ln 2, of two runs 12.706 times that.
    low, high = (2.0 ** (sign * 12.706) for sign in (-1, 1))
    found = re.search(r"rwp +1\.00 \((.*)–(.*)\)", text[-1])
    assert found is not None
    assert float(found[1]) == pytest.approx(low, abs=0.005)
    assert float(found[2]) == pytest.approx(high, rel=1e-3)


@pytest.mark.parametrize("other", [[-0.1, 0.1], [0.0, 0.1], [float("nan"), 0.1], [-0.1, -0.1]])
def test_a_number_that_is_not_positive_leaves_no_ratio(tmp_path: Path, other: list[float]) -> None:
    for increases in ({"sgd": [0.1, 0.1], "rwp": other}, {"sgd": other, "rwp": [0.1, 0.1]}):
        text = lines(tmp_path, increases)
        assert re.split(" {2,}", text[-1]) == ["rwp", "—"]


def test_a_seed_without_a_number_leaves_no_ratio(tmp_path: Path) -> None:
    lines(tmp_path, {"sgd": [0.1, 0.1], "rwp": [0.1, 0.1]})
    run = make(tmp_path, "rwp", 1, 90.0, 0.01)
    run.write_measurement("flatness", {"numbers": {}})
    assert re.split(" {2,}", tables(make_rows(collect([tmp_path])[0]))[-1]) == ["rwp", "—"]


def test_seeds_that_only_one_row_has_are_left_out(tmp_path: Path) -> None:
    text = lines(tmp_path, {"sgd": [1.0, 1.0], "rwp": [0.5, 0.5, 9.0]})
    assert re.split(" {2,}", text[-1]) == ["rwp", "0.50 (0.50–0.50)"]


def test_a_seed_that_a_row_has_twice_is_no_pair(tmp_path: Path) -> None:
    lines(tmp_path / "twice", {"rwp": [9.0]})
    text = lines(tmp_path, {"sgd": [1.0, 1.0, 1.0], "rwp": [0.7, 0.5, 0.5]})
    assert re.split(" {2,}", text[-1]) == ["rwp", "0.50 (0.50–0.50)"]


def test_one_seed_has_no_interval_and_the_first_row_stands_in_for_sgd(tmp_path: Path) -> None:
    text = lines(tmp_path, {"sam": [0.1], "rwp": [0.3]})
    assert "× sam, by seed: geometric mean and 95 % interval" in text
    assert re.split(" {2,}", text[-1]) == ["rwp", "3.00"]
