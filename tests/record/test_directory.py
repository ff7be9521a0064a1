"""A run directory: status, summary, identity."""

import json
import os
from pathlib import Path

import pytest

from rwp_dist.record.directory import RunDir, run_directories


def test_status_holds_what_was_given_and_leaves_no_temporary_file(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "a" / "run")
    assert run.read_status() is None
    run.write_status("running", 3, 10, message="so far", loss=float("nan"))
    status = run.read_status()
    assert status is not None
    assert (status["state"], status["step"], status["total_steps"]) == ("running", 3, 10)
    assert status["message"] == "so far"
    assert status["loss"] is None
    assert [p.name for p in run.path.iterdir()] == ["status.json"]


def test_a_failed_write_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = RunDir(tmp_path)
    run.write_summary({"top1": 1.0})

    def full(fd: int) -> None:
        raise OSError(28, "no space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space"):
        run.write_summary({"top1": 2.0})
    assert run.read_summary() == {"top1": 1.0}
    assert [p.name for p in tmp_path.iterdir()] == ["summary.json"]


def test_a_reader_keeps_the_old_file_whole(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    run.write_summary({"top1": 1.0})
    with run.summary.open() as reader:
        run.write_summary({"top1": 2.0, "more": "x" * 100})
        assert json.load(reader) == {"top1": 1.0}


def test_wandb_id_is_drawn_once(tmp_path: Path) -> None:
    first = RunDir(tmp_path / "a").wandb_id()
    assert RunDir(tmp_path / "a").wandb_id() == first
    assert RunDir(tmp_path / "b").wandb_id() != first


def test_run_directories_are_found_at_any_depth_and_not_within_each_other(tmp_path: Path) -> None:
    for name in ("b/run", "a", "b/run/checkpoints/odd"):
        RunDir(tmp_path / name).write_config("{}")
    assert list(run_directories(tmp_path)) == [tmp_path / "a", tmp_path / "b" / "run"]
    assert list(run_directories(tmp_path / "a")) == [tmp_path / "a"]


def test_the_newest_checkpoint_counts(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    assert not run.has_checkpoint() and run.saved_step() == 0
    run.create()
    for name in ("step-00000008.pt", "step-00000012.pt", "step-00000099.bad", "other.pt"):
        (run.checkpoints / name).touch()
    assert run.has_checkpoint() and run.saved_step() == 12
    assert run.newest_checkpoint() == run.checkpoints / "step-00000012.pt"


def test_numbers_of_all_measurements_are_read_together(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    assert run.read_numbers() == {}
    run.write_measurement("robustness", {"numbers": {"ece": 0.1}, "draws": 5})
    run.write_measurement("flatness", {"numbers": {"trace": 12.0}})
    assert run.read_numbers() == {"ece": 0.1, "trace": 12.0}
    assert run.read_measurement("robustness") == {"numbers": {"ece": 0.1}, "draws": 5}
    assert run.read_measurement("none") is None
