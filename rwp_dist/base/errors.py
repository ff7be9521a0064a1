"""What can go wrong, as a small tree: each class knows the exit code of the command line.

An error says what is wrong, which setting it is about (``key``) and what to do (``cure``), as
fields; its text is made of them. The command line prints it without a traceback (``--debug`` shows
that too).

Exit codes: 1 failed, 2 wrong settings, 65 failed in a way that a restart would only repeat, so that
a person has to act first, 75 stopped with a checkpoint on disk.
"""

from collections.abc import Sequence
from typing import Any

from rwp_dist.base.urls import shown_text


class RwpError(Exception):
    """A run that failed for a reason its user can act on.

    Its text is ``key: problem; cure.``, or the problem alone. URLs in it lose their secrets.
    """

    exit_code = 1
    shared = False
    """Whether every rank raises the same, so that only rank 0 prints it."""

    def __init__(self, problem: str, *, key: str | None = None, cure: str | None = None) -> None:
        """
        Args:
            problem: what is wrong. With a cure, it has no full stop of its own.
            key: the setting that it is about, such as ``data.train``.
            cure: what to do, as an imperative in lower case without a full stop; or a question,
                such as ``did you mean method.sigma?``.
        """
        problem, cure = shown_text(problem), shown_text(cure) if cure else cure
        self.problem, self.key, self.cure = problem, key, cure
        text = f"{key}: {problem}" if key else problem
        end = "" if cure and cure.endswith("?") else "."
        super().__init__(f"{text}; {cure}{end}" if cure else text)

    def __reduce__(self) -> tuple[Any, ...]:
        # Errors travel between ranks and from worker processes.
        return _rebuild, (type(self), self.problem, self.key, self.cure), self.__dict__


def _rebuild(kind: type[RwpError], problem: str, key: str | None, cure: str | None) -> RwpError:
    return kind(problem, key=key, cure=cure)


class ConfigError(RwpError):
    """Settings that cannot be run, found before anything is allocated."""

    exit_code = 2


class SettingsError(ConfigError):
    """All that is wrong with the settings of one source, one error for each wrong setting."""

    def __init__(self, source: str, problems: Sequence[ConfigError]) -> None:
        """
        Args:
            source: the settings file, or another name of where they come from.
            problems: each with its own ``key`` and ``cure``.
        """
        self.source, self.problems = source, tuple(problems)
        count = "1 error" if len(problems) == 1 else f"{len(problems)} errors"
        super().__init__("\n  - ".join([f"{source}: {count}", *map(str, problems)]))

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.source, self.problems), self.__dict__


class RunDirError(RwpError):
    """A run directory that is in use, or on a disk that is full or fails: it may pass."""


class DataError(RwpError):
    """Shards or samples that cannot be read as what the settings say they are."""


class ReplicaError(RwpError):
    """Ranks whose weights should be bit-identical and are not."""

    exit_code = 65
    shared = True


class CheckpointError(RwpError):
    """A checkpoint that cannot be loaded, or belongs to another run."""

    exit_code = 65


class CheckpointWriteError(RwpError):
    """A checkpoint that could not be written, on a full disk for example."""


class DivergedError(RwpError):
    """A run whose numbers are of no use: its loss or a metric is not finite, or far too large."""

    exit_code = 65
    shared = True


class Interrupted(RwpError):  # noqa: N818 - no error, as KeyboardInterrupt is none
    """A signal asked the run to stop; a checkpoint is on disk."""

    exit_code = 75
    shared = True
