"""This machine: ``rwp-launch run`` in the background."""

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import psutil  # type: ignore[import-untyped]

from launcher.backends import JobStatus, refuse
from launcher.job import Job, Resources
from rwp_dist.base.errors import ConfigError
from rwp_dist.process import launchers

TOKEN = "RWP_JOB"
"""Environment variable by which a job's processes are found."""

USED = ("nodes", "gpus", "ranks_per_node")
UNUSED = [name for name in Resources.__dataclass_fields__ if name not in USED]


class Local:
    """A process without a terminal."""

    def render(self, jobs: Sequence[Job]) -> str:
        (job,) = jobs
        if job.resources.nodes != 1:
            raise ConfigError(
                "this machine is one node", key="--nodes", cure="choose another --backend"
            )
        refuse(job.resources, UNUSED, "a run on this machine has no use for it")
        nproc = f"--nproc={job.resources.ranks_per_node}"
        run = [sys.executable, "-m", "launcher", "run", nproc, str(job.settings)]
        # Python imports both packages from the working directory first.
        there = f"cd {shlex.quote(str(job.code))} || exit"
        return f"#!/bin/bash\n{there}\nexec {shlex.join(run)}\n"

    def command(self, jobs: Sequence[Job]) -> list[str]:
        return ["bash", "-s"]

    def submit(self, jobs: Sequence[Job], script: str) -> str:
        (job,) = jobs
        with self.output(job)[0].open("ab") as output:
            process = subprocess.Popen(
                self.command(jobs),
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=launchers.without_tasks(os.environ) | {TOKEN: job.token},
                start_new_session=True,  # it outlives this terminal
            )
        assert process.stdin is not None
        with process.stdin:
            process.stdin.write(os.fsencode(script))
        return str(process.pid)

    def find(self, jobs: Sequence[Job]) -> list[JobStatus | None]:
        """The oldest process with the job's token in its environment."""
        wanted = {job.token for job in jobs}
        living: dict[str, int] = {}
        for process in sorted(psutil.process_iter(), key=lambda p: p.pid):
            with suppress(psutil.Error):
                token = process.environ().get(TOKEN)
                if token in wanted and process.status() != psutil.STATUS_ZOMBIE:
                    living.setdefault(token, process.pid)
        return [
            JobStatus(str(living[job.token]), "running") if job.token in living else None
            for job in jobs
        ]

    def cancel(self, jobs: Sequence[Job]) -> None:
        for found in self.find(jobs):
            if found is not None:
                with suppress(ProcessLookupError):
                    os.kill(int(found.id), signal.SIGINT)

    def output(self, job: Job) -> list[Path]:
        return [job.output / "local.out"]
