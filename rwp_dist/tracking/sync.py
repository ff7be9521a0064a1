"""Send runs to W&B: what ``metrics.jsonl`` has and W&B lacks, of any number of attempts."""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rwp_dist.base.errors import RwpError
from rwp_dist.base.text import plural
from rwp_dist.config.load import load_settings
from rwp_dist.record.directory import RunDir, run_directories
from rwp_dist.tracking.artifacts import AT_THE_END
from rwp_dist.tracking.connection import UPLOAD_TIMEOUT_S, Connection, has_login, quiet, reset
from rwp_dist.tracking.projection import Tail, key_of
from rwp_dist.tracking.sink import first_line

SETTLE_S = 30.0
"""How long W&B's server may take to show what it was sent, in seconds."""


@dataclass(frozen=True)
class Synced:
    """What became of the records of a run."""

    sent: int
    known: int
    """Were in W&B already."""

    missing: int
    """Are not in W&B, although they were sent."""

    url: str

    def __str__(self) -> str:
        text = (
            f"{self.sent:,} sent, {self.known:,} already there, {self.sent + self.known:,} in total"
        )
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
    records = {key: record for record in Tail(run_dir.metrics).read() if (key := key_of(record))}
    summary: dict[str, Any] | None = run_dir.read_summary()
    state = str((run_dir.read_status() or {}).get("state"))
    with run_dir.sending():
        try:
            connection = Connection.connect(settings, run_dir, UPLOAD_TIMEOUT_S, threading.Event())
            known = len(records.keys() & connection.known)
            sent = connection.send(records.values())
            asked = set(settings.tracking.artifacts)
            if summary is None:
                asked -= AT_THE_END
            else:
                connection.summarize(summary)
            connection.add_artifacts(run_dir, asked)
            connection.close(state)
            missing = records.keys() - connection.history()
            until = time.monotonic() + SETTLE_S
            while missing and time.monotonic() < until:
                time.sleep(1)
                missing = records.keys() - connection.history()
        except Exception as error:
            reset()
            raise RwpError(
                f"{run_dir.path}: W&B did not take all of it ({first_line(error)})"
            ) from None
    return Synced(sent, known, len(missing), connection.url)
