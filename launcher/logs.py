"""The output of a run, while it runs and afterwards."""

import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from launcher.backends import backend
from launcher.job import read_job
from rwp_dist.base.errors import RwpError
from rwp_dist.record.directory import RunDir

POLL_S = 0.5
ASK_S = 15.0
"""Time between two questions to the backend, to spare a cluster's controller."""


def log_files(run_dir: RunDir, rank: int | None) -> list[Path]:
    """Files with the output of a job, or of one rank in each attempt, oldest first."""
    job = read_job(run_dir)
    if not rank and job is not None:  # rank 0 speaks for all
        return backend(job.backend).output(job)
    files = run_dir.logs.glob(f"*/rank-{rank or 0}.log")
    return sorted(files, key=lambda path: path.stat().st_mtime)


def read(run_dir: RunDir, rank: int | None) -> str:
    """The newest log; without one, why the run failed.

    Raises:
        RwpError: there is neither.
    """
    files = [path for path in log_files(run_dir, rank) if path.is_file()]
    if files:
        return files[-1].read_text(encoding="utf-8", errors="replace")
    status = run_dir.read_status() or {}
    if status.get("message"):
        return f"{status['message']}\n"
    whose = "It" if rank is None else f"Rank {rank}"
    if status and not rank and read_job(run_dir) is None:
        raise RwpError(
            f"{run_dir.path}: {whose} prints where the run was started, on a console or into a "
            "job's file",
            cure="see metrics.jsonl there for its numbers",
        )
    raise RwpError(f"{run_dir.path}: {whose} has not printed anything yet", cure="see its status")


def follow(run_dir: RunDir, rank: int | None, living: Callable[[], bool]) -> Iterator[str]:
    """Yield the newest log and everything that follows, in later attempts too, until the run ends.

    Of a run that was not submitted, rank 0 leaves no log to follow: see ``read``.

    Args:
        run_dir: of the run.
        rank: one rank; None for the whole job.
        living: asks whether the run still goes on.

    Raises:
        RwpError: there will be no log.
    """
    if not rank and read_job(run_dir) is None and not log_files(run_dir, rank):
        yield read(run_dir, rank)
        return
    path: Path | None = None
    read_to = 0
    asked, word = -math.inf, ""
    while True:
        # Asked before reading, so that the last lines are read.
        before, word = word, str((run_dir.read_status() or {}).get("state", ""))
        if word != before or time.monotonic() > asked + ASK_S:
            goes_on, asked = living(), time.monotonic()
        for newest in log_files(run_dir, rank)[-1:]:
            if newest.is_file():
                if newest != path:
                    path, read_to = newest, 0
                with newest.open("rb") as file:
                    file.seek(read_to)
                    fresh = file.read()
                read_to += len(fresh)
                if fresh:
                    yield fresh.decode("utf-8", errors="replace")
        if not goes_on:
            return
        time.sleep(POLL_S)
