"""What rank 0 prints is in a log too, of each run its own, and the console stays as it is."""

import fcntl
import os
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest
from support.until import HANG_S
from tracking.test_lines import EVAL, TRAIN

from rwp_dist.tracking.lines import eval_line, train_line

BEGIN = """
import os, signal, sys
from pathlib import Path
from rwp_dist.process import rank, signals
rank.write_to_log()
run, other = Path("run"), Path("other")
"""
TORCHRUN = {"RANK": "0", "WORLD_SIZE": "1"}
ATTEMPT = Path("logs/attempt-1/rank-0.log")


def execute(code: str, place: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    known = {name: value for name, value in os.environ.items() if name != "RWP_LOGS"}
    return subprocess.run(
        [sys.executable, "-c", BEGIN + code],
        cwd=place,
        env=known | {"PYTHONPATH": os.pathsep.join(sys.path)} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=HANG_S,
    )


def test_a_log_begins_with_what_came_before_and_has_errors_and_tracebacks(tmp_path: Path) -> None:
    done = execute(
        "print('loading', flush=True)\n"
        "rank.begin_log(run)\n"
        "print('step', 1, flush=True)\n"
        "sys.stderr.writelines(['a warning\\n', 'é\\n'])\n"
        "1 / 0",
        tmp_path,
    )
    assert done.stdout.startswith("loading\nstep 1\na warning\né\nTraceback")
    assert "ZeroDivisionError" in done.stdout
    assert (tmp_path / "run" / ATTEMPT).read_text() == done.stdout


def test_each_run_of_a_sweep_has_its_own_part_and_its_launcher_all_of_it(tmp_path: Path) -> None:
    code = "print(1); rank.begin_log(run); print(2); rank.begin_log(other); print(3)"
    execute(code, tmp_path)
    assert (tmp_path / "run" / ATTEMPT).read_text() == "1\n2\n"
    assert (tmp_path / "other" / ATTEMPT).read_text() == "3\n"
    (tmp_path / "logs" / "attempt-1").mkdir(parents=True)
    execute(code, tmp_path, **TORCHRUN, RWP_LOGS="logs/attempt-1")
    assert (tmp_path / ATTEMPT).read_text() == "1\n2\n3\n"
    assert (tmp_path / "run/logs/attempt-2/rank-0.log").read_text() == "2\n"


def test_the_attempts_log_is_the_runs_if_it_is_there(tmp_path: Path) -> None:
    (tmp_path / "run" / "logs" / "attempt-1").mkdir(parents=True)
    code = "print(1); rank.begin_log(run); print(2)"
    execute(code, tmp_path, **TORCHRUN, RWP_LOGS=f"{tmp_path}/run/logs/attempt-1")
    assert (tmp_path / "run" / ATTEMPT).read_text() == "1\n2\n"
    assert len(list((tmp_path / "run" / "logs").iterdir())) == 1
    execute(code, tmp_path, RWP_LOGS=f"{tmp_path}/run/logs/attempt-1")  # not for this process
    assert (tmp_path / "run" / "logs" / "attempt-2" / "rank-0.log").read_text() == "1\n2\n"


@pytest.mark.parametrize(
    ("end", "last"),
    [
        ("os.kill(os.getpid(), 9)", "step 1\n"),
        (
            "signals.exit_on_signals(); os.kill(os.getpid(), 2)",
            "Stopped before it began; nothing was lost.\n",
        ),
    ],
)
def test_a_log_has_all_that_was_printed_before_a_kill_and_what_ctrl_c_says(
    end: str, last: str, tmp_path: Path
) -> None:
    execute(f"rank.begin_log(run); print('step 1', flush=True); {end}", tmp_path)
    assert (tmp_path / "run" / ATTEMPT).read_text().splitlines(keepends=True)[-1] == last


def test_a_place_that_cannot_be_written_to_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file")
    done = execute("rank.begin_log(run); print('on')", tmp_path)
    assert (done.returncode, done.stdout) == (0, "on\n")


TERMINAL = """
from rwp_dist.tracking.console import Console
from tracking.test_lines import EVAL, TRAIN
rank.begin_log(run)
console = Console(total_steps=12500, first_step=0, title="run")
console.log("train", TRAIN)
console.log("eval", EVAL)
console.advance(100)
console.close("finished")
"""


def test_a_terminal_stays_one_and_what_its_bar_shows_is_lines_in_the_log(tmp_path: Path) -> None:
    primary, secondary = os.openpty()
    fcntl.ioctl(secondary, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    known = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", BEGIN + TERMINAL]
    with os.fdopen(secondary, "wb") as terminal:
        subprocess.run(
            command,
            cwd=tmp_path,
            env=known,
            stdout=terminal,
            stderr=terminal,
            check=True,
            timeout=HANG_S,
        )
    assert b"run:   0% |" in os.read(primary, 4000)
    os.close(primary)
    log = (tmp_path / "run" / ATTEMPT).read_text()
    assert log == f"{train_line(TRAIN)}\n{eval_line(EVAL)}\n"
