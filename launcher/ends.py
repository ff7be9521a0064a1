"""How ranks ended, and which of them counts: one rule, on this machine as on a cluster."""

import signal
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from rwp_dist.base.errors import Interrupted
from rwp_dist.process import signals as ending

TOLD = (ending.STOPPED, -signal.SIGINT, -signal.SIGTERM)
"""Exit codes of ranks that ended because they were told to, by a person or by their agent."""


@dataclass(frozen=True)
class End:
    """How a rank ended that did not end well."""

    rank: int
    exit_code: int
    """What the rank meant to end with; ``-N``: signal N ended it."""

    time: float
    """In seconds since 1970."""

    host: str = ""
    message: str = ""
    """Empty: it was killed, or left no word."""

    said: bool = False
    """It has printed the message itself."""

    shared: bool = False
    """All ranks said the same."""

    lost: bool = False
    """It only failed because another rank was gone."""

    @property
    def precedence(self) -> tuple[int, float]:
        """The end that counts is the smallest: the earliest of the worst kind."""
        if self.exit_code in TOLD:
            kind = 4
        elif self.lost:
            kind = 3
        elif not self.message:
            kind = 2
        elif self.exit_code == Interrupted.exit_code:
            # All ranks have agreed on that, so that those without a word were killed afterwards.
            kind = 1
        else:
            kind = 0
        return kind, self.time

    def describe(self) -> str:
        """One sentence about it."""
        who = f"Rank {self.rank}" + (f" on {self.host}" if self.host else "")
        if self.message:
            return f"{who} failed: {self.message}"
        if self.exit_code < 0:
            name = signal.Signals(-self.exit_code).name
            return f"{who} was ended by {name}" + (
                " (out of memory, perhaps)." if name == "SIGKILL" else "."
            )
        return f"{who} ended with exit code {self.exit_code}."


def from_word(word: Mapping[str, Any]) -> End | None:
    """The end that a rank has told of (``ending.tell_agent``); None: these are not its words."""
    try:
        return End(
            rank=int(word["rank"]),
            exit_code=int(word["exit_code"]),
            time=float(word["time"]),
            host=str(word["host"]),
            message=str(word["message"]),
            said=bool(word.get("said")),
            shared=bool(word.get("shared")),
            lost=bool(word.get("lost")),
        )
    except (ValueError, KeyError, TypeError):
        return None


def first(ends: Iterable[End]) -> End:
    """The end that began it: what a person has to know, and what the exit code is made of."""
    return min(ends, key=lambda end: end.precedence)
