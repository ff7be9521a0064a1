"""The state of runs, from their directories and from the backend that runs them."""

import os
import re
import signal
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from launcher.backends import JobStatus, LaunchError, backend
from launcher.job import Job, read_job
from launcher.submit import locate
from rwp_dist.base import clock
from rwp_dist.base.errors import RwpError
from rwp_dist.base.files import parse_json
from rwp_dist.base.text import DASH, duration, visible, whole
from rwp_dist.base.text import table as columns
from rwp_dist.record.directory import RunDir, run_directories

TAIL_BYTES = 1 << 16
"""Read from the end of ``metrics.jsonl``: some hundred records."""

HEADS = ("run", "state", "step", "images/s", "top-1 %", "left", "attempts", "nodes")


@dataclass(frozen=True)
class Run:
    """A run directory, its job if it has one, and what the backend knows of that."""

    directory: RunDir
    job: Job | None
    found: JobStatus | None
    state: str
    """queued, starting, running, stopping (cancelled, but not gone yet), finished, interrupted,
    failed, cancelled, unsubmitted (the backend refused it), lost (its process or job is gone and
    did not say why), or unknown (its backend cannot be asked from here)."""

    @property
    def living(self) -> bool:
        """Whether it still runs, or will."""
        return self.state in ("queued", "starting", "running", "stopping")


def collect(
    paths: Sequence[Path], left_out: dict[Path, str] | None = None
) -> tuple[list[Run], list[LaunchError]]:
    """Runs below the paths, each once, and an error for each backend that could not be asked.

    Args:
        paths: run directories, or folders that have some at any depth.
        left_out: gets the paths that cannot be looked into, and why.

    Raises:
        RwpError: a path does not exist.
    """
    folders: dict[Path, RunDir] = {}
    for path in paths:
        if not path.is_dir():
            raise RwpError(f"{path}: there is no such folder", cure="name run directories")
        for folder in run_directories(path, left_out):
            folders.setdefault(folder.resolve(), RunDir(folder))
    jobs = {key: job for key, run_dir in folders.items() if (job := read_job(run_dir))}
    found: dict[Path, JobStatus | None] = {}
    troubles = []
    for name in dict.fromkeys(job.backend for job in jobs.values()):
        own = {key: job for key, job in jobs.items() if job.backend == name}
        try:
            found |= dict(zip(own, locate(list(own.values())), strict=True))
        except LaunchError as error:
            problem = f"What {name} says is not known: {error.problem}"
            troubles.append(LaunchError(problem, cure=error.cure))
    runs = []
    for key, run_dir in folders.items():
        job, known = read_job(run_dir), found.get(key)
        if job and not job.cancelled and known and known.reason.startswith("CANCELLED"):
            job = replace(job, cancelled=True)  # by scancel; Slurm forgets that in some minutes
            job.write()
        state = state_of(run_dir, job, known, asked=job is None or key in found)
        runs.append(Run(run_dir, job, known, state))
    return runs, troubles


def state_of(run_dir: RunDir, job: Job | None, found: JobStatus | None, asked: bool) -> str:
    """The state of a run (see ``Run.state``).

    Args:
        run_dir: of the run.
        job: its job, if it has one.
        found: what the backend knows of the job.
        asked: whether the backend could be asked.
    """
    word = str((run_dir.read_status() or {}).get("state", ""))
    if word == "finished":
        return word
    if found is not None and found.state == "queued":
        return "queued"
    cancelled = job is not None and job.cancelled
    if (found is not None and found.state == "running") or run_dir.holder() is not None:
        return "stopping" if cancelled else "running" if word == "running" else "starting"
    if not asked and word in ("", "running"):
        return "unknown"
    if cancelled:
        return "cancelled"
    if job is not None and job.id is None:
        return "unsubmitted"
    return word if word not in ("", "running") else "lost"


def stop(runs: Sequence[Run]) -> None:
    """Have runs save a checkpoint and end for good; one call for all jobs of a backend.

    Jobs are marked as cancelled after their backend has accepted, so that a refused call can be
    repeated. Do not give runs that are stopping: a second signal ends them without a checkpoint.

    Raises:
        LaunchError: a backend refused.
        RwpError: a run was started by hand on another machine.
    """
    jobs = [run.job for run in runs if run.job is not None and run.found is not None]
    for name in dict.fromkeys(job.backend for job in jobs):
        own = [job for job in jobs if job.backend == name]
        backend(name).cancel(own)
        for job in own:
            replace(job, cancelled=True).write()
    for run in runs:
        if run.found is None:
            _stop_holder(run.directory)


def _stop_holder(run_dir: RunDir) -> None:
    """Send Ctrl-C's signal to a run that was started by hand."""
    holder = run_dir.holder() or ""
    match = re.fullmatch(r"process (\d+) on (\S+)", holder)
    if not match or match[2] != socket.gethostname():
        raise RwpError(f"{run_dir.path} is trained by {holder}", cure="press Ctrl-C there")
    os.kill(int(match[1]), signal.SIGINT)


def table(runs: Sequence[Run]) -> str:
    """One line for each run, named by its path below the folder that all of them share."""
    parents = [run.directory.path.absolute().parent for run in runs]
    top = os.path.commonpath(parents) if parents else ""
    rows = [_cells(run, top) for run in runs]
    lines = columns([HEADS, *rows], num_left=2, num_heads=1)
    changed = [run for run in runs if _changed(run)]
    if changed:
        lines.append("* went on with other code, data or ranks: its attempts.tsv says which")
    return "\n".join(lines)


def _changed(run: Run) -> bool:
    """Whether an attempt had something otherwise than the one before."""
    return any(attempt["changed"] != "-" for attempt in run.directory.read_attempts())


def _cells(run: Run, top: str) -> list[str]:
    status = run.directory.read_status() or {}
    train, evaluated = _newest(run.directory.metrics)
    running = run.state == "running"
    step, total = status.get("step"), status.get("total_steps")
    if running and train.get("step", 0) > (step or 0):
        step = train["step"]
    left = train.get("eta_s") if running else None
    if left is not None:
        left = max(1.0, left - (time.time() - clock.seconds(train["time"])))
    top1 = evaluated.get("top1")
    speed = train.get("images_per_s") if running else None
    begun = running or run.directory.read_begun() is not None
    attempts = len(run.directory.read_attempts()) + begun
    return [
        visible(str(run.directory.path.absolute().relative_to(top))),
        run.state,
        f"{whole(step)} of {whole(total)}" if total else DASH,
        whole(speed),
        DASH if top1 is None else f"{top1:.1f}",
        duration(left),
        f"{attempts}{'*' if _changed(run) else ''}",
        _nodes(run),
    ]


def _nodes(run: Run) -> str:
    """Where a run is; for one that is queued or lost, the backend's reason."""
    if run.found is not None and run.state in ("queued", "lost") and run.found.reason:
        return " ".join(filter(None, (run.found.nodes, f"({run.found.reason})")))
    if run.found is not None and run.found.nodes:
        return run.found.nodes
    attempts = run.directory.read_attempts()
    if attempts and not run.living:
        return attempts[-1]["nodes"]
    machine = (run.directory.read_environment() or {}).get("hostname")
    return str(machine or DASH)


def _newest(metrics: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The last train and the last eval record."""
    newest: dict[str, dict[str, Any]] = {"train": {}, "eval": {}}
    try:
        with metrics.open("rb") as file:
            file.seek(max(0, metrics.stat().st_size - TAIL_BYTES))
            lines = file.read().splitlines()
    except OSError:
        lines = []
    for line in lines:
        try:
            record = parse_json(line)
        except ValueError:
            continue  # the file's beginning was cut off, or a torn last line
        if isinstance(record, dict) and record.get("kind") in newest:
            newest[record["kind"]] = record
    return newest["train"], newest["eval"]
