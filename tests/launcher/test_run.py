"""rwp-launch on this machine: real ranks, real signals."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rwp_dist.data.digits import write_digits

ROOT = Path(__file__).parents[2]
CONFIG = str(ROOT / "configs" / "digits.yaml")


def launch(*arguments: str, command: str = "launcher.cli") -> list[str]:
    code = f"from {command} import main; main()"
    return [sys.executable, "-c", code, *arguments]


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("digits")
    write_digits(folder)
    return [f"data.train={folder}/train", f"data.val={folder}/test"]


def processes_of(text: str) -> list[str]:
    lines = subprocess.run(["ps", "axww", "-o", "pid=,args="], capture_output=True, text=True)
    return [line for line in lines.stdout.splitlines() if text in line and "ps axww" not in line]


def test_ctrl_c_saves_says_so_last_and_leaves_no_process(tmp_path: Path, digits: list[str]) -> None:
    run = tmp_path / "run"
    process = subprocess.Popen(
        launch("run", CONFIG, "--nproc", "2", f"run.dir={run}", "schedule.steps=100000", *digits),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,  # as a terminal would, so that Ctrl-C reaches all of them
    )
    deadline = time.monotonic() + 120
    while not (run / "status.json").is_file() and time.monotonic() < deadline:
        time.sleep(0.2)
        assert process.poll() is None, process.communicate()[0]
    os.killpg(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 75
    assert output.strip().splitlines()[-1].startswith("Stopped after step ")
    assert "Traceback" not in output
    status = json.loads((run / "status.json").read_text())
    assert status["state"] == "interrupted"
    assert list((run / "checkpoints").glob(f"step-{status['step']:08d}.pt"))
    assert processes_of(str(run)) == []


def test_an_error_of_the_data_is_one_sentence_for_all_ranks(tmp_path: Path) -> None:
    done = subprocess.run(
        launch("run", CONFIG, "--nproc", "2", f"data.train={tmp_path}", f"run.dir={tmp_path}/run"),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 1
    lines = [line for line in done.stderr.splitlines() if line]
    assert lines == [
        f"{tmp_path}: there are no shards here; set data.train and data.val to where they are."
    ]


def test_a_wrong_batch_is_refused_before_ranks_start() -> None:
    begin = time.perf_counter()
    done = subprocess.run(
        launch("run", CONFIG, "--nproc", "3"), capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2
    assert "set it to 63 or 66" in done.stderr
    assert time.perf_counter() - begin < 3.0


def test_a_killed_rank_is_named(tmp_path: Path, digits: list[str]) -> None:
    run = tmp_path / "run"
    process = subprocess.Popen(
        launch("run", CONFIG, "--nproc", "2", f"run.dir={run}", "schedule.steps=100000", *digits),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 120
    while not (run / "status.json").is_file() and time.monotonic() < deadline:
        time.sleep(0.2)
    ranks = [int(line.split()[0]) for line in processes_of(str(run)) if "-m rwp_dist" in line]
    os.kill(max(ranks), signal.SIGKILL)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "was ended by SIGKILL (out of memory, perhaps)." in errors
    assert processes_of(str(run)) == []
