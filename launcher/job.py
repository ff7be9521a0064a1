"""A job: one run that was handed to a backend, and its ``job.json`` in the run directory.

The file is written twice: with a token before the job is submitted, and with the backend's id
afterwards. If the launcher dies in between, the backend can still find the job by its token.
"""

import secrets
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from rwp_dist.base import clock
from rwp_dist.base.files import read_json, write_json
from rwp_dist.record.directory import RunDir

STATES = (
    *("queued", "starting", "running", "stopping", "finished", "interrupted", "failed"),
    *("cancelled", "unsubmitted", "lost", "unknown"),
)
"""What a run's state may be (``status.Run.state`` says what they mean)."""


@dataclass(frozen=True)
class Resources:
    """What a job asks for. None: the job script's own value."""

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
    """The cluster's profile, which the job sources: modules, NCCL, scratch. Copied as well."""

    secrets: str | None = None
    """File with keys such as WANDB_API_KEY; only its owner may read it."""

    max_attempts: int | None = None
    parallel: int | None = None
    """How many runs of a sweep at the same time. None: no limit."""

    options: tuple[str, ...] = ()
    """Further options of the backend's command, ``name=value``."""

    @property
    def world_size(self) -> int:
        """Number of ranks on all nodes."""
        return self.nodes * self.ranks_per_node


@dataclass(frozen=True)
class Job:
    """One run that was, or will be, submitted."""

    run_dir: Path
    name: str
    backend: str
    resources: Resources = Resources()
    folder: Path = Path()
    """Folder of script, code and output: the run directory, or the sweep's folder."""

    code: Path = Path()
    """Folder of the code that it runs, which never changes (see ``Snapshot``)."""

    task: int | None = None
    """Its number in a sweep's array."""

    source: tuple[str, ...] = ()
    """Configuration and overrides as they were given, for people to read."""

    data: tuple[str, ...] = ()
    """Local folders that the run reads."""

    cache: str | None = None
    """Folder on each node for shards that are not local; None: all are local."""

    token: str = field(default_factory=lambda: secrets.token_hex(8))
    id: str | None = None
    """The backend's name for it (tasks of an array share one); None: not known yet."""

    submitted: str = ""
    cancelled: bool = False
    git: dict[str, Any] | None = None
    """What is known of the code's checkout (see ``Snapshot.git``)."""

    @property
    def settings(self) -> Path:
        """File of the settings that it runs; later edits of the configuration do not matter."""
        return RunDir(self.run_dir).submitted

    @property
    def script(self) -> Path:
        """File of the script that was submitted; each submission has its own."""
        return self.folder / f"job-{self.token}.sh"

    @property
    def output(self) -> Path:
        """Folder of the job's output."""
        return self.folder / "logs"

    @property
    def full_id(self) -> str:
        """The id with the task's number: ``17``, ``17_3``."""
        return str(self.id) if self.task is None else f"{self.id}_{self.task}"

    def write(self) -> None:
        """Replace ``job.json``."""
        known = asdict(self)
        known |= {key: str(known[key]) for key in ("folder", "code")}
        del known["run_dir"]  # the folder of the file, even after it was moved
        write_json(self.run_dir / "job.json", known)

    def with_id(self, known: str) -> "Job":
        """The same job with its id; writes ``job.json``."""
        job = replace(self, id=known)
        job.write()
        return job


def new_jobs(jobs: Sequence[Job]) -> list[Job]:
    """The same jobs as a new submission, with a new token and the present time."""
    token = secrets.token_hex(8)
    return [
        replace(job, token=token, submitted=clock.now(), id=None, cancelled=False) for job in jobs
    ]


def read_job(run_dir: RunDir) -> Job | None:
    """The job of a run directory; None if it was never submitted, or the file is unreadable."""
    try:
        known = read_json(run_dir.path / "job.json")
        resources = known["resources"]
        known["resources"] = Resources(**resources | {"options": tuple(resources["options"])})
        known |= {key: tuple(known[key]) for key in ("source", "data")}
        known |= {key: Path(known[key]) for key in ("folder", "code")}
        # A job has another working directory, so its paths are absolute.
        return Job(run_dir=run_dir.path.absolute(), **known)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
