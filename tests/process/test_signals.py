"""What signals do before there is anything to save, and hang-ups, which may be ignored."""

import signal
import subprocess
import sys

import psutil
import pytest
from support.until import HANG_S

PROGRAM = """
import signal
from rwp_dist.process import signals
signals.exit_on_signals()
print("ready", flush=True)
while True:
    signal.pause()
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_they_end_process_1_of_a_container_too(number: signal.Signals) -> None:
    """The kernel keeps that process from dying of a signal that it does not handle."""
    inside = ["unshare", "--user", "--map-root-user", "--pid", "--fork"]
    if subprocess.run([*inside, "true"], capture_output=True).returncode:
        pytest.skip("no namespaces here")
    with subprocess.Popen(
        [*inside, sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, text=True
    ) as outer:
        assert outer.stdout is not None and outer.stdout.readline() == "ready\n"
        (process,) = psutil.Process(outer.pid).children()
        process.send_signal(number)
        try:
            assert outer.wait(HANG_S) == (143 if number == signal.SIGTERM else 130)
        finally:
            if process.is_running():
                process.kill()


BEGIN = """
import os, signal
from rwp_dist.process import signals
def hang_up():
    os.kill(os.getpid(), signal.SIGHUP)
"""


def execute(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", BEGIN + code], capture_output=True, text=True, timeout=HANG_S
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_signal_that_asks_for_a_checkpoint_stays_ignored_where_it_was() -> None:
    code = """
signal.signal(signal.SIGUSR1, signal.SIG_IGN)
signals.exit_on_signals()
os.kill(os.getpid(), signal.SIGUSR1)
print("goes on")
"""
    assert execute(code) == "goes on\n"


@pytest.mark.parametrize(
    "listen",
    ["signals.raise_on_signals(signal.SIGHUP)", "signals.StopSignals().__enter__()"],
    ids=["launcher", "rank"],
)
def test_nohup_is_believed(listen: str) -> None:
    ignored = "signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
    assert execute(f"{ignored}{listen}; hang_up(); print(signals.hang_up_is_ignored())") == "True\n"


def test_a_second_hang_up_does_not_disturb_what_the_first_began() -> None:
    code = """
signals.raise_on_signals(signal.SIGHUP)
try:
    hang_up()
except KeyboardInterrupt:
    hang_up()
    print("saved")
"""
    assert execute(code) == "saved\n"


def test_a_rank_saves_when_its_terminal_is_closed() -> None:
    code = "with signals.StopSignals() as asked: hang_up(); print(asked.asked)"
    assert execute(code) == "True\n"
