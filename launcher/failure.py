"""Why an attempt of a Slurm job failed: the last lines of its log, from what its ranks left.

The attempt's folder of logs has, written by all nodes::

    rank-3.log      output of a rank (rank 0's is the job's log)
    node-1.log      output of a node's agent
    agents/         the agents' own folders, with the ranks' last words (``ending.tell_agent``)
"""

import json
import re
from datetime import datetime
from pathlib import Path

from launcher.ends import End, first, from_word
from rwp_dist.process.rank import log_of

LINES = 25
"""Of a rank's log that are repeated."""

IN_BANNER = re.compile(
    r"time\s+: (?P<time>\S+)\s+host\s+: (?P<host>\S+)\s+"
    r"rank\s+: (?P<rank>\d+) \(.*?\)\s+exitcode\s+: (?P<code>-?\d+)"
)
"""A rank that failed, in what torchrun says at its end."""


def read_ends(logs: Path) -> list[End]:
    """How the ranks ended that did not end well."""
    known: dict[int, End] = {}
    for path in logs.glob("node-*.log"):
        for found in IN_BANNER.finditer(path.read_text(errors="replace")):
            when = datetime.strptime(found["time"], "%Y-%m-%d_%H:%M:%S").timestamp()
            end = End(int(found["rank"]), int(found["code"]), when, host=found["host"])
            known[end.rank] = end
    for path in (logs / "agents").rglob("error.json"):
        try:
            told = from_word(json.loads(path.read_text()))
        except ValueError:
            continue  # torn
        if told is not None:
            known[told.rank] = told
    return list(known.values())


def describe(logs: Path) -> tuple[str, int]:
    """What to print last, and the exit code that the attempt amounts to."""
    ends = read_ends(logs)
    if not ends:
        return f"No rank has said why: an agent or its node is gone. Logs: {logs}", 1
    end = first(ends)
    log = log_of(logs, end.rank)
    if end.shared:
        return end.message, end.exit_code
    lines = [] if end.rank == 0 or not log.is_file() else _tail(log)
    lines += [end.describe(), f"Its log: {log}"]
    return "\n".join(lines), end.exit_code if end.exit_code > 0 else 1


def _tail(log: Path) -> list[str]:
    lines = log.read_text(errors="replace").splitlines()
    return lines[-LINES:]
