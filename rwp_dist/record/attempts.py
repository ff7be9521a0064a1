"""``attempts.tsv``: one line for each attempt at a run.

Rank 0 writes the line of its attempt when it ends. Of one whose rank 0 could not, the next attempt
adds it, with the state ``lost``: from ``begun.tsv``, or in a Slurm job from ``begin.tsv``.
"""

import os
import socket
from collections.abc import Sequence
from pathlib import Path

from rwp_dist.base import disk

COLUMNS = ("started", "state", "first_step", "last_step", "job", "nodes", "changed")


def attempt_line(
    started: str, state: str, first_step: int, last_step: int, changed: Sequence[str] = ()
) -> str:
    """A line about an attempt on this machine.

    Args:
        started: when the attempt began (see ``base/clock.py``).
        state: ``finished``, ``interrupted``, ``failed`` or ``lost``.
        first_step: updates that were already done when it began.
        last_step: updates done when it ended.
        changed: what it had otherwise than the attempt before (``identity.changes``).
    """
    job = os.environ.get("RWP_ATTEMPT", "-")
    # Without the job script, it runs on one node of those that an interactive job may have.
    nodes = os.environ.get("SLURM_JOB_NODELIST") if job != "-" else None
    where = nodes or socket.gethostname()
    fields = (started, state, first_step, last_step, job, where, "; ".join(changed) or "-")
    return "\t".join(map(str, fields)) + "\n"


def begun_text(line: str) -> str:
    """A file with one line below the columns' names."""
    return "\t".join(COLUMNS) + "\n" + line


def lost_line(begun: dict[str, str], last_step: int) -> str:
    """The line of an attempt that could not say how it ended."""
    fields = begun | {"state": "lost", "last_step": str(last_step)}
    return "\t".join(fields[name] for name in COLUMNS) + "\n"


def append_lines(path: Path, *lines: str) -> None:
    """Add lines durably. Makes the file with its head if it is missing, also without lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        if file.tell() == 0:
            file.write("\t".join(COLUMNS) + "\n")
        file.writelines(lines)
        file.flush()
        disk.sync(file.fileno())


def read_attempts(path: Path) -> list[dict[str, str]]:
    """The lines by column name; torn ones are left out. Earlier versions wrote no ``changed``."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()[1:]
    except FileNotFoundError:
        return []
    rows = [line.split("\t") for line in lines]
    least = COLUMNS.index("changed")
    return [
        dict(zip(COLUMNS, [*row, "-"], strict=False))
        for row in rows
        if least <= len(row) <= len(COLUMNS)
    ]
