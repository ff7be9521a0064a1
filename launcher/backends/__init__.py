"""Where a job can run, behind one small interface; a file each."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Literal, Protocol, cast

from launcher.job import Job, Resources
from rwp_dist.base.errors import ConfigError, RwpError


class LaunchError(RwpError):
    """A backend that is not there, or that refuses a job."""


@dataclass(frozen=True)
class Found:
    """What a backend says of a job that it still knows."""

    id: str
    """As ``submit`` returned it."""

    state: Literal["queued", "running", "ended"]
    nodes: str = ""
    """Names of its nodes, in the backend's short form."""

    reason: str = ""
    """Why it waits, or how it ended."""


class Backend(Protocol):
    """Renders, submits, finds and cancels jobs."""

    def render(self, jobs: Sequence[Job]) -> str:
        """The script of one job, or of a sweep's jobs: all that is submitted, byte for byte.

        Raises:
            ConfigError: the backend cannot do what the job's resources ask for.
        """

    def command(self, jobs: Sequence[Job]) -> list[str]:
        """What takes the script on its standard input."""

    def submit(self, jobs: Sequence[Job], script: str) -> str:
        """Hand the script over; returns the id, which an array's jobs share.

        Raises:
            LaunchError: it was refused, in the backend's own words.
        """

    def find(self, jobs: Sequence[Job]) -> list[Found | None]:
        """What is known of each job, also of one whose id is not; one query for all.

        Raises:
            LaunchError: the backend cannot be asked.
        """

    def cancel(self, jobs: Sequence[Job]) -> None:
        """Ask for a checkpoint and an end, for good."""

    def output(self, job: Job) -> list[Path]:
        """Files of what the job printed, oldest first; they may not exist yet."""


def refuse(resources: Resources, names: Sequence[str], why: str) -> None:
    """Refuse what was asked for and would be ignored.

    Args:
        resources: that a person asked for.
        names: fields of these that are of no use.
        why: they are not.

    Raises:
        ConfigError: one of them was given.
    """
    unset = Resources()
    given = [
        f"--{'option' if name == 'options' else name.replace('_', '-')}"
        for name in names
        if getattr(resources, name) != getattr(unset, name)
    ]
    if given:
        raise ConfigError(f"{', '.join(given)}: {why}; leave it out, or choose another --backend.")


def backend(name: str) -> Backend:
    """The backend of that name: local, slurm or docker."""
    module = import_module(f"launcher.backends.{name}")
    return cast(Backend, getattr(module, name.capitalize())())
