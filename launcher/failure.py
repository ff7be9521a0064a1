"""Why an attempt of a Slurm job failed: the last lines of its log, from what its ranks left.

``python -m launcher.failure LOGS`` prints them and ends with the exit code that the attempt
amounts to. ``LOGS`` has, written by all nodes::

    rank-3.log      output of a rank (rank 0's is the job's log)
    node-1.log      output of a node's agent
    agents/         the agents' own folders, with the ranks' last words (``ending.tell_agent``)
"""

import json
import re
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

from rwp_dist.errors import Interrupted
from rwp_dist.rank import log_of

LINES = 25
"""Of a rank's log that are repeated."""

IN_BANNER = re.compile(
    r"host\s+: (?P<host>\S+)\s+rank\s+: (?P<rank>\d+) \(.*?\)\s+exitcode\s+: (?P<code>-?\d+)"
)
"""A rank that failed, in what torchrun says at its end."""


@dataclass(frozen=True)
class End:
    """How a rank ended."""

    rank: int
    host: str
    exit_code: int
    message: str = ""
    """Empty: it was killed, or left no word."""
    time: float = float("inf")
    lost: bool = False
    """It only failed because another rank was gone."""
    shared: bool = False
    """All ranks said the same."""

    @property
    def precedence(self) -> tuple[int, float]:
        """Ranks that failed of themselves first, then those killed, then those that lost others."""
        if self.exit_code == Interrupted.exit_code or self.exit_code == -signal.SIGTERM:
            return 3, self.time
        return 2 if self.lost else 0 if self.message else 1, self.time


def read_ends(logs: Path) -> list[End]:
    """How the ranks ended that did not end well, those that count most first."""
    ends: dict[int, End] = {}
    for path in logs.glob("node-*.log"):
        for found in IN_BANNER.finditer(path.read_text(errors="replace")):
            rank = int(found["rank"])
            ends[rank] = End(rank, found["host"], int(found["code"]))
    for path in (logs / "agents").rglob("error.json"):
        try:
            word = json.loads(path.read_text())
            end = End(
                rank=int(word["rank"]),
                host=str(word["host"]),
                exit_code=int(word["exit_code"]),
                message=str(word["message"]),
                time=float(word["time"]),
                lost=bool(word.get("lost")),
                shared=bool(word.get("shared")),
            )
        except (ValueError, KeyError, TypeError):
            continue  # torn, or written by torch itself
        ends[end.rank] = end
    return sorted(ends.values(), key=lambda end: end.precedence)


def describe(logs: Path) -> tuple[str, int]:
    """What to print last, and the exit code."""
    ends = read_ends(logs)
    if not ends:
        return f"No rank has said why: an agent or its node is gone. Logs: {logs}", 1
    end, log = ends[0], log_of(logs, ends[0].rank)
    if end.exit_code == Interrupted.exit_code or end.shared:
        return end.message, end.exit_code
    lines = [] if end.rank == 0 or not log.is_file() else _tail(log)
    if end.message:
        reason = f"failed: {end.message}"
    elif end.exit_code < 0:
        reason = f"was ended by {signal.Signals(-end.exit_code).name}"
        reason += " (out of memory, perhaps)." if end.exit_code == -signal.SIGKILL else "."
    else:
        reason = f"ended with exit code {end.exit_code}."
    lines.append(f"Rank {end.rank} on {end.host} {reason}")
    lines.append(f"Its log: {log}")
    return "\n".join(lines), end.exit_code if end.exit_code > 0 else 1


def _tail(log: Path) -> list[str]:
    lines = log.read_text(errors="replace").splitlines()
    return lines[-LINES:]


if __name__ == "__main__":
    text, code = describe(Path(sys.argv[1]))
    print(text)
    sys.exit(code)
