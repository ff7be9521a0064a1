"""Differences of rows, paired by seed."""

import json
from pathlib import Path

import pytest
from scipy import stats
from support.comparisons import configure, make

from rwp_dist.base.errors import ConfigError
from rwp_dist.compare import compare

SGD, OURS = [74.0, 75.5, 73.0, 76.0], [75.0, 76.0, 75.5, 76.5]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    runs = tmp_path / "runs"
    for seed, (sgd, ours) in enumerate(zip(SGD, OURS, strict=True)):
        make(runs, "sgd", seed, sgd, 0.01)
        make(runs, "m-rwp", seed, ours, 0.01)
    make(runs, "m-rwp", 9, 99.0, 0.01)  # sgd has no such seed
    make(runs, "sam", 0, 94.0, 0.01)
    return runs


def rows_of(out: Path) -> dict[str, dict[str, float]]:
    found = json.loads((out / "compare.json").read_text())["against"]
    assert found["baseline"] == "sgd"
    return {row["name"]: row for row in found["rows"]}


def test_differences_are_those_of_a_paired_t_test(folder: Path, tmp_path: Path) -> None:
    text = compare([folder], tmp_path, baseline="sgd")
    row = rows_of(tmp_path)["m-rwp"]
    test = stats.ttest_rel(OURS, SGD)
    interval = test.confidence_interval(0.95)
    assert row["n"] == 4
    assert row["mean"] == pytest.approx(1.125)
    assert row["p"] == pytest.approx(test.pvalue)
    assert (row["low"], row["high"]) == pytest.approx((interval.low, interval.high))
    below = text.partition("Test top-1 against sgd, paired by seed")[2]
    [line] = [line for line in below.splitlines() if line.startswith("m-rwp")]
    ends, p = f"{interval.low:+.2f} to {interval.high:+.2f}", f"{test.pvalue:.3f}"
    assert line.split() == ["m-rwp", "+1.12", *ends.split(), p, "4"]
    assert f"| m-rwp | +1.12 | {ends} | {p} | 4 |" in (tmp_path / "compare.md").read_text()


def test_one_common_seed_has_no_interval_and_none_has_no_difference(
    folder: Path, tmp_path: Path
) -> None:
    make(folder, "rwp", 7, 90.0, 0.01)
    compare([folder], tmp_path, baseline="sgd")
    rows = rows_of(tmp_path)
    assert (rows["sam"]["mean"], rows["sam"]["low"], rows["sam"]["n"]) == (20.0, None, 1)
    assert (rows["rwp"]["mean"], rows["rwp"]["n"]) == (None, 0)


def test_a_seed_that_a_row_has_twice_is_no_pair(folder: Path, tmp_path: Path) -> None:
    make(folder / "again", "sgd", 0, 80.0, 0.01)
    compare([folder], tmp_path, baseline="sgd")
    assert rows_of(tmp_path)["m-rwp"]["n"] == 3


def test_a_label_of_several_rows_is_no_baseline(folder: Path, tmp_path: Path) -> None:
    configure(make(folder, "sam", 1, 94.0, 0.01), "method.name=sam", "method.rho=0.7")
    with pytest.raises(ConfigError, match="2 rows are called sam") as refused:
        compare([folder], tmp_path, baseline="sam")
    assert '"sam, rho=0.7"' in str(refused.value.cure)


def test_a_row_that_is_not_there_is_refused_with_those_that_are(
    folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="no row is called SGD") as refused:
        compare([folder], tmp_path, baseline="SGD")
    assert refused.value.key == "--against"
    assert refused.value.cure == 'name one of "sgd", "sam", "m-rwp"'
