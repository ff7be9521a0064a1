"""The output of a run, while it runs and afterwards."""

import codecs
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from launcher.backends import backend
from launcher.job import read_job
from rwp_dist.base.errors import RwpError
from rwp_dist.process import streams
from rwp_dist.process.rank import log_of
from rwp_dist.record.directory import RunDir

POLL_S = 0.5
ASK_S = 15.0
"""Time between two questions to the backend, to spare a cluster's controller."""


def log_files(run_dir: RunDir, rank: int | None) -> list[Path]:
    """Files with the output of a job, or of one rank in each attempt, oldest first."""
    job = read_job(run_dir)
    if not rank and job is not None:  # rank 0 speaks for all
        return backend(job.backend).output(job)
    files = run_dir.logs.glob(f"*/{log_of(Path(), rank or 0)}")
    return sorted(files, key=lambda path: path.stat().st_mtime)


def read(run_dir: RunDir, rank: int | None) -> str:
    """The newest log; without one, why the run failed.

    Raises:
        RwpError: there is neither.
    """
    for path in reversed(log_files(run_dir, rank)):
        if path.is_file() and (text := path.read_text(encoding="utf-8", errors="replace")):
            return text
    message = (run_dir.read_status() or {}).get("message")
    if message:
        return f"{message}\n"
    whose = "" if rank is None else f" of rank {rank}"
    raise RwpError(f"{run_dir.path}: there is no log{whose} yet", cure="see `rwp-launch status`")


def follow(run_dir: RunDir, rank: int | None, living: Callable[[], bool]) -> Iterator[str]:
    """Yield the newest log and everything that follows, in later attempts too, until the run ends
    or nobody reads stdout.

    Args:
        run_dir: of the run.
        rank: one rank; None for the whole job.
        living: asks whether the run still goes on.

    Raises:
        RwpError: the run has ended without a log.
    """
    earlier = set(log_files(run_dir, rank)[:-1])
    readers: dict[Path, Reader] = {}
    asked, word = -math.inf, ""
    while True:
        # Asked before reading, so that the last lines are read.
        before, word = word, str((run_dir.read_status() or {}).get("state", ""))
        if word != before or time.monotonic() > asked + ASK_S:
            goes_on, asked = living(), time.monotonic()
        # Of all, because the last lines of one may come together with the first of the next.
        for path in log_files(run_dir, rank):
            if path in earlier or not path.is_file():
                continue
            if fresh := readers.setdefault(path, Reader(path)).fresh():
                yield fresh
        if not goes_on:
            if not any(reader.read_to for reader in readers.values()):
                yield read(run_dir, rank)
            return
        if streams.nobody_reads():
            return
        time.sleep(POLL_S)


class Reader:
    """Reads what is appended to a log."""

    def __init__(self, path: Path) -> None:
        self.path, self.read_to = path, 0
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def fresh(self) -> str:
        """The text since the last call; a character that is not whole yet waits for the next."""
        with self.path.open("rb") as file:
            file.seek(self.read_to)
            data = file.read()
        self.read_to += len(data)
        return self._decoder.decode(data)
