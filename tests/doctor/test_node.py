"""``doctor --node`` on machines that are fit or sick, each a real process."""

import json
import os
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.examining import CONFIG, doctor, findings, program


def tools(folder: Path, *names: str) -> str:
    """A PATH with these programs alone."""
    folder.mkdir()
    for name in names:
        found = shutil.which(name)
        assert found is not None
        (folder / name).symlink_to(found)
    return str(folder)


def limit(which: int, value: int):
    return lambda: resource.setrlimit(which, (value, value))


def test_a_fit_node_is_named_in_one_line_within_ten_seconds(tmp_path: Path) -> None:
    begin = time.monotonic()
    done = doctor("--node", CONFIG, f"run.dir={tmp_path}", SLURMD_NODENAME="n17")
    assert time.monotonic() - begin < 10
    assert done.returncode == 0, done.stdout
    [line] = done.stdout.splitlines()
    assert line.startswith("n17: fit (") and line.endswith("no problems)")
    assert done.stderr == ""


def test_a_sick_node_is_named_with_cause_and_cure_in_every_line(tmp_path: Path) -> None:
    done = doctor("--node", PATH=tools(tmp_path / "bin", "ninja"), SLURMD_NODENAME="n17", CXX="c++")
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    assert all(line.startswith("n17: ") for line in lines)
    assert "n17: problem: compiler, C++ compiler: there is no c++" in lines[0]
    assert "apt install g++" in lines[0]
    assert lines[-1].startswith("n17: sick (") and lines[-1].endswith("1 problem)")


def test_torch_is_not_imported_for_a_node_without_gpus() -> None:
    code = (
        "import sys; from rwp_dist.doctor import examine; list(examine(None, quick=True));"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


# --- compiler ---


def test_a_compiler_without_ninja_is_a_problem(tmp_path: Path) -> None:
    path = tools(tmp_path / "bin", "c++", "as", "ld")
    found = findings(doctor("--node", "--json", PATH=path))
    assert found["C++ compiler"]["state"] == "ok", found["C++ compiler"]
    assert found["ninja"]["state"] == "problem" and "PATH" in found["ninja"]["seen"]


def test_a_compiler_that_lacks_pythons_headers_is_a_problem_that_names_them(tmp_path: Path) -> None:
    says = "echo 'x.cpp:1:10: fatal error: Python.h: No such file or directory' >&2; exit 1"
    program(tmp_path / "bin", "broken", says)
    found = findings(doctor("--node", "--json", CXX=str(tmp_path / "bin" / "broken")))
    compiler = found["C++ compiler"]
    assert compiler["state"] == "problem" and "Python.h" in compiler["seen"]
    assert "python3-dev" in compiler["cure"]


def test_a_build_folder_that_cannot_be_written_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    folder = f"{tmp_path}/file/extensions"
    found = findings(doctor("--node", "--json", TORCH_EXTENSIONS_DIR=folder))["build folder"]
    assert found["state"] == "problem" and folder in found["seen"]


# --- limits ---


def test_too_few_open_files_are_a_problem_that_says_how_many_are_needed() -> None:
    done = doctor("--node", "--json", CONFIG, before=limit(resource.RLIMIT_NOFILE, 128))
    found = findings(done)["open files"]
    assert done.returncode == 1 and found["state"] == "problem"
    assert found["figures"]["limit"] == 128 < found["figures"]["need"]
    assert "ulimit -n 4096" in found["cure"] and "administrator" in found["cure"]


def test_more_workers_need_more_open_files() -> None:
    tight = limit(resource.RLIMIT_NOFILE, 300)
    few = findings(doctor("--node", "--json", CONFIG, "data.workers=1", before=tight))
    many = findings(doctor("--node", "--json", CONFIG, "data.workers=20", before=tight))
    assert few["open files"]["state"] == "ok" and many["open files"]["state"] == "problem"


PROCESSES = """
import json, os, resource
from dataclasses import asdict
from rwp_dist.doctor import limits
from rwp_dist.doctor.case import Case
case = Case()
if os.geteuid() == 0:  # who is exempt from the limit
    os.setresuid(54321, 54321, 54321)
resource.setrlimit(resource.RLIMIT_NPROC, (20, 20))
[finding] = limits.processes(case)
print(json.dumps(asdict(finding)))
"""


def test_a_limit_of_processes_that_leaves_no_room_for_ranks_is_a_problem() -> None:
    command = [sys.executable, "-c", PROCESSES]
    found = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    assert found["state"] == "problem" and found["figures"]["room"] <= 20
    assert "ulimit -u" in found["cure"]


# --- disks ---


def test_a_run_directory_below_a_file_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = doctor("--node", "--json", CONFIG, f"run.dir={tmp_path}/file/run")
    found = findings(done)["run directory"]
    assert found["state"] == "problem" and "cannot be written to" in found["seen"]
    assert "run.dir" in found["cure"]
    assert done.returncode == 1


def mounted(folder: Path, *options: str) -> bool:
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", ",".join(options), "tmpfs", str(folder)]
    return os.geteuid() == 0 and subprocess.run(command, capture_output=True).returncode == 0


def test_a_read_only_and_a_full_disk_are_problems(tmp_path: Path) -> None:
    ways = {"ro": ("size=1m", "ro"), "tiny": ("size=1m",)}
    if not all(mounted(tmp_path / name, *options) for name, options in ways.items()):
        pytest.skip("only root may mount a small disk")
    try:
        read_only = findings(doctor("--node", "--json", CONFIG, f"run.dir={tmp_path}/ro/run"))
        tiny = findings(doctor("--node", "--json", CONFIG, f"run.dir={tmp_path}/tiny/run"))
    finally:
        for name in ways:
            subprocess.run(["umount", str(tmp_path / name)], check=True)
    assert read_only["run directory"]["state"] == "problem"
    assert "Read-only file system" in read_only["run directory"]["seen"]
    assert tiny["run directory"]["state"] == "ok"
    assert tiny["room for logs"]["state"] == "problem"
    assert tiny["room for logs"]["figures"]["free_bytes"] <= 1 << 20


# --- what is printed ---


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
