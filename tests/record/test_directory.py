import json
import os
import subprocess
import sys
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from rwp_dist.record.directory import RunDir, environment, git_state, write_text


def lines(*steps: int) -> str:
    return "".join(json.dumps({"kind": "train", "step": s}) + "\n" for s in steps)


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


def test_torn_last_line_is_left_out(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    run.metrics.write_bytes(lines(1, 2).encode() + b'{"kind": "eval", "ste\xc3')
    assert [r["step"] for r in run.read_metrics()] == [1, 2]
    assert run.read_metrics("eval") == []


@pytest.mark.parametrize(
    ("last_step", "kept"), [(20, [10, 20]), (5, []), (0, []), (99, [10, 20, 30])]
)
def test_cut_drops_what_comes_after_the_checkpoint(
    tmp_path: Path, last_step: int, kept: list[int]
) -> None:
    run = RunDir(tmp_path)
    run.metrics.write_text(lines(10, 20, 30) + '{"torn')
    assert run.cut_metrics(last_step) == 4 - len(kept)
    assert run.metrics.read_text() == lines(*kept)


def test_a_start_from_the_beginning_keeps_nothing(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    run.metrics.write_text(lines(0, 10))
    assert run.cut_metrics(0) == 2
    assert run.metrics.read_text() == ""


def test_cut_of_a_whole_file_does_not_touch_it(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    assert run.cut_metrics(3) == 0
    run.metrics.write_text(lines(1, 2))
    before = run.metrics.stat().st_ino
    assert run.cut_metrics(3) == 0
    assert run.metrics.stat().st_ino == before


def test_attempts_are_in_utc_below_one_header(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RWP_ATTEMPT", "17.1")
    monkeypatch.setenv("SLURM_JOB_NODELIST", "n[1-2]")
    run = RunDir(tmp_path)
    east = datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone(timedelta(hours=2)))
    run.append_attempt(east, "interrupted", 0, 40)
    run.append_attempt(east, "finished", 40, 100)
    assert run.attempts.read_text().splitlines() == [
        "started\tstate\tfirst_step\tlast_step\tjob\tnodes",
        "2026-01-02T01:04:05+00:00\tinterrupted\t0\t40\t17.1\tn[1-2]",
        "2026-01-02T01:04:05+00:00\tfinished\t40\t100\t17.1\tn[1-2]",
    ]
    with run.attempts.open("a") as file:
        file.write("2026-01-02T0")
    assert [row["last_step"] for row in run.read_attempts()] == ["40", "100"]


def test_wandb_id_is_drawn_once(tmp_path: Path) -> None:
    first = RunDir(tmp_path / "a").wandb_id()
    assert RunDir(tmp_path / "a").wandb_id() == first
    assert RunDir(tmp_path / "b").wandb_id() != first


def test_environment_is_json_and_names_versions() -> None:
    found = environment(world_size=4, gpus=["H200"], argv=["rwp-dist", "train"])
    assert json.loads(json.dumps(found)) == found
    assert found["world_size"] == 4
    assert found["gpus"] == ["H200"]
    assert found["argv"] == ["rwp-dist", "train"]
    assert found["packages"]["torch"].count(".") >= 1
    assert found["num_cpus"] == os.cpu_count()


def test_git_state_of_a_checkout_and_of_a_folder_within_one(tmp_path: Path) -> None:
    def git(*command: str) -> str:
        identity = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
        done = subprocess.run(
            ["git", "-C", str(tmp_path), *identity, *command],
            check=True, capture_output=True, text=True,
        )  # fmt: skip
        return done.stdout.strip()

    assert git_state(tmp_path) is None
    git("init", "-q")
    write_text(tmp_path / "site" / "file", "1")
    git("add", ".")
    git("commit", "-qm", "first")
    assert git_state(tmp_path) == {"commit": git("rev-parse", "HEAD"), "dirty": False}
    write_text(tmp_path / "site" / "file", "2")
    assert git_state(tmp_path) == {"commit": git("rev-parse", "HEAD"), "dirty": True}
    assert git_state(tmp_path / "site") is None


def test_imports_no_torch() -> None:
    code = (
        "import sys; from rwp_dist.record.directory import environment; environment(world_size=1);"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
