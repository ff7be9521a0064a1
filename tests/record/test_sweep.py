"""The runs of a sweep and the folders that they would be trained in."""

import json
from pathlib import Path

import pytest

from rwp_dist.config import Settings, dump_settings, expand, with_absolute_paths
from rwp_dist.record.directory import RunDir
from rwp_dist.record.sweep import describe, other_runs

CONFIG = Path(__file__).parents[2] / "configs" / "digits.yaml"


def sweep(folder: Path, *overrides: str, seeds: int = 2) -> list[Settings]:
    grid = ["optimizer.lr=0.1,0.2", "method.sigma=0.3,0.4"]
    return expand(CONFIG, overrides, variants="sgd,rwp", grid=grid, seeds=seeds, folder=folder)


def begin(settings: Settings, finished: bool = False) -> RunDir:
    """A run of these settings, with a checkpoint."""
    run_dir = RunDir(str(settings.run.dir))
    run_dir.create()
    run_dir.write_config(dump_settings(settings))
    (run_dir.checkpoints / "step-00000003.pt").touch()
    if finished:
        run_dir.write_summary({})
    return run_dir


def submit(settings: Settings, cancelled: bool = False) -> RunDir:
    """A job of these settings that waits."""
    run_dir = RunDir(str(settings.run.dir))
    run_dir.path.mkdir(parents=True)
    run_dir.submitted.write_text(dump_settings(with_absolute_paths(settings)))
    run_dir.job.write_text(json.dumps({"cancelled": cancelled}))
    return run_dir


def test_the_same_sweep_goes_on(tmp_path: Path) -> None:
    runs = sweep(tmp_path, "data.mix={a: 1}")
    begin(runs[0], finished=True)
    begin(runs[1])
    submit(runs[2])
    assert other_runs(runs, 1) is None
    assert other_runs(sweep(tmp_path, "data.mix={a: 1}", seeds=3), 2) is None


@pytest.mark.parametrize("occupy", [begin, lambda run: begin(run, finished=True), submit])
def test_another_sweep_is_refused_with_what_differs(tmp_path: Path, occupy) -> None:
    first = sweep(tmp_path)
    for run in first[:5]:
        occupy(run)
    error = other_runs(sweep(tmp_path, "batch.global=32"), 1)
    assert error is not None
    assert (error.key, error.cure) == ("--dir", "name another folder, or remove these")
    for run in first[:3]:
        assert f"{run.run.dir} " in error.problem
    assert error.problem.count("batch.global: 64 there, 32 here") == 3
    assert error.problem.endswith("; and 2 more")


def test_a_job_that_was_cancelled_or_has_begun_in_vain_is_in_nobodys_way(tmp_path: Path) -> None:
    runs = sweep(tmp_path)
    submit(runs[0], cancelled=True)
    submit(runs[1]).write_status("failed", 0, 10)
    assert other_runs(sweep(tmp_path, "batch.global=32"), 1) is None


def test_a_table_shows_each_run_with_its_state_and_what_differs(tmp_path: Path) -> None:
    runs = sweep(tmp_path)
    begin(runs[0], finished=True)
    begin(runs[1])
    submit(runs[2])
    head, _, *rows, total = describe(runs)
    assert head.split() == [
        "run",
        "state",
        "run.seed",
        "method.name",
        "method.sigma",
        "optimizer.lr",
    ]
    assert [row.split() for row in rows[:4]] == [
        ["sgd-lr=0.1-s0", "finished", "0", "sgd", "—", "0.1"],
        ["sgd-lr=0.2-s0", "at", "step", "3", "0", "sgd", "—", "0.2"],
        ["rwp-lr=0.1-sigma=0.3-s0", "queued", "0", "rwp", "0.3", "0.1"],
        ["rwp-lr=0.1-sigma=0.4-s0", "new", "0", "rwp", "0.4", "0.1"],
    ]
    assert len(rows) == 12 and total == "12 runs"
