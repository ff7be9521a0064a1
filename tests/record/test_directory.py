"""A run directory: status, summary, identity."""

import errno
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from rwp_dist.base import clock
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


def test_what_is_written_says_when(tmp_path: Path) -> None:
    run, before = RunDir(tmp_path), time.time() - 0.001
    run.write_status("running", 3, 10)
    run.write_measurement("flatness", {"numbers": {"trace": 1.0}})
    for written in (run.read_status(), run.read_measurement("flatness")):
        assert written is not None and written["time"].endswith("+00:00")
        assert before <= clock.seconds(written["time"]) <= time.time()


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


def test_runs_behind_links_are_found_once_by_the_first_path(tmp_path: Path) -> None:
    for name in ("runs/b/real", "scratch/s1", "scratch/more/s2", "beside/s3"):
        RunDir(tmp_path / name).write_config("{}")
    top = tmp_path / "runs"
    links = {
        "a-run": tmp_path / "scratch" / "s1",
        "c-again": top / "b" / "real",  # found before, under its own name
        "d-folder": tmp_path / "scratch",  # one of its two runs is known
        "e-chain": top / "f-chain",
        "f-chain": tmp_path / "beside",
        "b/here": top / "b",
        "b/up": top,
        "b/out": tmp_path,  # around all that was asked for
        "g-me": top / "g-me",
        "h-lost": tmp_path / "gone",
        "i-file": tmp_path / "scratch" / "s1" / "config.yaml",
    }
    for name, target in links.items():
        (top / name).symlink_to(target)
    left_out: dict[Path, str] = {}
    found = [str(run.relative_to(top)) for run in run_directories(top, left_out)]
    assert found == ["a-run", "b/real", "d-folder/more/s2", "e-chain/s3"]
    assert {path.name: why for path, why in left_out.items()} == {
        "g-me": "Too many levels of symbolic links",
        "h-lost": "a link to nothing",
    }
    (tmp_path / "top").symlink_to(top)
    assert len(list(run_directories(tmp_path / "top"))) == 4


@pytest.mark.parametrize("call", ["scandir", "stat"])
def test_a_folder_that_cannot_be_read_is_told_and_keeps_no_other_from_being_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    for name in ("a/secret/run", "b/run"):
        RunDir(tmp_path / name).write_config("{}")
    real = getattr(os, call)

    def refuse(path: Path | str, **more: Any) -> Any:
        if Path(path).name == "secret":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return real(path, **more)

    monkeypatch.setattr(os, call, refuse)  # tests may run as root, who may read all
    left_out: dict[Path, str] = {}
    assert list(run_directories(tmp_path, left_out)) == [tmp_path / "b" / "run"]
    assert left_out == {tmp_path / "a" / "secret": "Permission denied"}
    assert not list(run_directories(tmp_path / "no" / "such" / "folder"))


def test_the_newest_checkpoint_counts(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    assert not run.has_checkpoint() and run.saved_step() == 0
    run.create()
    for name in ("step-00000008.pt", "step-00000012.pt", "step-00000099.bad", "other.pt"):
        (run.checkpoints / name).touch()
    assert run.has_checkpoint() and run.saved_step() == 12
    assert run.newest_checkpoint() == run.checkpoints / "step-00000012.pt"


@pytest.mark.parametrize("junk", ["[" * 200_000, "[1]", '{"numbers": [1]}', "9" * 5000, "\xff"])
def test_what_is_no_report_counts_as_none(tmp_path: Path, junk: str) -> None:
    run = RunDir(tmp_path)
    run.write_measurement("flatness", {"numbers": {"trace": 12.0}})
    (run.measured / "other.json").write_bytes(junk.encode("latin-1"))
    run.status.write_bytes(junk.encode("latin-1"))
    assert {"trace": 12.0} in [found.get("numbers") for found in run.read_measurements()]
    assert run.read_status() in (None, {"numbers": [1]})
    run.status.unlink()
    os.mkfifo(run.status)
    assert run.read_status() is None


def test_all_measurements_are_read(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    assert run.read_measurements() == []
    run.write_measurement("robustness", {"numbers": {"ece": 0.1}, "draws": 5})
    run.write_measurement("flatness", {"numbers": {"trace": 12.0}})
    found = [content["numbers"] for content in run.read_measurements()]
    assert found == [{"trace": 12.0}, {"ece": 0.1}]
    assert (run.read_measurement("robustness") or {})["draws"] == 5
    assert run.read_measurement("none") is None


@pytest.mark.parametrize("file", ["identity.json", "attempts.tsv", "checkpoints/step-00000004.pt"])
def test_a_run_of_which_a_copy_has_only_some_files_is_one(tmp_path: Path, file: str) -> None:
    path = tmp_path / "run" / file
    path.parent.mkdir(parents=True)
    path.touch()
    assert list(run_directories(tmp_path)) == [tmp_path / "run"]


def test_a_folder_with_a_lock_alone_is_removed_and_any_other_stays(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "run")
    with run.locked():
        pass
    run.remove_if_empty()
    assert not run.path.exists()
    run.create()
    run.remove_if_empty()
    assert run.checkpoints.is_dir()
