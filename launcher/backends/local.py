"""This machine: a run in the background, which a signal stops."""

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import psutil  # type: ignore[import-untyped]

from launcher.backends import Found, refuse
from launcher.job import Job
from rwp_dist.base.errors import ConfigError

TOKEN = "RWP_JOB"
"""Environment variable by which a job's processes are found."""

UNUSED: tuple[str, ...] = (
    "cpus",
    "time",
    "partition",
    "account",
    "container",
    "container_runtime",
    "venv",
)
UNUSED += ("site", "secrets", "max_attempts", "options")


class Local:
    """``rwp-launch run`` without a terminal."""

    def render(self, jobs: Sequence[Job]) -> str:
        """A script that becomes ``rwp-launch run``."""
        (job,) = jobs
        if job.resources.nodes != 1:
            raise ConfigError("--nodes: this machine is one node; choose another --backend.")
        refuse(job.resources, UNUSED, "a run on this machine has no use for it")
        code = "from launcher.cli import main; main()"
        nproc = f"--nproc={job.resources.ranks_per_node}"
        run = [sys.executable, "-c", code, "run", nproc, str(job.settings)]
        # Python looks for packages there first, for the launcher's and for the ranks'.
        there = f"cd {shlex.quote(str(job.code))} || exit"
        return f"#!/bin/bash\n{there}\nexec {shlex.join(run)}\n"

    def command(self, jobs: Sequence[Job]) -> list[str]:
        """A shell of its own session, so that it outlives this terminal."""
        return ["bash", "-s"]

    def submit(self, jobs: Sequence[Job], script: str) -> str:
        """Start it; returns the process's number."""
        (job,) = jobs
        with self.output(job)[0].open("ab") as output:
            process = subprocess.Popen(
                self.command(jobs),
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=os.environ | {TOKEN: job.token},
                start_new_session=True,
            )
        assert process.stdin is not None
        with process.stdin:
            process.stdin.write(script.encode())
        return str(process.pid)

    def find(self, jobs: Sequence[Job]) -> list[Found | None]:
        """Processes with the job's token in their environment, the oldest being the job."""
        wanted = {job.token for job in jobs}
        living: dict[str, int] = {}
        for process in sorted(psutil.process_iter(), key=lambda p: p.pid):
            with suppress(psutil.Error):
                token = process.environ().get(TOKEN)
                if token in wanted and process.status() != psutil.STATUS_ZOMBIE:
                    living.setdefault(token, process.pid)
        return [
            Found(str(living[job.token]), "running") if job.token in living else None
            for job in jobs
        ]

    def cancel(self, jobs: Sequence[Job]) -> None:
        """As Ctrl-C would."""
        for found in self.find(jobs):
            if found is not None:
                with suppress(ProcessLookupError):
                    os.kill(int(found.id), signal.SIGINT)

    def output(self, job: Job) -> list[Path]:
        """One file for all of them."""
        return [job.output / "local.out"]
