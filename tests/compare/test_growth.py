"""A comparison of many runs takes as much longer as there are more of them, and no more."""

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from support.comparisons import SOFTWARE, id_of

from rwp_dist.compare.columns import check_columns
from rwp_dist.compare.comparison import Comparison
from rwp_dist.compare.curves import AXES
from rwp_dist.compare.marks import marked
from rwp_dist.compare.notes import make_notes
from rwp_dist.compare.pairs import against
from rwp_dist.compare.plot import MOST_ROWS, boxes_in, drawn_parts, make_styles, which_rows
from rwp_dist.compare.report import commands, environments, runs_table, settings_table
from rwp_dist.compare.rows import Row, make_rows
from rwp_dist.compare.runs import Run
from rwp_dist.config import Settings
from rwp_dist.record.identity import settings_identity

METHODS = ("sgd", "sam", "rwp", "m-rwp")
IDENTITY = settings_identity(Settings(), 2) | SOFTWARE
FEW, MANY = 60, 480


def run(number: int, label: str, method: str, seed: int, **other: Any) -> Run:
    """A run of data of its own, unless ``other`` says which; its keys have ``__`` for dots."""
    more = {"run.label": label, "method.name": method, "run.seed": seed}
    more |= {"data.train.id": id_of("train"), "data.val.id": id_of("val")}
    identity = IDENTITY | more | {key.replace("__", "."): value for key, value in other.items()}
    summary = {
        "label": label, "method": method, "seed": seed, "session": "one", "model": "small_cnn",
        "world_size": 2, "device": "cpu", "steps": 100, "samples": 6400, "identity": identity,
        "device_seconds": 2.0 + number % 7, "top1": 90 + number % 89 / 10, "num_parameters": 5,
    }  # fmt: skip
    evaluations = {step: {"step": step, "top1": summary["top1"] - 50 / step} for step in (50, 100)}
    environment = {"argv": ["rwp-dist", "train", f"{number}.yaml"], "num_cpus": number}
    path = Path(f"runs/{number}")
    return Run(path, summary, evaluations, {"ece": 1.0}, False, identity, environment)


CASES = {
    "labels": lambda i: run(i, f"label {i}", "m-rwp", 0, method__sigma=0.001 * i),
    "values of sigma": lambda i: run(i, "m-rwp", "m-rwp", 0, method__sigma=0.001 * i),
    "seeds of methods": lambda i: run(i, METHODS[i % 4], METHODS[i % 4], i // 4),
    "methods against a baseline": lambda i: run(i, "sgd" if i % 2 else f"{i}", "sgd", i // 2),
    "seeds that come again": lambda i: run(i, "m-rwp", "m-rwp", i % 7, run__seed=i % 7),
    "test sets": lambda i: run(i, "m-rwp", "m-rwp", 0, data__val__id=id_of(str(i))),
    "training sets": lambda i: run(i, "m-rwp", "m-rwp", 0, data__train__id=id_of(str(i))),
    "versions": lambda i: run(i, METHODS[i % 4], METHODS[i % 4], i // 4, torch=f"2.{i}"),
}


def compared_s(runs: Sequence[Run], baseline: str | None) -> float:
    """CPU seconds of all but the pictures."""
    begin = time.process_time()
    rows, marks = marked(make_rows(runs))
    check_columns(rows, ["ece"])
    differences = against(rows, baseline) if baseline else None
    notes = make_notes(rows, {}, (), ["ece"], AXES["device"], marks, differences)
    comparison = Comparison(rows, notes, {}, AXES["device"], ["ece"], differences, marks)
    texts = (comparison.text, comparison.markdown, comparison.latex, comparison.csv)
    assert all(text() for text in texts) and comparison.as_dict()
    assert len(make_styles(rows)) == len(rows) and not boxes_in(comparison)
    assert drawn_parts(comparison) and bool(which_rows(comparison)) == (len(rows) > MOST_ROWS)
    assert settings_table(rows) and runs_table(rows) and environments(runs) and commands(runs)
    return time.process_time() - begin


@pytest.mark.parametrize("case", CASES)
def test_time_grows_as_the_number_of_runs(case: str) -> None:
    baseline = "sgd" if "baseline" in case else None
    few, many = ([CASES[case](i) for i in range(number)] for number in (FEW, MANY))
    assert_linear(lambda runs: compared_s(runs, baseline), few, many)


def test_time_of_differences_grows_as_the_number_of_seeds() -> None:
    def differences_s(rows: Sequence[Row]) -> float:
        begin = time.process_time()
        assert against(rows, "sgd").rows[0].points
        return time.process_time() - begin

    few, many = (
        [
            Row(label, label, {}, tuple(run(i, label, label, i) for i in range(n)), (), "test set")
            for label in ("sgd", "sam")
        ]
        for n in (10 * FEW, 10 * MANY)
    )
    assert_linear(differences_s, few, many)


def assert_linear(seconds_of: Callable[[Any], float], few: Any, many: Any) -> None:
    """``many`` has ``MANY / FEW`` times as much as ``few``."""
    # The least of several is what another program has not disturbed.
    times = [(seconds_of(few), seconds_of(many)) for _ in range(3)]
    least = [min(seconds) for seconds in zip(*times, strict=True)]
    assert math.log(least[1] / least[0]) / math.log(MANY / FEW) < 1.3, times
