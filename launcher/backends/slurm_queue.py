"""What Slurm knows of jobs: ``squeue``, then ``scontrol``, then ``sacct`` where it answers."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

from launcher.backends import REFUSED, JobStatus, LaunchError, NoAnswerError
from launcher.job import Job

QUEUED = {"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SUSPENDED"}
QUEUED |= {"SPECIAL_EXIT", "RESV_DEL_HOLD", "STOPPED"}
RUNNING = {"RUNNING", "COMPLETING", "SIGNALING", "STAGE_OUT", "RESIZING"}

PATIENCE_S = 120.0
"""How long a program of Slurm's may take. Each gives up by itself before, unless a network does not
answer at all."""

CURES = (
    ("invalid account", "name yours with --account (sacctmgr show associations lists them)"),
    ("account", "name yours with --account"),
    ("invalid partition", "choose one with --partition (sinfo lists them)"),
    ("no partition", "choose one with --partition (sinfo lists them)"),
    ("partition", "choose another with --partition (sinfo lists them)"),
    ("invalid qos", "name yours with --option qos=NAME"),
    ("generic resource", "ask for GPUs as this cluster names them: --option gres=gpu:8"),
    ("gpus-per-node", "ask for GPUs as this cluster names them: --option gres=gpu:8"),
    ("gres", "ask for GPUs as this cluster names them: --option gres=gpu:8"),
    ("time limit", "give a limit that the partition allows with --time (sinfo -o '%P %l')"),
    ("memory specification", "say how much each node has with --option mem=64G"),
    ("node count", "give --nodes as the partition allows them"),
    ("node configuration", "ask for what its nodes have: --gpus, --cpus, --nodes or --partition"),
    ("requeue", "leave the option out"),
)
"""What a refusal of sbatch says, in lower case, and what to do; the first that fits counts."""


@dataclass(frozen=True)
class Listed:
    """One entry of a list of jobs."""

    id: str
    """Number of the job, or of the whole array."""

    task: int | None
    tasks: str
    """Several tasks of an array that still wait, as ``0-3``; empty: the entry is one job."""

    comment: str
    """Holds the token of a job from here."""

    states: set[str]
    nodes: str
    reason: str = ""
    """Why it waits."""

    exit_code: str = ""
    """``65:0`` or, after signal 9, ``0:9``."""

    @property
    def state(self) -> Literal["queued", "running", "ended"]:
        """One of the three states that all backends have."""
        if self.states & QUEUED:
            return "queued"
        return "running" if self.states & RUNNING else "ended"

    @property
    def why(self) -> str:
        """Why it waits, or how it ended: ``FAILED, exit code 65`` or ``FAILED, signal 9``."""
        if self.state == "queued":
            return self.reason
        status, _, number = self.exit_code.partition(":")
        more = f", exit code {status}" if status not in ("", "0") else ""
        more += f", signal {number}" if number not in ("", "0") else ""
        return " ".join(sorted(self.states)) + more


def matching(job: Job, listed: Sequence[Listed]) -> Iterator[JobStatus]:
    """What is known of a job: entries of its own task before those of several waiting tasks."""
    # A cluster's plugins may add to the comment, or drop it.
    own = [entry for entry in listed if job.token in entry.comment]
    own = own or [entry for entry in listed if entry.id == job.id and not entry.comment]
    if job.task is not None:
        several = [entry for entry in own if entry.tasks]
        own = [entry for entry in own if entry.task == job.task and not entry.tasks] + several
    for entry in own:
        yield JobStatus(entry.id, entry.state, entry.nodes, entry.why)


def squeue(jobs: Sequence[Job]) -> Iterator[Listed]:
    """All of this user's jobs in the queue; nothing where Slurm has no plugins for JSON."""
    try:
        listed = json.loads(run(["squeue", "--me", "--json"])).get("jobs", [])
    except ValueError:
        return
    except LaunchError as error:
        if not re.search("json|serializer", error.problem, re.IGNORECASE):
            raise
        return
    for job in listed:
        states = job["job_state"]
        yield Listed(
            id=str(_number(job.get("array_job_id")) or _number(job["job_id"])),
            task=_number(job.get("array_task_id")),
            tasks=job.get("array_task_string") or "",
            comment=job.get("comment") or "",
            states={states} if isinstance(states, str) else set(states),
            nodes=job.get("nodes") or "",
            reason=job.get("state_reason") or "",
        )


def scontrol(jobs: Sequence[Job]) -> Iterator[Listed]:
    """The same from ``scontrol``, which knows ended jobs for some minutes more."""
    if shutil.which("scontrol") is None:  # in a container there may be squeue alone
        return
    for line in run(["scontrol", "--oneliner", "show", "jobs"]).splitlines():
        words = dict(re.findall(r"(\w+)=(\S*)", line))
        comment = re.search(r" Comment=(.*?)(?= \w+=|$)", line)
        if "JobId" not in words:
            continue
        task = words.get("ArrayTaskId", "")
        yield Listed(
            id=str(words.get("ArrayJobId", words["JobId"])),
            task=int(task) if task.isdigit() else None,
            tasks="" if task.isdigit() else task,
            comment=comment[1] if comment else "",
            states={words["JobState"]},
            nodes="" if words.get("NodeList") == "(null)" else words.get("NodeList", ""),
            reason=words.get("Reason", ""),
            exit_code=words.get("ExitCode", ""),
        )


def sacct(jobs: Sequence[Job]) -> Iterator[Listed]:
    """What the accounting database knows of these jobs; nothing where there is no database."""
    ids = sorted({job.id for job in jobs if job.id is not None})
    for line in _accounts(",".join(ids)).splitlines() if ids else ():
        number, state, code, nodes, comment = line.split("|", 4)
        job, _, task = number.partition("_")
        yield Listed(
            id=job,
            task=int(task) if task.isdigit() else None,
            tasks="" if task.isdigit() else task,
            comment=comment,
            states={state.partition(" ")[0]},  # CANCELLED by 1000
            nodes="" if nodes == "None assigned" else nodes,
            exit_code=code,
        )


@lru_cache(maxsize=1)  # what has ended stays as it is, and `status --watch` asks again and again
def _accounts(ids: str) -> str:
    fields = "JobID,State,ExitCode,NodeList,Comment"
    command = ["sacct", "--allocations", "--noheader", "--parsable2", f"--format={fields}"]
    try:
        return run([*command, f"--jobs={ids}"])
    except LaunchError:
        return ""


def _number(value: Any) -> int | None:
    """A number of Slurm's JSON, which newer versions wrap: ``{"set": true, "number": 3}``."""
    if isinstance(value, dict):
        return int(value["number"]) if value.get("set", True) else None
    return None if value is None else int(value)


def run(command: list[str], stdin: str | None = None, env: dict[str, str] | None = None) -> str:
    """Run a program of Slurm's; returns what it prints.

    Raises:
        LaunchError: it is not here, or it failed.
    """
    try:
        done = subprocess.run(
            command,
            input=stdin,
            env=env,
            capture_output=True,
            encoding="utf-8",
            errors="surrogateescape",  # names of folders in the script may be no UTF-8
            timeout=PATIENCE_S,
        )
    except subprocess.TimeoutExpired:
        raise NoAnswerError(
            f"{command[0]} has not answered within {PATIENCE_S:.0f} s", cure="try again later"
        ) from None
    except FileNotFoundError:
        raise LaunchError(
            f"{command[0]}: there is no such program here",
            cure="log in to a node of the cluster, or choose another --backend",
        ) from None
    if done.returncode:
        said = done.stderr.strip() or done.stdout.strip() or f"exit code {done.returncode}"
        lines = [re.sub(rf"^{command[0]}: (error: )?", "", line) for line in said.splitlines()]
        words = "; ".join(line.strip().rstrip(".") for line in lines if line.strip())
        # The controller may have done what it was asked, and only its answer was lost.
        kind = NoAnswerError if "timed out" in words.lower() else LaunchError
        cures = (cure for part, cure in CURES if part in words.lower())
        cure = next(cures, REFUSED) if command[0] == "sbatch" else REFUSED
        raise kind(f"{command[0]} refused: {words}", cure=cure)
    return done.stdout
