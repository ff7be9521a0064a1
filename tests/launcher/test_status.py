"""What `rwp-launch status` reads of a run."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from launcher.cli import main
from launcher.status import collect, table
from rwp_dist.base import clock
from rwp_dist.record.directory import RunDir


@pytest.mark.parametrize("written", [float, clock.text])  # earlier versions wrote seconds
def test_the_time_left_counts_from_the_newest_record(written: Any, tmp_path: Path) -> None:
    run = RunDir(tmp_path / "run")
    run.write_status("running", 3, 10)
    known = {"kind": "train", "step": 4, "eta_s": 3600.0, "time": written(time.time() - 1800)}
    run.metrics.write_text(json.dumps(known) + "\n")
    with run.locked():
        line = table(collect([run.path])[0]).splitlines()[-1]
    assert "4 of 10" in line and ("30 min" in line or "29 min" in line), line


def test_an_attempt_that_was_killed_counts_before_the_next_one_tells_of_it(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "run")
    run.append_attempt(clock.text(1e9), "interrupted", 0, 3)
    run.write_begun(clock.now())
    run.write_status("running", 5, 10)
    (found,) = collect([run.path])[0]
    assert found.state == "lost" and table([found]).splitlines()[-1].split()[-2] == "2"
    with run.locked():  # while it still runs
        assert table(collect([run.path])[0]).splitlines()[-1].split()[-2] == "2"


def test_a_state_that_no_run_can_have_is_refused(tmp_path: Path) -> None:
    RunDir(tmp_path / "run").write_status("failed", 5, 10)
    listed = CliRunner().invoke(main, ["list", str(tmp_path), "--state=failed"])
    assert (listed.exit_code, listed.stdout) == (0, f"{tmp_path}/run\n")
    refused = CliRunner().invoke(main, ["list", str(tmp_path), "--state=foo"])
    assert refused.exit_code == 2 and "'foo' is not one of 'queued', 'starting'" in refused.output


def test_a_run_that_went_on_otherwise_than_it_began_is_marked(tmp_path: Path) -> None:
    for name, changed in (("same", []), ("other", ["torch: 2.14 before, 2.15 now"])):
        run = RunDir(tmp_path / name)
        run.create()
        run.write_status("finished", 4, 4)
        run.append_attempt("2026-01-02T01:04:05+00:00", "lost", 0, 2)
        run.append_attempt("2026-01-02T01:05:05+00:00", "finished", 2, 4, changed)
    lines = table(collect([tmp_path])[0]).splitlines()
    assert [" 2* " in line for line in lines if "finished" in line] == [True, False]
    assert lines[-1].startswith("* went on with other code, data or ranks")
