"""Send runs to W&B: what ``metrics.jsonl`` has and W&B lacks, of any number of attempts."""

import os
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rwp_dist.base.errors import RwpError
from rwp_dist.base.text import plural
from rwp_dist.config.load import load_settings
from rwp_dist.record.directory import RunDir, run_directories
from rwp_dist.tracking.artifacts import OF_A_FINISHED_RUN
from rwp_dist.tracking.connection import (
    LOGIN_CURE,
    Connection,
    has_login,
    quiet,
    reset,
    why_of,
)
from rwp_dist.tracking.projection import Tail

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
    os.environ.pop("WANDB_MODE", None)  # offline is for runs that train
    quiet()
    runs = find_runs(paths, say)
    if not has_login():
        raise RwpError("There is no W&B login", cure=LOGIN_CURE)
    incomplete = 0
    for run_dir in runs:
        try:
            synced = sync(run_dir)
        except RwpError as error:
            say(str(error))
            incomplete += 1
        else:
            living = "; it still trains: sync again when it has ended" if run_dir.holder() else ""
            say(f"{run_dir.path}: {synced}{living}")
            incomplete += synced.missing > 0
    if incomplete:
        raise RwpError(
            f"W&B lacks something of {plural(incomplete, 'run')} of {len(runs):,}",
            cure="start the same command again when what is said above is mended",
        )


def find_runs(paths: Sequence[Path], say: Callable[[str], None]) -> list[RunDir]:
    """The runs in these folders, each once. What is left out of a folder is said.

    Raises:
        RwpError: a folder is missing, or there is no run in it.
    """
    found: dict[Path, RunDir] = {}
    for path in paths:
        if not path.is_dir():
            raise RwpError(f"{path}: there is no such folder", cure="name run directories")
        left_out: dict[Path, str] = {}
        folders = list(run_directories(path, left_out))
        for folder, why in left_out.items():
            say(f"{folder}: left out, because it cannot be looked into ({why})")
        if not folders:
            raise RwpError(f"{path}: there is no run in it", cure="name run directories")
        for folder in folders:
            run = RunDir(folder)
            if folder != path and (why := reason_to_leave_out(run)):
                say(f"{folder}: left out, because {why}")
            else:
                found.setdefault(folder.resolve(), run)
    return list(found.values())


def reason_to_leave_out(run_dir: RunDir) -> str:
    """Why a run that nobody has named is not sent; empty if it is."""
    if next(Tail(run_dir.metrics).read(), None) is None:
        return "it has no record yet"
    with suppress(RwpError):
        if load_settings(run_dir.config).tracking.wandb == "off":
            return "tracking.wandb is off; name it itself to send it"
    return ""


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
                f"{run_dir.path}: W&B did not take all of it ({why_of(error)})",
                cure="start the same command again; it goes on where this one stopped",
            ) from None
    counts = len(connection.sent), len(connection.there), connection.differing, len(missing)
    return Synced(*counts, connection.url)
