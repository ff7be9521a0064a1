"""A job: one run handed to a backend, as ``job.json`` in its run directory keeps it.

It is written twice: with a token before the backend is asked, and with the backend's id after. A
crash in between loses nothing, because the backend knows the token and finds the job by it.
"""

import json
import secrets
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from rwp_dist.base.files import write_json
from rwp_dist.record.directory import RunDir

SETTINGS_NAME = "submitted.yaml"
"""Settings as they were at submission; ``config.yaml`` is written once the run has begun."""


@dataclass(frozen=True)
class Resources:
    """What a job asks for. What is None is left to the job script."""

    nodes: int = 1
    gpus: int = 8
    """GPUs of each node; 0 trains on CPUs."""

    ranks_per_node: int = 8
    cpus: int | None = None
    """CPU cores of each node."""

    time: str | None = None
    """Time limit, as the backend writes it."""

    partition: str | None = None
    account: str | None = None
    container: str | None = None
    """Image that the ranks run in."""

    container_runtime: str | None = None
    venv: str | None = None
    """Virtual environment that the job activates."""

    site: str | None = None
    """Profile of a cluster that the job sources: modules, NCCL, scratch. It goes with the code."""

    secrets: str | None = None
    """File with keys such as WANDB_API_KEY, which nobody else may read."""

    max_attempts: int | None = None
    parallel: int | None = None
    """Runs of a sweep at the same time. None: as many as there is room for."""

    options: tuple[str, ...] = ()
    """Further options of the backend's command, ``name=value``."""

    @property
    def world_size(self) -> int:
        """Ranks of all nodes."""
        return self.nodes * self.ranks_per_node


@dataclass(frozen=True)
class Job:
    """One run as a backend knows it."""

    run_dir: Path
    name: str
    backend: str
    resources: Resources = Resources()
    folder: Path = Path()
    """Where script, code and output are: the run directory, or that of a whole sweep."""

    code: Path = Path()
    """The code that it runs. Nothing is ever written there again (see ``Snapshot``)."""

    task: int | None = None
    """Its number in a sweep's array."""

    source: tuple[str, ...] = ()
    """Configuration and overrides as a person gave them: to be read, not to be run."""

    data: tuple[str, ...] = ()
    """Local folders that it reads."""

    cache: str | None = None
    """Folder of each node for shards that are not local; None: all are."""

    token: str = field(default_factory=lambda: secrets.token_hex(8))
    id: str | None = None
    """What the backend calls it (an array's tasks share one); None: not known yet."""

    submitted: str = ""
    cancelled: bool = False
    git: dict[str, Any] | None = None
    """The code's checkout (see ``Snapshot.git``)."""

    @property
    def settings(self) -> Path:
        """The settings that it runs, whatever happens to the file that they came from."""
        return self.run_dir / SETTINGS_NAME

    @property
    def script(self) -> Path:
        """What was handed to the backend; each submission has its own."""
        return self.folder / f"job-{self.token}.sh"

    @property
    def output(self) -> Path:
        """Folder of what the job prints."""
        return self.folder / "logs"

    @property
    def full_id(self) -> str:
        """The id with the task's number: ``17``, ``17_3``."""
        return str(self.id) if self.task is None else f"{self.id}_{self.task}"

    def write(self) -> None:
        """Replace ``job.json`` at once."""
        known = asdict(self)
        known |= {key: str(known[key]) for key in ("folder", "code")}
        del known["run_dir"]  # it is where the file lies, also after a move
        write_json(self.run_dir / "job.json", known)

    def with_id(self, known: str) -> "Job":
        """The same job with its id, written down."""
        job = replace(self, id=known)
        job.write()
        return job


def new_jobs(jobs: Sequence[Job]) -> list[Job]:
    """The same jobs as one submission of now, with a token of their own."""
    token = secrets.token_hex(8)
    now = datetime.now(timezone.utc).isoformat(timespec="seconds")
    return [replace(job, token=token, submitted=now, id=None, cancelled=False) for job in jobs]


def read_job(run_dir: RunDir) -> Job | None:
    """The job of a run directory; None if it was never handed to a backend."""
    try:
        known = json.loads((run_dir.path / "job.json").read_text(encoding="utf-8"))
        resources = known["resources"]
        known["resources"] = Resources(**resources | {"options": tuple(resources["options"])})
        known |= {key: tuple(known[key]) for key in ("source", "data")}
        known |= {key: Path(known[key]) for key in ("folder", "code")}
        # A job has another working directory: what it is told by a path counts from the root.
        return Job(run_dir=run_dir.path.absolute(), **known)
    except (OSError, ValueError, KeyError, TypeError):
        return None
