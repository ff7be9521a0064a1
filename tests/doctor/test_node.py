"""``doctor --node`` on machines that are fit or sick, each a real process."""

import errno
import fcntl
import os
import resource
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
from support.examining import CONFIG, doctor, findings, look, machine
from support.mounts import silent_disk, small_disk

from rwp_dist.base import disk
from rwp_dist.doctor import disks
from rwp_dist.doctor.finding import Finding


def limit(which: int, value: int):
    return lambda: resource.setrlimit(which, (value, value))


def test_a_fit_node_is_named_in_one_line_within_ten_seconds(tmp_path: Path) -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = doctor("--node", CONFIG, f"run.dir={tmp_path}", SLURMD_NODENAME="n17")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)  # the machine may be shared
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 10
    assert done.returncode == 0, done.stdout
    [line] = done.stdout.splitlines()
    assert line.startswith("n17: fit (") and line.endswith("no problems)")
    assert done.stderr == ""


def test_a_sick_node_is_named_with_cause_and_cure_in_every_line() -> None:
    few = limit(resource.RLIMIT_NOFILE, 80)
    done = doctor("--node", before=few, SLURMD_NODENAME="n17")
    assert done.returncode == 1
    sick, last = done.stdout.splitlines()
    assert sick.startswith("n17: problem: limits, open files: 80 may be open at once")
    assert "; raise it before starting: ulimit -n 4096" in sick and sick.endswith(".")
    assert last.startswith("n17: sick (") and last.endswith("1 problem)")


def test_torch_is_not_imported_for_a_node_without_gpus() -> None:
    code = (
        "import sys; from rwp_dist.doctor.examine import examine; list(examine(None, quick=True));"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_too_few_open_files_are_a_problem_that_says_how_many_are_needed() -> None:
    done = doctor("--node", "--json", CONFIG, before=limit(resource.RLIMIT_NOFILE, 80))
    found = findings(done)["open files"]
    assert done.returncode == 1 and found["state"] == "problem"
    assert found["figures"]["limit"] == 80 < found["figures"]["need"]
    assert "administrator" in found["cure"]


def test_more_workers_need_more_open_files() -> None:
    tight = limit(resource.RLIMIT_NOFILE, 150)
    few = findings(doctor("--node", "--json", CONFIG, "data.workers=1", before=tight))
    many = findings(doctor("--node", "--json", CONFIG, "data.workers=20", before=tight))
    assert few["open files"]["state"] == "ok" and many["open files"]["state"] == "problem"


def test_a_run_directory_below_a_file_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = doctor("--node", "--json", CONFIG, f"run.dir={tmp_path}/file/run")
    found = findings(done)["run directory"]
    assert found["state"] == "problem" and "cannot be written to" in found["seen"]
    assert "run.dir" in found["cure"]
    assert done.returncode == 1


def test_a_read_only_and_a_full_disk_are_problems(tmp_path: Path) -> None:
    with (
        small_disk(tmp_path / "ro", "size=1m", "ro"),
        small_disk(tmp_path / "tiny", "size=1m"),
    ):
        read_only = findings(doctor("--node", "--json", CONFIG, f"run.dir={tmp_path}/ro/run"))
        tiny = findings(doctor("--node", "--json", CONFIG, f"run.dir={tmp_path}/tiny/run"))
    assert read_only["run directory"]["state"] == "problem"
    assert "Read-only file system" in read_only["run directory"]["seen"]
    assert tiny["run directory"]["state"] == "ok"
    assert tiny["room for logs"]["state"] == "problem"
    assert tiny["room for logs"]["figures"]["free_bytes"] <= 1 << 20


def named(found: list[Finding]) -> dict[str, Finding]:
    return {finding.name: finding for finding in found}


def test_a_name_that_no_disk_takes_is_a_problem(tmp_path: Path) -> None:
    [found] = look(disks.run_directory, machine(f"run.dir={tmp_path / ('x' * 300)}"))
    assert found.state == "problem" and "File name too long" in found.seen


def test_a_disk_that_never_answers_is_a_problem_and_asked_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = partial(disk.unreachable, patience_s=0.2)
    monkeypatch.setattr(disks, "unreachable", asked)
    with silent_disk(tmp_path / "silent") as folder:
        [found] = look(disks.run_directory, machine(f"run.dir={folder}/run"))
    assert found.state == "problem" and "no answer within" in found.seen


def test_a_disk_without_locks_or_with_another_clock_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = machine(f"run.dir={tmp_path}/run")
    found = named(look(disks.run_directory, here))
    assert {f.state for f in found.values()} == {"ok"}

    def lacking(file: object, operation: int) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(fcntl, "flock", lacking)
    ahead = time.time() + 900
    monkeypatch.setattr(disks.time, "time", lambda: ahead)
    found = named(look(disks.run_directory, here))
    assert {name for name, f in found.items() if f.state != "ok"} == {"locks", "clock of the disk"}
    assert "-o flock" in found["locks"].cure
    assert "15 min behind" in found["clock of the disk"].seen
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_renames_nothing_is_a_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lacking(*names: object, **more: object) -> None:
        raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))

    monkeypatch.setattr(os, "replace", lacking)
    monkeypatch.setattr(os, "rename", lacking)
    found = named(look(disks.run_directory, machine(f"run.dir={tmp_path}/run")))
    assert found["run directory"].state == "problem"
    assert "Operation not supported" in found["run directory"].seen


def test_json_is_one_document_and_nothing_else_is_on_stdout() -> None:
    done = doctor("--node", "--json", SLURMD_NODENAME="n17")
    assert findings(done)["open files"]["node"] == "n17"
    assert done.stdout.startswith("{") and done.stdout.endswith("}\n")


def test_settings_that_are_wrong_end_it_with_code_2() -> None:
    done = doctor("--node", "--json", CONFIG, "method.sigma=-1")
    assert (done.returncode, done.stdout) == (2, "")
    assert "method.sigma" in done.stderr


def test_overrides_need_no_file(tmp_path: Path) -> None:
    done = doctor("--node", "--json", f"run.dir={tmp_path}/a=b")
    assert f"{tmp_path}/a=b" in findings(done)["run directory"]["seen"]
