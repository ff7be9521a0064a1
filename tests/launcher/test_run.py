"""rwp-launch on this machine: real ranks, real signals."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from support.gate import Gate
from support.receiver import TOKEN, Receiver
from support.until import HANG_S, until, until_line

from rwp_dist.shards.digits import write_digits

STAGES = re.compile(r"^[\w ]+ \.\.\.\n", re.M)
"""Lines of a start, which say what it is doing."""
ROOT = Path(__file__).parents[2]
CONFIG = str(ROOT / "configs" / "digits.yaml")


DATA: list[str] = []
"""Settings that say where the digits are."""


def launch(*arguments: str) -> list[str]:
    """A command of ``rwp-launch``; one that trains has the digits."""
    words = list(arguments)
    after = words.index(CONFIG) + 1 if CONFIG in words else 0
    words[after:after] = DATA if after else []
    return [sys.executable, "-m", "launcher", *words]


@pytest.fixture(scope="module", autouse=True)
def digits(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    folder = tmp_path_factory.mktemp("digits")
    write_digits(folder)
    DATA[:] = [f"data.train={folder}/train", f"data.val={folder}/test"]
    yield DATA
    DATA.clear()


def processes_of(text: str) -> list[str]:
    lines = subprocess.run(["ps", "axww", "-o", "pid=,args="], capture_output=True, text=True)
    return [line for line in lines.stdout.splitlines() if text in line and "ps axww" not in line]


def agent_of(process: subprocess.Popen) -> psutil.Process:
    """torchrun, which ``rwp-launch`` has started."""
    (agent,) = psutil.Process(process.pid).children()
    return agent


def ranks_of(process: subprocess.Popen) -> list[psutil.Process]:
    """Without helpers of the agent, such as Python's resource tracker."""
    children = agent_of(process).children()
    return [child for child in children if "rwp_dist" in child.cmdline()]


@pytest.fixture
def training(tmp_path: Path, digits: list[str]) -> Iterator[subprocess.Popen]:
    """Two ranks that train without end in ``tmp_path / "run"``."""
    run = tmp_path / "run"
    process = subprocess.Popen(
        launch("run", CONFIG, "--nproc", "2", f"run.dir={run}", "schedule.steps=100000", *digits),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,  # as a terminal would, so that Ctrl-C reaches all of them
    )
    until_line(process, "step ")
    yield process
    process.kill()
    process.communicate()


def log_of(run: Path) -> str:
    """What `rwp-launch logs` prints."""
    done = subprocess.run(launch("logs", str(run)), capture_output=True, text=True, timeout=HANG_S)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_ctrl_c_saves_says_so_last_and_leaves_no_process(
    training: subprocess.Popen, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    follow = subprocess.Popen(
        launch("logs", "-f", str(run)), stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    until_line(follow, "step ")
    os.killpg(training.pid, signal.SIGINT)
    output, _ = training.communicate(timeout=HANG_S)
    assert training.returncode == 75
    assert output.strip().splitlines()[-1].startswith("Stopped after step ")
    followed, _ = follow.communicate(timeout=HANG_S)
    assert log_of(run).endswith(output) and log_of(run).endswith(followed)
    assert followed.endswith(output.splitlines()[-1] + "\n")
    assert "Traceback" not in output
    status = json.loads((run / "status.json").read_text())
    assert status["state"] == "interrupted"
    assert list((run / "checkpoints").glob(f"step-{status['step']:08d}.pt"))
    assert processes_of(str(run)) == []


def ignores_hang_ups(process: psutil.Process) -> bool:
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    (mask,) = (line.split()[1] for line in lines if line.startswith("SigIgn:"))
    return bool(int(mask, 16) & 1 << (signal.SIGHUP - 1))


def test_a_run_under_nohup_outlives_its_terminal_and_its_reader(
    tmp_path: Path, digits: list[str]
) -> None:
    run = tmp_path / "run"
    words = ("run", CONFIG, "--nproc", "2", f"run.dir={run}", "schedule.steps=100000")
    process = subprocess.Popen(
        ["nohup", *launch(*words, "data.workers=1", *digits)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        until_line(process, "step ")
        assert process.stdout is not None
        process.stdout.close()  # the reader is gone
        tree = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        # Python's helper of shared memory ends with the others.
        mine = [one for one in tree if "resource_tracker" not in " ".join(one.cmdline())]
        assert len(mine) >= 6  # with torchrun, two ranks and two workers
        assert all(map(ignores_hang_ups, mine)), [one.cmdline() for one in mine]
        for one in mine:
            one.send_signal(signal.SIGHUP)
        log = run / "logs" / "attempt-1" / "rank-0.log"
        before = len(log.read_text())
        until(lambda: len(log.read_text()) > before + 1000, "further steps")
        os.kill(process.pid, signal.SIGINT)
        assert process.wait(timeout=HANG_S) == 75
        assert log.read_text().splitlines()[-1].startswith("Stopped after step ")
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("program", ["rwp-launch", "rwp-dist"])
def test_a_terminal_that_is_closed_leaves_a_checkpoint(
    program: str, tmp_path: Path, digits: list[str]
) -> None:
    run = tmp_path / "run"
    words = [CONFIG, f"run.dir={run}", "schedule.steps=100000", *digits]
    command = launch("run", *words)
    if program == "rwp-dist":
        command = [sys.executable, "-m", "rwp_dist", "train", *words]
    primary, secondary = os.openpty()
    process = subprocess.Popen(
        # The terminal is that of the session, so that its end is a signal.
        ["setsid", "--ctty", "--wait", *command],
        stdin=secondary,
        stdout=secondary,
        stderr=secondary,
        start_new_session=True,
        env=os.environ | {"TERM": "xterm"},
    )
    os.close(secondary)
    shown = b""
    try:
        while b"loss" not in shown:
            shown += os.read(primary, 4096)
        os.close(primary)
        process.wait(timeout=HANG_S)
        status = json.loads((run / "status.json").read_text())
        assert status["state"] == "interrupted"
        assert list((run / "checkpoints").glob(f"step-{status['step']:08d}.pt"))
        until(lambda: not processes_of(str(run)), "the end of all processes")
    finally:
        for line in processes_of(str(run)):  # they are no children of this one
            with suppress(ProcessLookupError):
                os.kill(int(line.split()[0]), signal.SIGKILL)
        process.wait()


def test_an_error_of_the_data_is_said_before_ranks_start(tmp_path: Path) -> None:
    done = subprocess.run(
        launch("run", CONFIG, "--nproc", "2", f"data.train={tmp_path}", f"run.dir={tmp_path}/run"),
        capture_output=True,
        text=True,
        timeout=HANG_S,
    )
    assert (done.returncode, done.stdout) == (2, "")
    lines = [line for line in done.stderr.splitlines() if line]
    assert lines == [
        f"{CONFIG}: 1 error",
        f"  - data.train: {tmp_path}: there are no shards here; write them with `rwp-dist shards "
        f"write IMAGES --out {tmp_path}`, or set data.train to where they are.",
    ]


def test_a_wrong_batch_is_refused_before_ranks_start(tmp_path: Path) -> None:
    gate = Gate(tmp_path / "gate", "torch")  # torchrun and ranks would wait here
    done = subprocess.run(
        launch("run", CONFIG, "--nproc", "3"),
        env=gate.environment,
        capture_output=True,
        text=True,
        timeout=HANG_S,
    )
    assert done.returncode == 2
    assert "set batch.global to 63 or 66" in done.stderr
    assert gate.arrived() == 0


def test_a_killed_rank_is_named(training: subprocess.Popen, tmp_path: Path) -> None:
    ranks = ranks_of(training)
    assert len(ranks) == 2
    ranks[1].kill()
    output, _ = training.communicate(timeout=HANG_S)
    assert training.returncode == 1
    assert "was ended by SIGKILL (out of memory, perhaps)." in output
    assert log_of(tmp_path / "run").endswith(output)
    assert processes_of(str(tmp_path / "run")) == []


@pytest.mark.parametrize("who", ["rwp-launch", "torchrun"])
def test_ranks_end_with_what_has_started_them(
    who: str, training: subprocess.Popen, tmp_path: Path
) -> None:
    agent = agent_of(training)
    assert len(ranks_of(training)) == 2
    if who == "torchrun":
        agent.kill()
        output, _ = training.communicate(timeout=HANG_S)
        assert training.returncode == 1 and "an agent or its node is gone" in output
    else:
        training.kill()
    until(lambda: not processes_of(str(tmp_path / "run")), "the ranks' end")


# --- Ctrl-C at any time ---


@pytest.mark.parametrize(
    ("place", "in_ranks"),
    [("click", False), ("torch", False), ("click", True), ("torch", True), ("deepspeed", True)],
    ids=["rwp-launch", "torchrun", "ranks", "ranks at torch", "ranks at deepspeed"],
)
def test_ctrl_c_while_ranks_start_is_one_line(place: str, in_ranks: bool, tmp_path: Path) -> None:
    run = tmp_path / "run"
    gate = Gate(tmp_path / "gate", place, ranks_only=in_ranks)
    process = subprocess.Popen(
        launch("run", CONFIG, "--nproc", "2", f"run.dir={run}", "deepspeed.zero_stage=1"),
        env=gate.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    gate.wait(2 if in_ranks else 1)
    os.killpg(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=HANG_S)
    assert processes_of(str(run)) == []
    assert process.returncode == 130
    assert STAGES.sub("", output) == "Stopped before the first step; nothing was lost.\n"


def is_pending(pid: int, number: signal.Signals) -> bool:
    """Whether a process has this signal and blocks it (Linux)."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    (mask,) = (line.split()[1] for line in lines if line.startswith("ShdPnd:"))
    return bool(int(mask, 16) & 1 << (number - 1))


def test_ctrl_c_waits_for_ranks_that_have_no_handler_yet(tmp_path: Path) -> None:
    run = tmp_path / "run"
    gate = Gate(tmp_path / "gate", "rwp_dist.process", ranks_only=True)
    process = subprocess.Popen(
        launch("run", CONFIG, "--nproc", "2", f"run.dir={run}"),
        env=gate.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    gate.wait(2)
    ranks = [rank.pid for rank in ranks_of(process)]
    os.killpg(process.pid, signal.SIGINT)
    until(lambda: all(is_pending(pid, signal.SIGINT) for pid in ranks), "Ctrl-C at the ranks")
    gate.open()
    output, _ = process.communicate(timeout=HANG_S)
    assert process.returncode == 130
    assert STAGES.sub("", output) == "Stopped before the first step; nothing was lost.\n"


def write_package(folder: Path, body: str) -> dict[str, str]:
    """An environment in which ranks find this instead of ``rwp_dist.__main__``."""
    (folder / "sitecustomize.py").write_text(
        "import os, sys\n"
        "if 'RANK' in os.environ:\n" + "".join(f"    {line}\n" for line in body.splitlines())
    )
    return os.environ | {"PYTHONPATH": f"{folder}:{ROOT}"}


RANK = """
import os, pathlib, signal, sys, time
def wait_for_word(rank):  # until it has said how it ends; nothing else tells another rank
    attempt = pathlib.Path(os.environ["TORCHELASTIC_ERROR_FILE"]).parents[1]
    while not any(attempt.glob(f"{rank}/error.json")):
        time.sleep(0.01)
"""
"""What the ranks' code below may use."""


def agent(code: str, tmp_path: Path, *options: str) -> subprocess.Popen:
    """Two ranks under the agent; ``rwp_dist.sweep.run_all`` is replaced by ``code``."""
    body = (
        "import types\n"
        "fake = types.ModuleType('rwp_dist.sweep')\n"
        f"exec({RANK + code!r}, fake.__dict__)\n"
        "sys.modules['rwp_dist.sweep'] = fake"
    )
    return subprocess.Popen(
        launch("run", CONFIG, "--nproc", "2", *options, f"run.dir={tmp_path}/run"),
        env=write_package(tmp_path, body),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def both_say(line: str, process: subprocess.Popen, tmp_path: Path) -> None:
    """Wait for the line of rank 0 on the console and of rank 1 in its log."""
    assert process.stderr is not None and process.stderr.readline() == line
    log = tmp_path / "run" / "logs" / "attempt-1" / "rank-1.log"
    until(lambda: log.read_text() == line, "rank 1's line")


DEAF = """
def run_all(runs, session):
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    print("deaf", file=sys.stderr, flush=True)
    time.sleep(3600)
"""


def test_a_second_ctrl_c_ends_ranks_that_do_not_stop(tmp_path: Path) -> None:
    process = agent(DEAF, tmp_path)
    both_say("deaf\n", process, tmp_path)
    os.killpg(process.pid, signal.SIGINT)
    assert process.stderr is not None and "Ctrl-C again" in process.stderr.readline()
    assert process.poll() is None
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=HANG_S)
    assert process.returncode == 130
    assert errors.startswith("Stopped at once, ") and errors.count("\n") == 1
    assert processes_of(f"{tmp_path}/run") == []


ONE_STOPS_ONE_MISSES_IT = """
def run_all(runs, session):
    if os.environ["RANK"] == "1":
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT, signal.SIGTERM])
    print("here", file=sys.stderr, flush=True)
    if os.environ["RANK"] == "0":
        signal.pause()
    signal.sigwait([signal.SIGINT])
    wait_for_word(0)
    THEN
"""


@pytest.mark.parametrize(
    "then",
    ["raise RuntimeError('Connection closed by peer')", "time.sleep(3600)"],
    ids=["fails", "hangs"],
)
def test_ranks_that_wait_for_a_stopped_one_end_with_it(then: str, tmp_path: Path) -> None:
    process = agent(ONE_STOPS_ONE_MISSES_IT.replace("THEN", then), tmp_path)
    both_say("here\n", process, tmp_path)
    begin = time.perf_counter()
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=HANG_S)
    assert process.returncode == 130
    assert errors == "Stopped before the first step; nothing was lost.\n"
    assert time.perf_counter() - begin < 28  # torchrun would give them 30 s
    assert processes_of(f"{tmp_path}/run") == []


FAILING = """
def run_all(runs, session):
    if os.environ["RANK"] == "1":
        raise ZeroDivisionError("of weights")
    wait_for_word(1)
    raise RuntimeError("Connection closed by peer [127.0.0.1]:1234")
"""


def test_a_rank_that_failed_with_a_traceback_is_named_last(tmp_path: Path) -> None:
    process = agent(FAILING, tmp_path)
    _, errors = process.communicate(timeout=HANG_S)
    assert process.returncode == 1
    assert "rank 1: Traceback" in errors
    log = tmp_path / "run" / "logs" / "attempt-1" / "rank-1.log"
    assert errors.splitlines()[-2:] == [
        "Rank 1 failed: ZeroDivisionError: of weights",
        f"Its log: {log}",
    ]
    assert "rank 1: Traceback" in log.read_text()


WAITS = "print('here', file=sys.stderr, flush=True); time.sleep(3600)"

CRASHES_THEN_ENDS = """
def run_all(runs, session):
    from rwp_dist.base.errors import CheckpointError, ConfigError
    if os.environ["RANK"] == "1":
        return
    tried = pathlib.Path(runs[0].run.dir) / "tried"
    tried.parent.mkdir(exist_ok=True)
    with tried.open("a") as file:
        file.write("x")
    if tried.stat().st_size == 1:
        os.kill(os.getpid(), 9)
    ENDS
"""


@pytest.mark.parametrize(
    ("ends", "code", "tries"),
    [
        ("pass", 0, 2),
        ("raise ConfigError('wrong.')", 2, 2),
        ("raise CheckpointError('torn.')", 65, 2),
        ("raise ZeroDivisionError('of weights')", 1, 3),
    ],
)
def test_a_crash_is_tried_again_and_what_would_repeat_itself_is_not(
    ends: str, code: int, tries: int, tmp_path: Path
) -> None:
    process = agent(CRASHES_THEN_ENDS.replace("ENDS", ends), tmp_path, "--attempts=3")
    _, errors = process.communicate(timeout=HANG_S)
    assert process.returncode == code, errors
    assert len((tmp_path / "run" / "tried").read_text()) == tries
    assert errors.count("has failed; the next one begins.") == tries - 1
    assert "Rank 0 was ended by SIGKILL" in errors
    folders = sorted((tmp_path / "run" / "logs").glob("attempt-*"))
    assert "".join((folder / "rank-0.log").read_text() for folder in folders) == errors


@pytest.mark.parametrize(
    ("ends", "kinds"),
    [
        ("pass", ["missed_checkpoint"]),
        ("raise CheckpointError('torn.')", ["missed_checkpoint", "gave_up"]),
    ],
)
def test_a_killed_attempt_and_a_run_that_is_given_up_are_told(
    ends: str, kinds: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = CRASHES_THEN_ENDS.replace("ENDS", ends)
    status = "RunDir(runs[0].run.dir).write_status('STATE', 7, 10); "
    code = code.replace("os.kill(", status.replace("STATE", "running") + "os.kill(")
    code = code.replace(
        "    if tried", "    from rwp_dist.record.directory import RunDir\n    if tried"
    )
    code = code.replace(f"    {ends}", f"    {status.replace('STATE', 'failed')}{ends}")
    with Receiver() as site:
        monkeypatch.setenv("RWP_WEBHOOK", site.url)
        process = agent(code, tmp_path, "--attempts=3")
        _, errors = process.communicate(timeout=HANG_S)
        assert site.kinds == kinds, errors
    assert site.posted[0]["text"] == (
        "run: A checkpoint is missing. Attempt 1 was killed at step 7 or later, without a "
        "checkpoint: 7 updates since step 0 are lost."
    )
    if "gave_up" in kinds:
        assert "Given up after 2 attempts, with exit code 65." in site.posted[1]["text"]
    assert TOKEN not in errors
    planted = subprocess.run(["grep", "-rl", TOKEN, str(tmp_path)], capture_output=True, text=True)
    assert planted.stdout == ""


def test_ctrl_c_is_obeyed_in_a_later_attempt_and_is_the_end(tmp_path: Path) -> None:
    process = agent(CRASHES_THEN_ENDS.replace("ENDS", WAITS), tmp_path, "--attempts=3")
    assert process.stderr is not None
    while process.stderr.readline() != "here\n":
        assert process.poll() is None
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=HANG_S)
    assert process.returncode == 130
    assert errors == "Stopped before the first step; nothing was lost.\n"
    assert len((tmp_path / "run" / "tried").read_text()) == 2


def test_debug_reaches_the_ranks(tmp_path: Path) -> None:
    done = subprocess.run(
        launch("--debug", "run", CONFIG, "model.name=nothing", f"run.dir={tmp_path}/run"),
        capture_output=True,
        text=True,
        timeout=HANG_S,
    )
    assert done.returncode == 2
    assert "Traceback" in done.stderr and "ConfigError" in done.stderr


def test_the_name_of_this_machine_need_not_resolve(tmp_path: Path, digits: list[str]) -> None:
    command = launch("run", CONFIG, "--nproc", "2", f"run.dir={tmp_path}/run", *digits)
    anyone = [] if os.getuid() == 0 else ["--map-root-user"]
    elsewhere = ["unshare", "--uts", *anyone, "sh", "-c", 'hostname x7f3.nowhere; exec "$@"', "sh"]
    done = subprocess.run(
        [*elsewhere, *command, "schedule.steps=2"], capture_output=True, text=True, timeout=110
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "cannot be retrieved" not in done.stderr
