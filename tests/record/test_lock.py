"""One process trains in a run directory; the lock ends with it."""

import errno
import fcntl
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from support.mounts import small_disk

from rwp_dist.base.errors import ConfigError, RunDirError
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
    with pytest.raises(ConfigError) as caught, RunDir(tmp_path / "file" / "run").locked():
        pass
    assert caught.value.key == "run.dir"


@pytest.fixture(params=[errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK, errno.EINVAL])
def no_locks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk without flock, such as Lustre without ``-o flock``."""

    def lacking(file: object, operation: int) -> None:
        raise OSError(request.param, os.strerror(request.param))

    monkeypatch.setattr(fcntl, "flock", lacking)


@pytest.mark.usefixtures("no_locks")
def test_without_locks_a_living_process_of_this_machine_keeps_others_out(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    with run.locked():
        me = f"process {os.getpid()} on {socket.gethostname()}"
        assert run.holder() == me
        with pytest.raises(RunDirError) as caught, run.locked():
            pass
        assert me in caught.value.problem
        written = run.lock.read_text()
        assert run.holder() == me
    assert run.holder() is None
    run.lock.write_text(written.replace(written.splitlines()[1], "1"))  # its number, born again
    assert run.holder() is None
    with run.locked():
        pass


@pytest.mark.usefixtures("no_locks")
def test_without_locks_a_killed_process_keeps_nobody_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = RunDir(tmp_path)
    with run.locked():
        written = run.lock.read_text()
    killed = subprocess.Popen(["true"])
    run.lock.write_text(written.replace(str(os.getpid()), str(killed.pid)))
    killed.wait()
    assert run.holder() is None
    with run.locked():
        pass
    assert capsys.readouterr().err == ""


@pytest.mark.usefixtures("no_locks")
def test_without_locks_a_process_of_another_machine_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = RunDir(tmp_path)
    run.lock.write_text("process 7 on another\n123\n")
    assert run.holder() is None
    with run.locked():
        said = capsys.readouterr().err
    assert said == (
        f"run.dir: the disk of {run.lock} has no locks, so make sure that process 7 on another is "
        "gone.\n"
    )


def test_a_full_disk_is_an_error_that_may_pass(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "size=16k") as disk:
        with (disk / "fill").open("wb", buffering=0) as file, pytest.raises(OSError):
            while True:
                file.write(bytes(4096))
        with pytest.raises(RunDirError) as caught, RunDir(disk / "run").locked():
            pass
    assert "cannot be written to (No space left on device); free space" in str(caught.value)


def test_a_read_only_disk_is_a_wrong_place(tmp_path: Path) -> None:
    with (
        small_disk(tmp_path / "disk", "ro") as disk,
        pytest.raises(ConfigError) as caught,
        RunDir(disk / "run").locked(),
    ):
        pass
    assert "(Read-only file system); set run.dir to a place of yours." in str(caught.value)


def test_a_lock_that_is_no_file_is_named_and_not_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    os.mkfifo(path)
    with pytest.raises(ConfigError, match="is not a file; remove it"):
        RunDir(tmp_path).locked().__enter__()
