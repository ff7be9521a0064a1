"""torchrun's agent for one machine, which says what a person needs to know when ranks end badly.

It is torch's own elastic launch (rendezvous, monitoring, clean-up) in a thread of its own, because
signals are for the main thread: the first asks the ranks to save and stop, the second kills them.
torchrun's command line would bury a rank's one sentence under its own tracebacks.
"""

import logging
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from types import FrameType

import psutil  # type: ignore[import-untyped]
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, LogsDest
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.elastic.multiprocessing.tail_log import TailLog
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from launcher import ends
from launcher.ends import End
from rwp_dist.process import signals as ending
from rwp_dist.process.rank import LOGS, log_of

PATIENCE_S = 600.0
"""How long ranks that were asked to stop may take for their step and their checkpoint."""

HINT_AFTER_S = 3.0

GRACE_S = 2.0
"""How long ranks may go on after another has been stopped: they may wait for it for ever."""


def run_ranks(nproc: int, command: list[str], place: Path) -> int:
    """Run ``python -m rwp_dist COMMAND...`` on every rank, to the end; returns the exit code.

    75 only if the ranks have said that a checkpoint is on disk, 130 if a signal ended them without.

    Args:
        nproc: ranks.
        command: of all of them.
        place: the run directory, or that of a sweep; ranks other than 0 get their logs there.
    """
    logging.disable(logging.ERROR)  # of the agent itself; ranks are processes of their own
    # As torchrun does: ranks that each use all cores slow each other down.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with tempfile.TemporaryDirectory(prefix="rwp-launch-") as folder:
        logs = new_attempt(place) if nproc > 1 else None
        ranks = Ranks(nproc, command, folder, logs)
        with StopRequests() as stop, _shown(logs, nproc):
            ranks.start()
            killed = _watch(ranks, stop)
        if stop.count:
            ranks.clear_up()
    if ranks.error is not None:
        raise ranks.error
    if killed and not any("time" in f.error_file_data for f in ranks.failures.values()):
        print(
            "Stopped at once, without a checkpoint of the last steps; the same command goes on "
            "from the newest one.",
            file=sys.stderr,
        )
        return ending.STOPPED
    return report(ranks.failures, asked=stop.count > 0, logs=logs)


def new_attempt(place: Path) -> Path | None:
    """A folder for the ranks' logs, ``logs/attempt-N``; None if the place cannot be written to."""
    known = [path.name.rpartition("-")[2] for path in place.glob("logs/attempt-*")]
    last = max((int(number) for number in known if number.isdigit()), default=0)
    folder = place / "logs" / f"attempt-{last + 1}"
    try:
        folder.mkdir(parents=True)
    except OSError:  # which rank 0 will say
        return None
    return folder


@contextmanager
def _shown(logs: Path | None, nproc: int) -> Iterator[None]:
    """Show what ranks write into their logs, too; those that stay empty go in the end."""
    if logs is None:
        yield
        return
    files = {rank: str(log_of(logs, rank)) for rank in range(1, nproc)}
    tail = TailLog("rank", files, sys.stderr, dict.fromkeys(files, "")).start()
    try:
        yield
    finally:
        tail.stop()
        for path in map(Path, files.values()):
            if path.is_file() and path.stat().st_size == 0:
                path.unlink()
        with suppress(OSError):
            logs.rmdir()


class Logs(DefaultLogsSpecs):
    """Where ranks write: 0 to the console, for all of them, and others into files."""

    def __init__(self, words: str, logs: Path | None) -> None:
        super().__init__(log_dir=words)
        self.logs = logs

    def reify(self, envs: dict[int, dict[str, str]]) -> LogsDest:
        """Tell every rank."""
        for rank, environment in envs.items():
            environment[LOGS] = str(self.logs) if rank and self.logs is not None else ""
        return super().reify(envs)


class StopRequests:
    """Counts the signals that ask for an end. Handlers do nothing else."""

    NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def __init__(self) -> None:
        self.count = 0

    def __enter__(self) -> "StopRequests":
        self._previous = {number: signal.signal(number, self._on_signal) for number in self.NUMBERS}
        return self

    def __exit__(self, *exc: object) -> None:
        for number, handler in self._previous.items():
            # What is left to do takes a moment, and a half-said sentence helps nobody.
            signal.signal(number, signal.SIG_IGN if number == signal.SIGINT else handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.count += 1


class Ranks(threading.Thread):
    """The elastic launch of all ranks, and how they ended."""

    def __init__(self, nproc: int, command: list[str], folder: str, logs: Path | None) -> None:
        super().__init__(daemon=True)
        self.config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=nproc,
            run_id=str(os.getpid()),
            rdzv_backend="c10d",
            rdzv_endpoint="localhost:0",
            local_addr="127.0.0.1",  # the name of this machine need not resolve
            max_restarts=0,
            monitor_interval=0.1,
            logs_specs=Logs(folder, logs),
        )
        self.command = command
        self.failures: dict[int, ProcessFailure] = {}
        self.error: BaseException | None = None
        self._folder = Path(folder)
        self._told: set[int] = set()

    def run(self) -> None:
        """Start the ranks and wait for them."""
        # Ranks inherit this, and obey once they have handlers (``ending.obey_signals``).
        signal.pthread_sigmask(signal.SIG_BLOCK, ending.SIGNALS)
        try:
            elastic_launch(self.config, sys.executable)("-m", "rwp_dist", *self.command)
        except ChildFailedError as error:
            self.failures = error.failures
        except BaseException as error:
            self.error = error

    def exit_codes(self) -> list[int]:
        """Of ranks that have left their last word."""
        return ending.exit_codes(self._folder)

    def ask_to_stop(self) -> None:
        """Once for each rank: to the rank alone, which decides about its helpers."""
        for pid in self._children() - self._told:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGINT)
            self._told.add(pid)

    def kill(self) -> None:
        """End all ranks and their helpers now."""
        self._told |= self._children()
        self.clear_up()

    def clear_up(self) -> None:
        """End what ranks that were told to stop may have left, such as a compiler."""
        for pid in self._told:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, signal.SIGKILL)

    @staticmethod
    def _children() -> set[int]:
        """Ranks that have been started: each leads a session."""
        found = set()
        for child in psutil.Process().children():
            with suppress(ProcessLookupError):
                if os.getsid(child.pid) == child.pid:
                    found.add(child.pid)
        return found


def _watch(ranks: Ranks, stop: StopRequests) -> bool:
    """Pass requests on until the ranks are gone; whether they had to be killed."""
    asked = stopped = 0.0
    hinted = False
    while ranks.is_alive():
        ranks.join(0.1)
        now = time.monotonic()
        if not stop.count:
            continue
        asked = asked or now
        codes = ranks.exit_codes()
        if ending.STOPPED in codes:
            stopped = stopped or now
        late = now - asked > PATIENCE_S or (stopped and now - stopped > GRACE_S)
        if stop.count > 1 or late:
            while ranks.is_alive():
                ranks.kill()
                ranks.join(0.1)
            return True
        ranks.ask_to_stop()
        if not hinted and now - asked > HINT_AFTER_S and not codes:
            hinted = True
            text = "Waiting for the ranks to finish their step and save; Ctrl-C again kills them."
            print(text, file=sys.stderr)
    return False


def report(failures: dict[int, ProcessFailure], asked: bool, logs: Path | None = None) -> int:
    """The exit code that the ranks' ends amount to; says what no rank has said itself.

    Args:
        failures: ranks that did not end with 0, by number.
        asked: whether they were asked to stop.
        logs: folder of the ranks' logs.
    """
    ended = [_end_of(rank, failure) for rank, failure in failures.items()]
    if not ended:
        return 0
    if asked and any(end.exit_code == ending.STOPPED for end in ended):
        # Ranks that waited for a stopped one were killed, and that is no news.
        ended = [end for end in ended if end.message or end.exit_code != -signal.SIGKILL]
    counts = ends.first(ended)
    stopped = asked and counts.exit_code in ends.TOLD
    said = any(end.said for end in ended)
    calm = all(end.said or end.shared or end.exit_code in ends.TOLD for end in ended)
    if not (said and calm):
        print(ending.nothing_lost() if stopped else _describe(counts), file=sys.stderr)
        if not stopped and logs is not None and log_of(logs, counts.rank).is_file():
            print(f"Its log: {log_of(logs, counts.rank)}", file=sys.stderr)
    if stopped:
        return ending.STOPPED
    return counts.exit_code if counts.exit_code > 0 else 1


def _end_of(rank: int, failure: ProcessFailure) -> End:
    """From its own words, if it has left any: torch's agent may have killed it afterwards."""
    told = ends.from_word(failure.error_file_data)
    return told or End(rank, failure.exitcode, failure.timestamp)


def _describe(end: End) -> str:
    return end.message if end.shared else replace(end, host="").describe()
