"""One process trains in a run directory; the lock ends with it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from rwp_dist.base.errors import RunDirError
from rwp_dist.record.directory import RunDir


def test_a_second_process_is_refused_and_told_by_whom(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom rwp_dist.record.directory import RunDir\n"
        f"with RunDir({str(tmp_path)!r}).locked(): print('locked', flush=True); sys.stdin.read()"
    )
    run = RunDir(tmp_path)
    other = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert other.stdout and other.stdout.readline() == "locked\n"
    with pytest.raises(RunDirError) as caught, run.locked():
        pass
    assert caught.value.key == "run.dir"
    assert f"process {other.pid} on" in caught.value.problem
    assert str(run.holder()).startswith(f"process {other.pid} on")
    other.kill()
    other.communicate()
    assert run.holder() is None
    with run.locked():
        assert str(run.holder()).startswith(f"process {os.getpid()} on")
    assert run.holder() is None


def test_a_folder_that_cannot_be_made_is_an_error_about_run_dir(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RunDirError) as caught, RunDir(tmp_path / "file" / "run").locked():
        pass
    assert caught.value.key == "run.dir"
