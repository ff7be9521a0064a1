"""A Slurm cluster, 22.05 or newer, with or without accounting."""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from launcher.backends import JobStatus, NoAnswerError, refuse, refuse_characters
from launcher.backends import slurm_queue as queue
from launcher.backends.slurm_script import options_of, render
from launcher.job import Job

SBATCH_NAMES = {"time": "TIMELIMIT", "array": "ARRAY_INX", "mem": "MEM_PER_NODE"}
"""Variables of sbatch that are not named as its options are."""

SBATCH_NEVER = {"SBATCH_COMMENT", "SBATCH_SIGNAL", "SBATCH_NO_REQUEUE", "SBATCH_OPEN_MODE"}
"""Options that the job script depends on."""

SLURM_ALWAYS = {"SLURM_CONF", "SLURM_JWT", "SLURM_CLUSTERS"}
"""They say which cluster, and who asks."""


class Slurm:
    """Slurm's own commands: sbatch, squeue, scontrol, sacct, scancel."""

    def render(self, jobs: Sequence[Job]) -> str:
        wants = jobs[0].resources
        if wants.container:
            refuse(wants, ("venv",), "a container has a Python of its own")
        else:
            refuse(wants, ("container_runtime",), "there is no --container for it")
        places = [str(jobs[0].output), str(jobs[0].code)]
        refuse_characters(places, "\\", "sbatch takes no such name for a job's output")
        if wants.container:
            places += [*(str(job.run_dir) for job in jobs), *jobs[0].data]
            refuse_characters(places, ":,\n", "--container-mounts would be cut there")
        return render(jobs)

    def command(self, jobs: Sequence[Job]) -> list[str]:
        # The token is a comment, which Slurm keeps with the job even without accounting.
        return ["sbatch", "--parsable", f"--comment={jobs[0].token}"]

    def submit(self, jobs: Sequence[Job], script: str) -> str:
        environment = _environment(os.environ, options_of(jobs))
        printed = queue.run(self.command(jobs), stdin=script, env=environment)
        # id;cluster, perhaps among lines of the cluster's own.
        known = re.findall(r"^(?:Submitted batch job )?(\d+)(?:;.*)?$", printed, re.MULTILINE)
        if not known:
            raise NoAnswerError(f"sbatch names no job: {printed!r:.200}", cure="look with squeue")
        return str(known[-1])

    def find(self, jobs: Sequence[Job]) -> list[JobStatus | None]:
        found: list[JobStatus | None] = [None] * len(jobs)
        for source in (queue.squeue, queue.scontrol, queue.sacct):
            left = [job for job, known in zip(jobs, found, strict=True) if known is None]
            if not left:
                break
            listed = list(source(left))
            found = [
                known or next(queue.matching(job, listed), None)
                for job, known in zip(jobs, found, strict=True)
            ]
        return found

    def cancel(self, jobs: Sequence[Job]) -> None:
        # The job script hands the signal to the ranks and does not requeue.
        ids = [job.full_id for job in jobs if job.id is not None]
        if ids:
            queue.run(["scancel", *ids])

    def output(self, job: Job) -> list[Path]:
        # Further attempts append to the same file.
        name = f"slurm-{job.full_id}.out" if job.id else "slurm-*.out"
        return sorted(job.output.glob(name), key=lambda path: path.stat().st_mtime)


def _environment(inherited: Mapping[str, str], options: Mapping[str, str | None]) -> dict[str, str]:
    """The environment of sbatch.

    Slurm lets SBATCH_* win over the script's header. Without those that would undo an option of
    the command line or one that the script depends on; others, such as SBATCH_PARTITION, stay.
    Without SLURM_* of a job that this runs in, which would become those of the new job.
    """
    drop = {f"SBATCH_{SBATCH_NAMES.get(o, o.upper().replace('-', '_'))}" for o in options}
    return {
        name: value
        for name, value in inherited.items()
        if name not in drop | SBATCH_NEVER
        and (not name.startswith("SLURM_") or name in SLURM_ALWAYS)
    }
