"""The run directory: everything a run leaves behind. All reports are made from it.

::

    <run>/
        config.yaml        resolved settings; ``rwp-dist train`` takes it as it is
        identity.json      settings, data and code of the latest attempt, to compare runs by
        initial.json       what a run with ``model.init`` began from, and what it took of that
        environment.json   versions, machine and command line of the latest attempt
        metrics.jsonl      one record a line: {"kind": "train" | "eval" | "checkpoint", "step", ...}
        status.json        state and step of the latest attempt; the launcher goes by it
        summary.json       final numbers, written when a run is finished
        bad_samples/       samples that could not be read: rank-<rank>.tsv, evaluation.tsv
        attempts.tsv       one line for each attempt: when, where, from and to which step
        begun.tsv          such a line of the attempt that has begun and not ended
        wandb_id           identity in W&B, the same for all attempts
        wandb_lock         held by the process that sends this run to W&B
        checkpoints/       what a run resumes from
        measured/          of the finished network: a JSON file for each command that measured
        profile/           traces of a few steps, if ``profile`` is on
        lock               held by the process that trains here
        logs/              output of the job, and of the ranks in a folder for each attempt
                           (``attempt-1/rank-0.log``)
        wandb/             W&B's own files
        tensorboard/       TensorBoard's, if ``tracking.tensorboard`` is on

    what ``rwp-launch submit`` adds:
        job.json           the job that trains here, and where
        job-<token>.sh     what was submitted
        submitted.yaml     the settings that it runs
        code/<digest>/     the code that it runs, never changed; ``code.diff`` there has the
                           changes since the commit that ``job.json`` names

Times are ISO 8601 in UTC (``base/clock.py``).
Imports no torch, so that the launcher starts at once.
"""

import os
import secrets
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any

from rwp_dist.base import clock
from rwp_dist.base.errors import RwpError
from rwp_dist.base.files import read_json, write_json, write_text
from rwp_dist.record import attempts, lock, metrics


def run_directories(path: Path, left_out: dict[Path, str] | None = None) -> Iterator[Path]:
    """``path`` if it is a run directory, otherwise those below it, at any depth, in order of names.

    Symbolic links are followed. A folder that several paths lead to is found once, by the first of
    them. A link to a folder around ``path`` leads to nothing new.

    Args:
        path: a folder.
        left_out: gets the paths that cannot be looked into, and why.
    """
    left_out = {} if left_out is None else left_out
    known = set[tuple[int, int]]()
    with suppress(OSError, RuntimeError):  # the latter: Python 3.12 and links in a circle
        known |= {_inode(folder) for folder in path.resolve().parents}
    waiting = [path]
    while waiting:
        folder = waiting.pop()
        try:
            inode = _inode(folder)
            if inode in known:
                continue
            known.add(inode)
            if RunDir(folder).exists():
                yield folder
                continue
            with os.scandir(folder) as entries:
                below = sorted(entry.name for entry in entries if _may_lead_on(entry))
        except OSError as error:
            lost = isinstance(error, FileNotFoundError)
            left_out[folder] = "a link to nothing" if lost else error.strerror or str(error)
        else:
            waiting += [folder / name for name in reversed(below)]


def _inode(folder: Path) -> tuple[int, int]:
    """The same for a folder by whatever path."""
    found = folder.stat()
    return found.st_dev, found.st_ino


def _may_lead_on(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a folder, or a link that is none to a file."""
    try:
        return entry.is_dir() or (entry.is_symlink() and not entry.is_file())
    except OSError:  # it is named when it is opened
        return True


class RunDir:
    """Names, reads and writes the files of one run. Makes nothing before the first write.

    Every write replaces its file at once: a reader sees the old or the new one, never a part.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.config = self.path / "config.yaml"
        self.identity = self.path / "identity.json"
        self.environment = self.path / "environment.json"
        self.metrics = self.path / "metrics.jsonl"
        self.status = self.path / "status.json"
        self.summary = self.path / "summary.json"
        self.attempts = self.path / "attempts.tsv"
        self.begun = self.path / "begun.tsv"
        self.checkpoints = self.path / "checkpoints"
        self.measured = self.path / "measured"
        self.logs = self.path / "logs"
        self.job = self.path / "job.json"
        self.submitted = self.path / "submitted.yaml"
        self.lock = self.path / "lock"

    def create(self) -> None:
        """Make the folders.

        Raises:
            OSError: the place cannot be written to.
        """
        for folder in (self.path, self.checkpoints, self.logs):
            folder.mkdir(parents=True, exist_ok=True)

    def exists(self) -> bool:
        """Whether a run has begun here or waits to begin; a copy may lack some of its files."""
        files = (self.status, self.summary, self.config, self.metrics, self.job)
        more = (self.identity, self.environment, self.attempts)
        return any(path.exists() for path in (*files, *more)) or self.has_checkpoint()

    def remove_if_empty(self) -> None:
        """Remove the folder if it has nothing but a lock that nobody holds."""
        with suppress(OSError):
            if [path.name for path in self.path.iterdir()] == [self.lock.name]:
                self.lock.unlink()
                self.path.rmdir()

    def waits(self) -> bool:
        """Whether a job was submitted that has not begun, nor been cancelled."""
        job = _read_json(self.job) or {"cancelled": True}
        begun = self.status.is_file() or self.has_checkpoint()
        return not (job.get("cancelled") or begun) and self.submitted.is_file()

    def has_checkpoint(self) -> bool:
        """Whether there is a checkpoint to resume from."""
        return self.saved_step() > 0

    def saved_step(self) -> int:
        """Updates done at the newest checkpoint; 0 if there is none."""
        names = (path.stem.partition("-")[2] for path in self.checkpoints.glob("step-*.pt"))
        return max((int(name) for name in names if name.isdigit()), default=0)

    def newest_checkpoint(self) -> Path:
        """File of the newest checkpoint.

        Raises:
            RwpError: there is none yet.
        """
        step = self.saved_step()
        if not step:
            raise RwpError(
                f"{self.checkpoints}: there is no checkpoint yet",
                cure="let the run reach its first",
            )
        return self.checkpoints / f"step-{step:08d}.pt"

    def holder(self) -> str | None:
        """Who trains here now, as ``process PID on HOST``; None if nobody does."""
        return lock.holder(self.lock)

    def locked(self) -> AbstractContextManager[None]:
        """Keep other processes from training here inside a ``with`` block.

        Raises:
            ConfigError: the place is none that can be written to.
            RunDirError: a living process trains here, or the disk is full or fails.
        """
        cure = "stop that, or choose another run.dir"
        return lock.locked(self.lock, "trained", cure, key="run.dir")

    def sending(self) -> AbstractContextManager[None]:
        """Keep other processes from sending this run to W&B inside a ``with`` block.

        Raises:
            ConfigError: the place is none that can be written to.
            RunDirError: a living process sends it, or the disk is full or fails.
        """
        cure = "that process sends all of it"
        return lock.locked(self.path / "wandb_lock", "sent to W&B", cure)

    def write_status(self, state: str, step: int, total_steps: int, **more: Any) -> None:
        """Replace ``status.json``.

        Args:
            state: ``running``, ``finished``, ``interrupted`` or ``failed``.
            step: updates done.
            total_steps: updates of the whole run.
            **more: anything JSON can hold, such as ``message``, ``exit_code``, or ``reason``:
                ``wandb`` if the run was stopped there.
        """
        known = {"state": state, "step": step, "total_steps": total_steps, "time": clock.now()}
        write_json(self.status, known | more)

    def write_summary(self, summary: dict[str, Any]) -> None:
        """Replace ``summary.json``, which makes the run a finished one."""
        write_json(self.summary, summary)

    def write_measurement(self, name: str, content: dict[str, Any]) -> None:
        """Replace ``measured/<name>.json``.

        Args:
            name: of what was measured.
            content: anything JSON can hold; its ``numbers``, ``{name: number}``, are columns that
                ``rwp-dist compare`` can show.
        """
        self.measured.mkdir(exist_ok=True)
        write_json(self.measured / f"{name}.json", {"time": clock.now()} | content)

    def write_identity(self, identity: dict[str, Any]) -> None:
        """Replace ``identity.json``."""
        write_json(self.identity, identity)

    def write_environment(self, environment: dict[str, Any]) -> None:
        """Replace ``environment.json``."""
        write_json(self.environment, environment)

    def write_config(self, text: str) -> None:
        """Replace ``config.yaml``."""
        write_text(self.config, text)

    def read_status(self) -> dict[str, Any] | None:
        """Content of ``status.json``; None if it is missing or not a JSON object."""
        return _read_json(self.status)

    def read_summary(self) -> dict[str, Any] | None:
        """Content of ``summary.json``; None if it is missing or not a JSON object."""
        return _read_json(self.summary)

    def read_measurement(self, name: str) -> dict[str, Any] | None:
        """Content of ``measured/<name>.json``; None if it is missing or not a JSON object."""
        return _read_json(self.measured / f"{name}.json")

    def read_measurements(self) -> list[dict[str, Any]]:
        """Contents of all measurements that can be read, ordered by name."""
        found = map(_read_json, sorted(self.measured.glob("*.json")))
        return [content for content in found if content is not None]

    def read_identity(self) -> dict[str, Any] | None:
        """Content of ``identity.json``; None if it is missing or not a JSON object."""
        return _read_json(self.identity)

    def read_environment(self) -> dict[str, Any] | None:
        """Content of ``environment.json``; None if it is missing or not a JSON object."""
        return _read_json(self.environment)

    def read_metrics(self, kind: str | None = None) -> list[dict[str, Any]]:
        """Records of ``metrics.jsonl`` in their order, of one ``kind`` or of all."""
        return metrics.read_metrics(self.metrics, kind)

    def read_last_metrics(self, first_step: int) -> list[dict[str, Any]]:
        """Those of ``first_step`` and later steps. Reads only the end of the file."""
        return metrics.read_last_metrics(self.metrics, first_step)

    def cut_metrics(self, last_step: int) -> None:
        """Drop the records after ``last_step``. Reads only the end of the file."""
        metrics.cut_metrics(self.metrics, last_step)

    def append_attempt(
        self,
        started: str,
        state: str,
        first_step: int,
        last_step: int,
        changed: Sequence[str] = (),
    ) -> None:
        """Add an attempt to ``attempts.tsv`` (see ``attempts.attempt_line``)."""
        line = attempts.attempt_line(started, state, first_step, last_step, changed)
        self.append_to_attempts(line)

    def append_to_attempts(self, *lines: str) -> None:
        """Add lines to ``attempts.tsv``; without any, the file is there afterwards, too."""
        attempts.append_lines(self.attempts, *lines)

    def read_attempts(self) -> list[dict[str, str]]:
        """The lines of ``attempts.tsv`` by column name."""
        return attempts.read_attempts(self.attempts)

    def write_begun(self, started: str) -> None:
        """Replace ``begun.tsv``: an attempt begins."""
        step = self.saved_step()
        line = attempts.attempt_line(started, "running", step, step)
        write_text(self.begun, attempts.begun_text(line))

    def read_begun(self) -> dict[str, str] | None:
        """The attempt that has begun and has no line in ``attempts.tsv`` yet, by column name."""
        for begun in attempts.read_attempts(self.begun):
            known = self.read_attempts()
            jobs = {line["job"] for line in known} - {"-"}
            if begun["job"] not in jobs and begun["started"] not in {k["started"] for k in known}:
                return begun
        return None

    def is_in_wandb(self) -> bool:
        """Whether the run has been sent there, or was about to be."""
        return (self.path / "wandb_id").is_file()

    def wandb_id(self, given: str | None = None) -> str:
        """Identity of this run in W&B: given or drawn at the first call, then always the same."""
        path = self.path / "wandb_id"
        if path.is_file() and (known := path.read_text(encoding="utf-8").strip()):
            return known
        fresh = given or secrets.token_hex(8)
        write_text(path, f"{fresh}\n")
        return fresh


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        value = read_json(path)
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None
