"""trackio, an optional sink for who has no account: a database on this disk, and a dashboard of it.

Nothing goes to a network. All runs of one folder share a database, so that the dashboard compares
them.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout, suppress
from io import StringIO
from pathlib import Path
from shlex import quote
from typing import Any, ClassVar

from rwp_dist.base.errors import ConfigError
from rwp_dist.tracking.columns import named
from rwp_dist.tracking.connection import config_of
from rwp_dist.tracking.projection import Tail
from rwp_dist.tracking.sink import RunInfo, Sink

FOLDER = "trackio"
"""Beside the run directories. The environment variable TRACKIO_DIR names another place."""

ELSEWHERE = ("SPACE_ID", "SERVER_URL", "BUCKET_ID", "WEBHOOK_URL")
"""TRACKIO_... variables that would send records to a network."""


class Trackio(Sink):
    """Logs each column under W&B's name, with the number of updates as trackio's step.

    A resumed run has each step once: its earlier records are replaced by those of
    ``metrics.jsonl``, with new times. trackio's thread writes what ``log`` gets, every half second.
    """

    name = "trackio"
    optional = True

    _told: ClassVar[set[str]] = set()
    """Commands that this process has printed: all runs of a sweep have the same."""

    def __init__(self, run: Any) -> None:
        """``run``: what ``trackio.init`` returned."""
        self._run = run

    @classmethod
    def open(cls, run: RunInfo) -> "Trackio | None":
        """
        Raises:
            ConfigError: the package is not installed.
        """
        tracking, run_dir = run.settings.tracking, run.run_dir
        if not tracking.trackio:
            return None
        # trackio reads it when it is imported.
        os.environ.setdefault("TRACKIO_DIR", str((run_dir.path.parent / FOLDER).resolve()))
        try:
            import trackio
        except ImportError:
            raise ConfigError(
                "trackio is not installed",
                key="tracking.trackio",
                cure="run `pip install 'rwp-dist[trackio]'`, or set it to false",
            ) from None
        name = run.settings.run.name or run_dir.path.name
        config = config_of(run.settings, run_dir)
        with _offline():
            _remove(tracking.project, name, config["run"]["dir"])
            started = trackio.init(
                project=tracking.project,
                name=name,
                group=tracking.group,
                config=config,
                embed=False,
                auto_log_cpu=False,
                auto_log_gpu=False,
            )
        sink = cls(started)
        for record in Tail(run_dir.metrics).read():
            sink.log(record["kind"], record)
        command = show_command(Path(trackio.TRACKIO_DIR), tracking.project)
        if command not in cls._told:
            cls._told.add(command)
            run.say(f"trackio: {command}")
        return sink

    def log(self, kind: str, record: Mapping[str, Any]) -> None:
        self._run.log(named(kind, record), step=record["step"])

    def close(self, state: str) -> None:
        """Write what is left, for half a minute at most."""
        import trackio

        with redirect_stdout(StringIO()):
            trackio.finish()


def show_command(folder: Path, project: str) -> str:
    """The command that opens the dashboard of a database's folder."""
    with suppress(ValueError):
        folder = folder.relative_to(Path.cwd())
    return f"TRACKIO_DIR={quote(str(folder))} trackio show --project {quote(project)}"


def _remove(project: str, name: str, folder: str) -> None:
    """Remove what earlier attempts at the run in ``folder`` have logged."""
    import trackio

    try:
        earlier = list(trackio.Api().runs(project))
    except ValueError:  # there is no such project yet
        return
    for run in earlier:
        known = run.config or {} if run.name == name else {}
        if known.get("run", {}).get("dir") == folder:
            run.delete()


@contextmanager
def _offline() -> Iterator[None]:
    """Keep trackio from printing, and from asking Hugging Face for the user's name."""
    from huggingface_hub import constants

    for variable in ELSEWHERE:  # for good: trackio may read them at any time
        os.environ.pop(f"TRACKIO_{variable}", None)
    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = True
    try:
        with redirect_stdout(StringIO()):
            yield
    finally:
        constants.HF_HUB_OFFLINE = before
