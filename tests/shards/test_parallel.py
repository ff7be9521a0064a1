"""Processes that write shards, on machines that give them little."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.until import HANG_S

from rwp_dist.base.errors import DataError
from rwp_dist.shards.parallel import run_jobs

JOBS = """
from rwp_dist.shards.parallel import run_jobs
if __name__ == "__main__":
    print(*sorted(run_jobs(str, range(3), 2)))
"""


def test_a_long_tmpdir_is_no_obstacle(tmp_path: Path) -> None:
    folder = tmp_path / ("x" * 90)
    folder.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", JOBS],
        env=os.environ | {"TMPDIR": str(folder)},
        capture_output=True,
        text=True,
        timeout=HANG_S,
    )
    assert (done.stdout, done.stderr) == ("0 1 2\n", "")


def test_without_semaphores_the_error_has_a_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("multiprocessing.synchronize.SemLock.__init__", refuse)
    with pytest.raises(DataError, match=r"cannot be started \(No space.*--workers 1"):
        list(run_jobs(str, range(3), 2))
