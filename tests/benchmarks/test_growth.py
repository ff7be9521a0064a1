"""What must not grow with data, shards, runs and records does not: exponents, not times.

CPU seconds count, the least of several tries, and what is below a floor counts as the floor: a busy
machine changes neither.
"""

import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.until import HANG_S

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from growing import making, opening, runs
from growing.data_sets import make_data_set
from growing.process import alone
from growing.row import Row, exponent

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "growth.py"
SAMPLES = (10_000, 128_000)


def least_s(function, *args, tries=5):
    times = []
    for _ in range(tries):
        before = time.process_time()
        function(*args)
        times.append(time.process_time() - before)
    return min(times)


def growth(costs, floor):
    """The exponent of costs by size; a cost is at least ``floor``."""
    return exponent(list(costs), [max(cost, floor) for cost in costs.values()])


@pytest.fixture(scope="module")
def data_sets(tmp_path_factory):
    """What a rank opens, by samples; each was opened once on this node."""
    folder = tmp_path_factory.mktemp("growth")
    sets = {n: opening.Opened(make_data_set(folder / str(n), n), folder / "cache") for n in SAMPLES}
    for what in sets.values():
        opening.open_rank(what)
    return sets


def test_opening_again_does_not_grow_with_the_data(data_sets):
    costs = {n: least_s(opening.open_rank, what) for n, what in data_sets.items()}
    assert growth(costs, floor=0.005) <= 0.2, costs


def test_going_on_in_mid_epoch_does_not_grow_with_the_data(data_sets):
    costs = {n: min(opening.resume_s(what) for _ in range(5)) for n, what in data_sets.items()}
    assert growth(costs, floor=0.02) <= 0.2, costs


def test_a_balanced_step_does_not_grow_with_the_data(data_sets):
    planned = {n: opening.planned(what) for n, what in data_sets.items()}
    assert growth({n: p.balanced_s for n, p in planned.items()}, floor=2e-4) <= 0.2, planned
    assert planned[SAMPLES[-1]].ratio <= 2, planned


def test_verifying_by_two_workers_grows_as_the_shards(tmp_path):
    small = make_data_set(tmp_path / "small", 8 * making.PER_SHARD, making.PER_SHARD)
    costs = {}
    for shards in (250, 1000):
        place = make_data_set(tmp_path / str(shards), shards * making.PER_SHARD, making.PER_SHARD)
        costs[shards] = min(alone(making.verify, small, place, 2).cpu_s for _ in range(2))
    assert growth(costs, floor=0.1) <= 1.2, costs


def test_comparing_grows_no_faster_than_the_runs(tmp_path):
    """Drawing takes most of it, for any number of runs; a square would show as 1 here."""
    costs = {}
    for num in (50, 200):
        folder = runs.make_runs(tmp_path / f"of-{num}", num)
        costs[num] = least_s(runs.compare, folder, tries=2)
    assert growth(costs, floor=0.5) <= 0.7, costs


def test_resuming_does_not_grow_with_the_metrics(tmp_path):
    costs = {}
    for num in (10_000, 128_000):
        small = runs.make_metrics(tmp_path / f"small-{num}", 2)
        tries = [runs.make_metrics(tmp_path / f"{num}-{turn}", num) for turn in range(3)]
        costs[num] = min(runs.resume_metrics(small.path, run.path, num).cpu_s for run in tries)
    assert growth(costs, floor=0.005) <= 0.2, costs


def test_the_exponent_is_the_power_of_the_size():
    assert exponent([1, 10, 100], [3, 30, 300]) == pytest.approx(1)
    assert exponent([1, 10, 100], [2, 200, 20_000]) == pytest.approx(2)
    assert exponent([1, 10, 100], [5, 5, 5]) == pytest.approx(0)


def test_a_row_says_which_goal_it_misses():
    assert str(Row("step", "s", {1: 0.1, 10: 0.1}, 0.2, 0.2)).endswith("met")
    assert str(Row("step", "s", {1: 0.1, 10: 0.3}, 0.2)).endswith("MISSED")
    assert str(Row("step", "s", {1: 0.01, 10: 0.1}, 0.2, 0.2)).endswith("MISSED")


SMALL = {
    "open": ("4000,8000", ["open, again", "unique memory", "balanced x natural, a step"]),
    "verify": ("10,20", ["shards verify, 1 worker", "2 workers x 1"]),
    "write": ("100,200", ["shards write x tar"]),
    "held": ("500,1000", ["held for a sample"]),
    "compare": ("2,4", ["compare"]),
    "metrics": ("100,200", ["resume, metrics"]),
    "start": ("1", ["modules imported"]),
}


@pytest.mark.parametrize("group", SMALL)
def test_the_script_prints_its_rows(group):
    sizes, rows = SMALL[group]
    done = subprocess.run(
        [sys.executable, SCRIPT, group, "--sizes", sizes],
        capture_output=True,
        text=True,
        timeout=HANG_S,
    )
    assert done.returncode in (0, 1) and "Traceback" not in done.stderr, done.stderr[-2000:]
    assert [row for row in rows if row not in done.stdout] == []
