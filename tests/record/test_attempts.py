"""attempts.tsv."""

import socket
from pathlib import Path

import pytest

from rwp_dist.record.directory import RunDir


def test_attempts_are_below_one_header(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RWP_ATTEMPT", "17.1")
    monkeypatch.setenv("SLURM_JOB_NODELIST", "n[1-2]")
    run = RunDir(tmp_path)
    started = "2026-01-02T01:04:05.678+00:00"
    run.append_attempt(started, "interrupted", 0, 40)
    run.append_attempt(started, "finished", 40, 100, ["torch: 2.14 before, 2.15 now"])
    assert run.attempts.read_text().splitlines() == [
        "started\tstate\tfirst_step\tlast_step\tjob\tnodes\tchanged",
        "2026-01-02T01:04:05.678+00:00\tinterrupted\t0\t40\t17.1\tn[1-2]\t-",
        "2026-01-02T01:04:05.678+00:00\tfinished\t40\t100\t17.1\tn[1-2]\ttorch: 2.14 before, 2.15 "
        "now",
    ]
    with run.attempts.open("a") as file:
        file.write("2026-01-02T0")
    assert [row["last_step"] for row in run.read_attempts()] == ["40", "100"]


def test_attempts_of_earlier_versions_are_read(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    run.attempts.write_text("started\tstate\tfirst_step\n1\tlost\t0\t4\t-\tn1\n")
    [attempt] = run.read_attempts()
    assert (attempt["nodes"], attempt["changed"]) == ("n1", "-")


def test_a_shell_of_several_nodes_trains_on_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RWP_ATTEMPT", raising=False)
    monkeypatch.setenv("SLURM_JOB_NODELIST", "n[1-2]")
    run = RunDir(tmp_path)
    run.append_attempt("2026-01-02T01:04:05.678+00:00", "finished", 0, 40)
    assert run.read_attempts()[0]["nodes"] == socket.gethostname()
