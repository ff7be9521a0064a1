"""The interface of a sink: a place that a run's records go to."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from rwp_dist.config.tree import Settings
from rwp_dist.process.webhook import Alert
from rwp_dist.record.directory import RunDir


@dataclass(frozen=True)
class RunInfo:
    """What a sink is opened with."""

    settings: Settings
    """The resolved settings."""

    run_dir: RunDir
    """Where files go."""

    total_steps: int
    """Updates of the whole run."""

    first_step: int
    """Updates that are done already. Records of later steps, from an attempt that was interrupted,
    are about to be written again."""

    position: tuple[int, int] | None
    """Which of how many runs this is, from 1; None: the only one."""

    say: Callable[[str], None]
    """Prints a line for the user."""


class Sink:
    """Base class of all sinks. Override the methods that the sink needs; the others do nothing.

    A new sink is a file with a subclass, and its place in ``SINKS`` (``tracker.py``).
    """

    name: ClassVar[str]
    """What messages call it."""

    optional: ClassVar[bool] = False
    """Whether the run goes on without it. The tracker drops an optional sink at the first
    exception that it raises, and prints one line. The exception of another sink ends the run."""

    @classmethod
    def open(cls, run: RunInfo) -> "Sink | None":
        """The sink of this run; None if the settings do not ask for it.

        Raises:
            ConfigError: the settings ask for what cannot be had; the user has to act.
        """
        raise NotImplementedError

    @property
    def stop_requested(self) -> bool:
        """Whether someone asked here, by a button for example, that the run stop."""
        return False

    def log(self, kind: str, record: Mapping[str, Any]) -> None:
        """Write a record; ``columns.py`` has the kinds and their columns."""

    def advance(self, step: int) -> None:
        """Show that ``step`` updates are done. Called at every step, so it must be cheap."""

    def say(self, text: str) -> None:
        """Print a line for the user."""

    def alert(self, alert: Alert) -> None:
        """Tell a person who is elsewhere. It may come from another thread, and must not wait."""

    def summarize(self, summary: Mapping[str, Any]) -> None:
        """Write the final numbers, the contents of ``summary.json``."""

    def close(self, state: str) -> None:
        """Release everything; ``state`` is "finished", "interrupted" or "failed"."""


def first_line(error: Exception) -> str:
    """The first line of an error's text, without passwords; the rest repeats what was tried."""
    text = str(error).strip().split("\n")[0].rstrip(".")
    text = re.sub(r"//[^/@\s]+@", "//", text)  # a server's address may contain a password
    return text[:160] or type(error).__name__
