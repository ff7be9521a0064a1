"""All ranks of a run on this machine: torchrun starts and watches them, Ctrl-C stops them."""

import os
import signal
import sys
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from subprocess import Popen
from tempfile import TemporaryDirectory

import psutil  # type: ignore[import-untyped]

from launcher.diagnosis import TOLD_TO_STOP, explain, first_failure, tail
from rwp_dist.base.errors import Interrupted
from rwp_dist.base.parent import end_with_parent
from rwp_dist.process import output, signals
from rwp_dist.process.exits import STOPPED, read_exits
from rwp_dist.process.rank import LOGS, log_of, new_attempt
from rwp_dist.record.directory import RunDir

PATIENCE_S = 600.0
"""How long ranks that were asked to stop may take for their step and their checkpoint."""

GRACE_S = 2.0
"""How long ranks may go on after another was stopped. They may wait for it for ever, and torchrun
would give them 30 s."""

HINT_AFTER_S = 3.0

STOPPED_CODES = (Interrupted.exit_code, STOPPED)
"""Exit codes of ranks that somebody has stopped."""

FINAL = (0, 2, 65, *STOPPED_CODES)
"""Exit codes after which the same command is not tried again: it is done, would fail in the same
words, or was told to stop. Any other code is a crash, or something that may be better next time."""


def run_ranks(nproc: int, command: list[str], place: Path, *, changed: bool = False) -> int:
    """Run ``python -m rwp_dist COMMAND...`` on every rank, to the end; returns the exit code.

    75 only if the ranks have said that a checkpoint is on disk, 130 if a signal ended them without.

    Args:
        nproc: number of ranks.
        command: of all of them.
        place: the run directory, or that of a sweep, for ``logs/attempt-N``.
        changed: a finished run there goes on with changes.
    """
    with ExitStack() as stack:
        logs = _logs(place, changed) or Path(stack.enter_context(TemporaryDirectory()))
        output.copy_to(log_of(logs, 0), of="attempt")
        signals.raise_on_signals(signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        agent = _start(nproc, command, logs)
        asked, killed = _wait(agent, logs)
        signals.ignore_ctrl_c()  # the final message must not be interrupted
        return _report(agent.returncode, logs, asked, killed)


def _logs(place: Path, changed: bool) -> Path | None:
    """A folder for this attempt's logs; None if no attempt at the run will be made, or no room."""
    run = RunDir(place)
    if (run.summary.is_file() and not changed) or run.holder() is not None:
        return None  # the log of the attempt that finished it, or that goes on, stays the newest
    return new_attempt(place)


def _start(nproc: int, command: list[str], logs: Path) -> Popen[bytes]:
    torchrun = [sys.executable, "-m", "launcher.agent", str(logs), "0"]
    torchrun += ["--standalone", "--local-addr=127.0.0.1"]  # this machine's name need not resolve
    torchrun += [f"--nproc-per-node={nproc}", "--max-restarts=0", "--monitor-interval=0.1"]
    torchrun += ["-m", "rwp_dist", *command]
    # torchrun sets one thread only for several ranks; a run's numbers do not depend on --nproc.
    env = {"OMP_NUM_THREADS": "1"} | os.environ | {LOGS: str(logs)}
    # Ranks inherit the mask, and lift it once they have handlers (``exit_on_signals``). torchrun
    # would forward Ctrl-C to whole process groups and end with 1; it never sees the signal.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals.SIGNALS)
    try:
        return Popen(torchrun, env=env, start_new_session=True, preexec_fn=end_with_parent)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _wait(agent: Popen[bytes], logs: Path) -> tuple[bool, bool]:
    """Wait for the ranks' end. Ctrl-C asks them to save and stop, a second one kills them.

    Returns:
        Whether they were asked to stop, and whether they had to be killed.
    """
    asked: set[int] = set()
    try:
        with suppress(KeyboardInterrupt):
            agent.wait()
            return False, False
        in_time = _stop(agent, logs, asked)
    except KeyboardInterrupt:
        in_time = False
    finally:
        signals.ignore_ctrl_c()
        if agent.poll() is None:
            agent.send_signal(signal.SIGSTOP)  # it starts no more ranks
            asked |= _ranks(agent)
            agent.kill()
            agent.wait()
        for pid in asked:  # a rank that ended at once may have left a compiler
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, signal.SIGKILL)
    return True, not in_time


def _stop(agent: Popen[bytes], logs: Path, asked: set[int]) -> bool:
    """Ask every rank to stop and wait for that; whether they did. ``asked`` collects the ranks."""
    begin, hinted = time.monotonic(), False
    deadline = begin + PATIENCE_S
    while agent.poll() is None:
        for pid in _ranks(agent) - asked:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGINT)  # to the rank alone: it decides about its helpers
            asked.add(pid)
        if not asked:  # torchrun is still being imported
            return True
        time.sleep(0.1)
        now = time.monotonic()
        codes = [known.exit_code for known in read_exits(logs)]
        if STOPPED in codes:
            deadline = min(deadline, now + GRACE_S)
        if now > deadline:
            return False
        if now - begin > HINT_AFTER_S and not hinted and not codes:
            hinted = True
            text = "Waiting for the ranks to finish their step and save; Ctrl-C again kills them."
            print(text, file=sys.stderr)
    return True


def _ranks(agent: Popen[bytes]) -> set[int]:
    """Processes of the ranks: each leads a session, other than torchrun's helpers."""
    found = set()
    with suppress(psutil.Error):
        for child in psutil.Process(agent.pid).children():
            with suppress(ProcessLookupError):
                if os.getsid(child.pid) == child.pid:
                    found.add(child.pid)
    return found


def _report(returncode: int, logs: Path, asked: bool, killed: bool) -> int:
    """The exit code of the whole; prints what rank 0 has not printed itself."""
    exits = list(read_exits(logs))
    if killed and not any(known.message for known in exits):
        print(
            "Stopped at once, without a checkpoint of the last steps; the same command goes on "
            "from the newest one.",
            file=sys.stderr,
        )
        return STOPPED
    if returncode == 0:
        return 0
    if asked and any(known.exit_code == STOPPED for known in exits):
        # Ranks that waited for a stopped one were killed, and that is no news.
        exits = [known for known in exits if known.message or known.exit_code != -signal.SIGKILL]
    failure = first_failure(exits)
    said = any(known.said for known in exits)
    if asked and (failure is None or failure.exit_code in TOLD_TO_STOP):
        if not said:
            print(signals.nothing_lost(), file=sys.stderr)
        return STOPPED
    text, code = explain(failure, logs, host=False)
    if failure is None:
        text = "\n".join([*tail(logs / "node-0.log"), text])
    if failure is None or not (failure.said or (failure.shared and said)):
        print(text, file=sys.stderr)
    return code
