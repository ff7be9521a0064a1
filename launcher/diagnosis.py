"""Why an attempt failed: which rank began it, and what a person has to know.

An attempt's folder of logs has, for a Slurm job as for a run on this machine::

    rank-3.log      output of a rank; rank 0 has the console, or the job's log, and here a copy
    node-1.log      what the node's agent printed (``agent``)
    agents/         how ranks ended (``rwp_dist.process.exits``)
"""

import signal
from collections.abc import Iterable
from pathlib import Path

from rwp_dist.base.errors import Interrupted
from rwp_dist.process.exits import STOPPED, RankExit
from rwp_dist.process.rank import log_of

LINES = 25
"""Lines of a log that are repeated."""

TOLD_TO_STOP = (STOPPED, -signal.SIGINT, -signal.SIGTERM)
"""Exit codes of ranks that a person or their agent ended."""


def first_failure(exits: Iterable[RankExit]) -> RankExit | None:
    """The exit that explains the others: the earliest one of the worst kind; None without any."""
    return min(exits, key=lambda known: (_kind(known), known.time), default=None)


def _kind(known: RankExit) -> int:
    """0 for the kind that says most."""
    if known.exit_code in TOLD_TO_STOP:
        return 4
    if known.lost:
        return 3
    if not known.message:
        return 2
    if known.exit_code == Interrupted.exit_code:
        # All ranks have agreed on that; those without a message were killed afterwards.
        return 1
    return 0


def describe(known: RankExit, host: bool = True) -> str:
    """One sentence: ``Rank 3 on node7 failed: ZeroDivisionError: of weights``."""
    who = f"Rank {known.rank}" + (f" on {known.host}" if host else "")
    if known.message:
        return f"{who} failed: {known.message}"
    if known.exit_code < 0:
        name = signal.Signals(-known.exit_code).name
        hint = " (out of memory, perhaps)" if name == "SIGKILL" else ""
        return f"{who} was ended by {name}{hint}."
    return f"{who} ended with exit code {known.exit_code}."


def explain(failure: RankExit | None, logs: Path, host: bool = True) -> tuple[str, int]:
    """What to print last, and the exit code of the whole attempt.

    Args:
        failure: the first one; None if no rank has said anything.
        logs: the attempt's folder of logs.
        host: whether to name the node.
    """
    if failure is None:
        why = "an agent or its node is gone, or the disk of its logs is full"
        return f"No rank has said why: {why}. Logs: {logs}", 1
    code = failure.exit_code if failure.exit_code > 0 else 1
    if failure.shared:
        return failure.message, code
    log, sentence = log_of(logs, failure.rank), describe(failure, host)
    if failure.rank == 0 or not log.is_file():  # what rank 0 printed stands above
        return sentence, code
    return "\n".join([*tail(log), sentence, f"Its log: {log}"]), code


def tail(log: Path) -> list[str]:
    """The last lines of a log; empty if there is none."""
    return log.read_text("utf-8", "replace").splitlines()[-LINES:] if log.is_file() else []
