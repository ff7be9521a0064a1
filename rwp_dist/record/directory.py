"""The run directory: everything a run leaves behind, and the only thing reports are made from.

::

    <run>/
        config.yaml        resolved settings; ``rwp-dist train`` takes it as it is
        environment.json   versions, commit, machine and command line of the latest attempt
        metrics.jsonl      one record a line: {"kind": "train" | "eval", "time", "step", ...}
        status.json        state and step, replaced at once; what a launcher trusts
        summary.json       final numbers, written once a run is finished
        bad_samples/       what could not be read: rank-<rank>.tsv, evaluation.tsv
        attempts.tsv       one line for each attempt: when, where, from and to which step
        wandb_id           identity in W&B, the same for all attempts
        checkpoints/       what a run resumes from
        profile/           traces of a few steps, if ``profile`` is on
        lock               held by the process that trains here
        logs/              output of the job, and of the ranks in a folder for each attempt
        wandb/             W&B's own files

    what ``rwp-launch submit`` adds:
        job.json           the job that trains here, and where
        job-<token>.sh     what was submitted
        submitted.yaml     the settings that it runs
        code/<digest>/     the code that it runs, never changed; ``code.diff`` there has the
                           changes since the commit that ``job.json`` names

Imports no torch, so that a launcher can read it in no time.
"""

import errno
import fcntl
import json
import os
import platform
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import IO, Any

from rwp_dist.base.errors import RunDirError
from rwp_dist.base.files import finite as finite
from rwp_dist.base.files import write_json as write_json
from rwp_dist.base.files import write_text as write_text

PACKAGES = ("torch", "deepspeed", "torchvision", "webdataset", "wandb")
"""Packages whose versions can change a run's numbers or its record."""

ATTEMPT_COLUMNS = ("started", "state", "first_step", "last_step", "job", "nodes")
"""Of ``attempts.tsv``. A Slurm job adds those whose rank 0 could not: as ``lost``."""

LOOKING_S = 0.5
"""How long somebody may look at a lock, or write a submission down."""


def run_directories(path: Path) -> Iterator[Path]:
    """``path`` if it is one, otherwise those below it, at any depth."""
    for folder, below, _ in os.walk(path):
        if RunDir(folder).exists():
            below.clear()
            yield Path(folder)
        below.sort()


class RunDir:
    """Names, reads and writes the files of one run. Nothing is created before it is written."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.config = self.path / "config.yaml"
        self.environment = self.path / "environment.json"
        self.metrics = self.path / "metrics.jsonl"
        self.status = self.path / "status.json"
        self.summary = self.path / "summary.json"
        self.attempts = self.path / "attempts.tsv"
        self.checkpoints = self.path / "checkpoints"
        self.logs = self.path / "logs"
        self.job = self.path / "job.json"

    def create(self) -> None:
        """Make the folders.

        Raises:
            OSError: the place cannot be written to.
        """
        for folder in (self.path, self.checkpoints, self.logs):
            folder.mkdir(parents=True, exist_ok=True)

    def exists(self) -> bool:
        """Whether a run has left anything here that tells of it, or waits to begin."""
        files = (self.status, self.summary, self.config, self.metrics, self.job)
        return any(path.is_file() for path in files)

    def has_checkpoint(self) -> bool:
        """Whether there is something to resume from."""
        return self.saved_step() > 0

    def saved_step(self) -> int:
        """Updates that the newest checkpoint has; 0: there is none."""
        names = (path.stem.partition("-")[2] for path in self.checkpoints.glob("step-*.pt"))
        return max((int(name) for name in names if name.isdigit()), default=0)

    def holder(self) -> str | None:
        """Who trains here now; None if nobody does, whatever a dead process has left."""
        try:
            with (self.path / "lock").open(encoding="utf-8") as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                except BlockingIOError:
                    return file.read().strip()
        except OSError:  # no lock, or a file system without any
            pass
        return None

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep others from training here at the same time; the lock ends with the process.

        Raises:
            RunDirError: a living process trains here, or the place cannot be written to.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            file = (self.path / "lock").open("a+", encoding="utf-8")
        except OSError as error:
            raise RunDirError(
                f"run.dir: {self.path} cannot be written to ({error.strerror}); set run.dir to a "
                "folder of yours."
            ) from None
        with file:
            try:
                _lock(file)
            except OSError as error:
                if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                    yield  # a file system without locks
                    return
                file.seek(0)
                raise RunDirError(
                    f"run.dir: {self.path} is being trained already ({file.read().strip()}); stop "
                    "that, or choose another run.dir."
                ) from None
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
            file.flush()
            yield

    # --- status and summary ---

    def write_status(self, state: str, step: int, total_steps: int, **more: Any) -> None:
        """Replace ``status.json``; a reader sees the old or the new one, never a part.

        Args:
            state: ``running``, ``finished``, ``interrupted`` or ``failed``.
            step: updates done.
            total_steps: updates of the whole run.
            **more: anything JSON can hold, such as ``message``, ``exit_code``, or ``reason``:
                ``wandb`` if it was stopped there.
        """
        known = {"state": state, "step": step, "total_steps": total_steps, "time": time.time()}
        write_json(self.status, known | more)

    def write_summary(self, summary: dict[str, Any]) -> None:
        """Replace ``summary.json`` at once."""
        write_json(self.summary, summary)

    def write_environment(self, environment: dict[str, Any]) -> None:
        """Replace ``environment.json`` at once (see ``environment``)."""
        write_json(self.environment, environment)

    def write_config(self, text: str) -> None:
        """Replace ``config.yaml`` at once."""
        write_text(self.config, text)

    def read_status(self) -> dict[str, Any] | None:
        """What ``status.json`` says; None if it is missing or no JSON object."""
        return _read_json(self.status)

    def read_summary(self) -> dict[str, Any] | None:
        """What ``summary.json`` says; None if it is missing or no JSON object."""
        return _read_json(self.summary)

    def read_environment(self) -> dict[str, Any] | None:
        """What ``environment.json`` says; None if it is missing or no JSON object."""
        return _read_json(self.environment)

    # --- metrics ---

    def read_metrics(self, kind: str | None = None) -> list[dict[str, Any]]:
        """Records of ``metrics.jsonl`` in their order, of one ``kind`` or of all.

        A line that is no record is left out: a process killed while writing leaves a torn one.
        """
        records = [record for _, record in self._metric_lines()]
        return [r for r in records if kind is None or r.get("kind") == kind]

    def cut_metrics(self, last_step: int) -> int:
        """Drop what an interrupted attempt logged after the checkpoint that is now resumed.

        Args:
            last_step: the checkpoint's step; 0 starts anew and drops every record.

        Returns:
            How many lines went, torn ones included.
        """
        if not self.metrics.is_file():
            return 0
        before = self.metrics.read_bytes()
        kept = [
            line
            for line, record in self._metric_lines()
            if last_step > 0 and (record.get("step") or 0) <= last_step
        ]
        after = "".join(f"{line}\n" for line in kept)
        if after.encode() == before:
            return 0
        write_text(self.metrics, after)
        return len([line for line in before.splitlines() if line.strip()]) - len(kept)

    def _metric_lines(self) -> Iterator[tuple[str, dict[str, Any]]]:
        try:
            text = self.metrics.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return
        for line in text.split("\n"):
            try:
                record = json.loads(line)
            except ValueError:
                continue
            if isinstance(record, dict):
                yield line, record

    # --- attempts and identity ---

    def append_attempt(
        self, started: datetime, state: str, first_step: int, last_step: int
    ) -> None:
        """Add a line to ``attempts.tsv``.

        Args:
            started: when the attempt began, with its time zone; written in UTC.
            state: how it ended, as in ``write_status``.
            first_step: updates that were already done when it began.
            last_step: updates done when it ended.
        """
        self.append_to_attempts(attempt_line(started, state, first_step, last_step))

    def append_to_attempts(self, *lines: str) -> None:
        """Add lines (see ``attempt_line``); without any the file is there afterwards, too."""
        self.path.mkdir(parents=True, exist_ok=True)
        with self.attempts.open("a", encoding="utf-8") as file:
            if file.tell() == 0:
                file.write("\t".join(ATTEMPT_COLUMNS) + "\n")
            file.writelines(lines)
            file.flush()
            os.fsync(file.fileno())

    def read_attempts(self) -> list[dict[str, str]]:
        """The lines of ``attempts.tsv`` by column name; torn lines are left out."""
        try:
            lines = self.attempts.read_text(encoding="utf-8").splitlines()[1:]
        except FileNotFoundError:
            return []
        rows = [line.split("\t") for line in lines]
        width = len(ATTEMPT_COLUMNS)
        return [dict(zip(ATTEMPT_COLUMNS, row, strict=True)) for row in rows if len(row) == width]

    def wandb_id(self) -> str:
        """Identity of this run in W&B: drawn at the first call, the same ever after."""
        path = self.path / "wandb_id"
        if path.is_file() and (known := path.read_text(encoding="utf-8").strip()):
            return known
        fresh = secrets.token_hex(8)
        write_text(path, f"{fresh}\n")
        return fresh


def attempt_line(started: datetime, state: str, first_step: int, last_step: int) -> str:
    """A line of ``attempts.tsv`` about an attempt of here and now (see ``append_attempt``)."""
    when = started.astimezone(timezone.utc).isoformat(timespec="seconds")
    job, nodes = os.environ.get("RWP_ATTEMPT", "-"), os.environ.get("SLURM_JOB_NODELIST")
    fields = (when, state, first_step, last_step, job, nodes or socket.gethostname())
    return "\t".join(map(str, fields)) + "\n"


def _lock(file: IO[str]) -> None:
    """Lock a file; waits for somebody who only looked whether it is locked (``holder``)."""
    end = time.monotonic() + LOOKING_S
    while True:
        try:
            return fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > end:
                raise
            time.sleep(0.05)


def environment(
    *, world_size: int, gpus: Sequence[str] = (), argv: Sequence[str] | None = None
) -> dict[str, Any]:
    """What a run depends on beside its settings, for ``environment.json``.

    Args:
        world_size: number of ranks.
        gpus: names of the GPUs; the caller asks torch, this module does not import it.
        argv: command line; None: this process's.
    """
    return {
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "argv": list(sys.argv if argv is None else argv),
        "hostname": socket.gethostname(),
        "platform": platform.platform(),
        "num_cpus": os.cpu_count(),
        "gpus": list(gpus),
        "world_size": world_size,
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "git": git_state(Path(__file__).resolve().parents[2]) or _image_state(),
    }


def git_state(source: Path) -> dict[str, Any] | None:
    """``{"commit", "dirty"}`` of a checkout; None if ``source`` is not the top of one.

    Only the top counts: a package installed below some other checkout is not part of it.
    """
    top = git(source, "rev-parse", "--show-toplevel")
    if top is None or Path(top).resolve() != source.resolve():
        return None
    changes = git(source, "status", "--porcelain")
    return {
        "commit": git(source, "rev-parse", "--verify", "--quiet", "HEAD"),
        "dirty": None if changes is None else bool(changes),
    }


def _image_state() -> dict[str, Any] | None:
    """The commit that a container's image was built from, as ``git_state``."""
    commit = os.environ.get("RWP_COMMIT")
    return {"commit": commit, "dirty": None} if commit else None


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def git(folder: Path, *command: str) -> str | None:
    """What git prints, less the space around it; None if it fails or is not there."""
    printed = git_output(folder, *command)
    return None if printed is None else printed.decode(errors="replace").strip()


def git_output(folder: Path, *command: str) -> bytes | None:
    """What git prints, byte for byte; None if it fails or is not there."""
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *command], capture_output=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout
