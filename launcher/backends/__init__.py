"""Where a job can run: one protocol, and a file for each backend."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Literal, Protocol, cast

from launcher.job import Job, Resources
from rwp_dist.base.errors import ConfigError, RwpError


class LaunchError(RwpError):
    """A backend is not installed here, or it refuses a job."""


class NoAnswerError(LaunchError):
    """A backend did not answer in time, so that it may or may not have the job."""


REFUSED = "correct what it names, or try again later"
"""Cure of a ``LaunchError`` that has only a backend's own words."""


@dataclass(frozen=True)
class JobStatus:
    """What a backend knows of a job."""

    id: str
    """As ``submit`` returned it."""

    state: Literal["queued", "running", "ended"]
    nodes: str = ""
    """Names of its nodes, in the backend's short form."""

    reason: str = ""
    """Why it waits, or how it ended."""


class Backend(Protocol):
    """Renders, submits, finds and cancels jobs. Several jobs are the runs of one sweep."""

    def render(self, jobs: Sequence[Job]) -> str:
        """The script that is submitted, byte for byte.

        Raises:
            ConfigError: the backend cannot do what the job's resources ask for.
        """

    def command(self, jobs: Sequence[Job]) -> list[str]:
        """The command that reads the script from its standard input."""

    def submit(self, jobs: Sequence[Job], script: str) -> str:
        """Run that command; returns the job's id, which the tasks of an array share.

        Raises:
            LaunchError: the backend refused, with its own message.
        """

    def find(self, jobs: Sequence[Job]) -> list[JobStatus | None]:
        """What is known of each job, by its token if the id is unknown; one query for all.

        Raises:
            LaunchError: the backend cannot be asked.
        """

    def cancel(self, jobs: Sequence[Job]) -> None:
        """Ask for a checkpoint and an end, for good."""

    def output(self, job: Job) -> list[Path]:
        """Files that the job prints to, oldest first; they may not exist yet."""


def refuse(resources: Resources, names: Iterable[str], why: str) -> None:
    """Refuse resources that a backend would ignore.

    Args:
        resources: what was asked for.
        names: fields of it that the backend has no use for.
        why: it has none, for the message.

    Raises:
        ConfigError: one of them was given.
    """
    unset = Resources(ranks_per_node=resources.gpus or 1)
    given = [name for name in names if getattr(resources, name) != getattr(unset, name)]
    if given:
        flags = {"options": "--option", "ranks_per_node": "--ranks"}
        raise ConfigError(
            why,
            key=", ".join(flags.get(name, f"--{name.replace('_', '-')}") for name in given),
            cure="leave it out, or choose another --backend",
        )


def refuse_characters(paths: Iterable[str | Path], characters: str, why: str) -> None:
    """Refuse paths that a backend would read otherwise than they are meant.

    Args:
        paths: what it is given.
        characters: those that it does not take as they are.
        why: what it does with them, for the message.

    Raises:
        ConfigError: a path has one of them.
    """
    for path in map(str, paths):
        found = [character for character in path if character in characters]
        if found:
            raise ConfigError(
                f"{path!r} has {found[0]!r} in it: {why}", cure="use a folder without it"
            )


def backend(name: str) -> Backend:
    """The backend of that name: local, slurm or docker."""
    module = import_module(f"launcher.backends.{name}")
    return cast(Backend, getattr(module, name.capitalize())())
