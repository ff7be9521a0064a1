"""``attempts.tsv``: one line for each attempt at a run.

Rank 0 writes the line of its attempt when it ends. A Slurm job adds the lines of attempts whose
rank 0 could not, with the state ``lost``.
"""

import os
import socket
from datetime import datetime, timezone
from pathlib import Path

COLUMNS = ("started", "state", "first_step", "last_step", "job", "nodes")


def attempt_line(started: datetime, state: str, first_step: int, last_step: int) -> str:
    """A line about an attempt on this machine.

    Args:
        started: when the attempt began, with its time zone; written in UTC.
        state: ``finished``, ``interrupted``, ``failed`` or ``lost``.
        first_step: updates that were already done when it began.
        last_step: updates done when it ended.
    """
    when = started.astimezone(timezone.utc).isoformat(timespec="seconds")
    job, nodes = os.environ.get("RWP_ATTEMPT", "-"), os.environ.get("SLURM_JOB_NODELIST")
    fields = (when, state, first_step, last_step, job, nodes or socket.gethostname())
    return "\t".join(map(str, fields)) + "\n"


def append_lines(path: Path, *lines: str) -> None:
    """Add lines durably. Makes the file with its head if it is missing, also without lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        if file.tell() == 0:
            file.write("\t".join(COLUMNS) + "\n")
        file.writelines(lines)
        file.flush()
        os.fsync(file.fileno())


def read_attempts(path: Path) -> list[dict[str, str]]:
    """The lines by column name; torn ones are left out."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()[1:]
    except FileNotFoundError:
        return []
    rows = [line.split("\t") for line in lines]
    return [dict(zip(COLUMNS, row, strict=True)) for row in rows if len(row) == len(COLUMNS)]
