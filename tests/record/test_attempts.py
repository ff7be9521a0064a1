"""attempts.tsv."""

from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from rwp_dist.record.directory import RunDir


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
