"""Send runs to W&B: what ``metrics.jsonl`` has and W&B lacks, of any number of attempts."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rwp_dist.base.errors import RwpError
from rwp_dist.base.text import plural
from rwp_dist.config.load import load_settings
from rwp_dist.record.directory import RunDir, run_directories
from rwp_dist.tracking.artifacts import OF_A_FINISHED_RUN
from rwp_dist.tracking.connection import Connection, has_login, quiet, reset
from rwp_dist.tracking.projection import Tail
from rwp_dist.tracking.sink import first_line

UPLOAD_TIMEOUT_S = 3600.0
"""How long the upload of one run may take, in seconds."""


@dataclass(frozen=True)
class Synced:
    """What became of the records of a run."""

    sent: int
    there: int
    """Were in W&B already."""

    differing: int
    """Those of them that W&B has with another loss: of updates that a resume took back."""

    missing: int
    """Are not in W&B, although they were sent."""

    url: str

    def __str__(self) -> str:
        total = self.sent + self.there
        text = f"{self.sent:,} sent, {self.there:,} already there, {total:,} in total"
        if self.differing:
            text += f"; W&B keeps other numbers of {self.differing:,}, from before a resume"
        if self.missing:
            text += f"; W&B does not show {self.missing:,} of them yet"
        return f"{text}: {self.url}"


def sync_all(paths: Sequence[Path], say: Callable[[str], None]) -> None:
    """Send all runs in these folders, one after another, with a line for each.

    Raises:
        RwpError: there is no login, or no run, or W&B does not have all of them now.
    """
    runs = [RunDir(folder) for path in paths for folder in run_directories(path)]
    if not runs:
        named = ", ".join(map(str, paths))
        raise RwpError(f"There is no run in {named}", cure="name run directories")
    quiet()
    if not has_login():
        raise RwpError("There is no W&B login", cure="run `wandb login`, then this command again")
    incomplete = 0
    for run_dir in runs:
        try:
            synced = sync(run_dir)
        except RwpError as error:
            say(str(error))
            incomplete += 1
        else:
            say(f"{run_dir.path}: {synced}")
            incomplete += synced.missing > 0
    if incomplete:
        raise RwpError(
            f"W&B lacks something of {plural(incomplete, 'run')} of {len(runs):,}",
            cure="start the same command again; it goes on where this one stopped",
        )


def sync(run_dir: RunDir) -> Synced:
    """Send a run to W&B, whether it lives, has ended or was killed. Safe to repeat.

    Raises:
        RwpError: it is no run, another process sends it, or W&B cannot be reached.
    """
    if not run_dir.config.is_file():
        raise RwpError(f"{run_dir.path} holds no run that has begun", cure="name a run directory")
    settings = load_settings(run_dir.config)
    summary: dict[str, Any] | None = run_dir.read_summary()
    state = str((run_dir.read_status() or {}).get("state"))
    with run_dir.sending():
        try:
            connection = Connection.connect(settings, run_dir, UPLOAD_TIMEOUT_S, threading.Event())
            connection.send(Tail(run_dir.metrics).read())
            asked = set(settings.tracking.artifacts)
            if summary is None:
                asked -= OF_A_FINISHED_RUN
            else:
                connection.summarize(summary)
            connection.add_artifacts(run_dir, asked)
            connection.close(state)
            missing = connection.missing()
        except Exception as error:
            reset()
            raise RwpError(
                f"{run_dir.path}: W&B did not take all of it ({first_line(error)})"
            ) from None
    counts = len(connection.sent), len(connection.there), connection.differing, len(missing)
    return Synced(*counts, connection.url)
