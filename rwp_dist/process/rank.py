"""What a rank does first, and where its log is: ``logs/attempt-N/rank-R.log`` of its run.

Imports nothing that takes time.
"""

import os
import sys
from contextlib import suppress
from io import TextIOWrapper
from pathlib import Path
from typing import cast

from rwp_dist.process import output, torchrun

LOGS = "RWP_LOGS"
"""Environment variable: the folder of this attempt's logs, one ``rank-N.log`` for each rank."""

LEAST_BYTES = 1 << 16
"""Room that logs need at least: without it, nobody could read there how the ranks have ended."""


def write_to_log() -> None:
    """Send stdout and stderr to ``$RWP_LOGS/rank-N.log``, if it is set.

    Rank 0 keeps the console and has a copy in its log; without the variable, from ``begin_log`` on.
    torchrun's ``--redirects`` would take the console from rank 0 too, and ``--tee`` would put a
    prefix before each line and show no progress bar.
    """
    folder = _attempt()
    if torchrun.rank() == 0:
        output.copy_output()
        if folder:
            output.copy_to(log_of(folder, 0), of="attempt")
        return
    if not folder:
        return
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    log = os.open(log_of(folder, torchrun.rank()), flags, 0o644)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
    for stream in (sys.stdout, sys.stderr):  # its lines are UTF-8, as all files
        cast(TextIOWrapper, stream).reconfigure(encoding="utf-8", errors="backslashreplace")


def begin_log(run: Path) -> None:
    """Have a log of its own for this run, if rank 0 has none there already. Rank 0 calls it.

    Of a run that rwp-launch started, the attempt's log is it. Started otherwise, and in a sweep,
    each run gets a folder for the attempt.
    """
    given = _attempt()
    if given and given.resolve().parent == (run / "logs").resolve():
        return
    if output.is_copied() and (folder := new_attempt(run)):
        output.copy_to(log_of(folder, 0), of="run")


def _attempt() -> Path | None:
    """The folder that an agent has given its ranks; not that of an agent further up."""
    folder = os.environ.get(LOGS)
    return Path(folder) if folder and torchrun.by_torchrun() else None


def new_attempt(place: Path) -> Path | None:
    """A new folder for logs, ``logs/attempt-N``; None if the place takes no files or has no room.

    Args:
        place: the run directory, or that of a sweep.
    """
    known = [path.name.rpartition("-")[2] for path in place.glob("logs/attempt-*")]
    last = max((int(number) for number in known if number.isdigit()), default=0)
    folder = place / "logs" / f"attempt-{last + 1}"
    new = not place.exists()
    try:
        folder.mkdir(parents=True)
        trial = log_of(folder, 0)
        trial.write_bytes(bytes(LEAST_BYTES))
        os.truncate(trial, 0)
    except OSError:  # rank 0 will say so
        with suppress(OSError):
            log_of(folder, 0).unlink(missing_ok=True)
            for made in (folder, folder.parent):  # as far as they are empty
                made.rmdir()
            if new:
                place.rmdir()
        return None
    return folder


def log_of(folder: Path, rank: int) -> Path:
    """Where a rank's output is, in the folder of an attempt's logs."""
    return folder / f"rank-{rank}.log"
