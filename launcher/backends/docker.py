"""The Docker engine of this machine."""

import json
import os
import shlex
import socket
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from launcher.backends import REFUSED, JobStatus, LaunchError, refuse, refuse_characters
from launcher.job import Job
from launcher.keys import read_keys
from rwp_dist.base.errors import ConfigError

LABEL = "rwp.token"

STOP_S = 600
"""What a container may take for its checkpoint before the engine kills it."""

UNUSED = ("time", "partition", "account", "container_runtime", "venv", "site", "max_attempts")


class Docker:
    """``docker run``, detached."""

    def render(self, jobs: Sequence[Job]) -> str:
        """A script with one ``docker run``. Paths inside the container are those outside."""
        (job,) = jobs
        wants = job.resources
        if not wants.container:
            raise ConfigError("docker runs an image", key="--container", cure="name one")
        if wants.nodes != 1:
            raise ConfigError(
                "a Docker engine is one node",
                key="--nodes",
                cure="see docker/README.md for torchrun over several",
            )
        refuse(wants, UNUSED, "a container of this machine has no use for it")
        places = (str(job.run_dir), *job.data, *([job.cache] if job.cache else []))
        refuse_characters(places, ":", "docker's --volume would be cut there")
        # The token is in a file, so that a dry run prints the same script as a submission.
        run: list[list[str]] = [
            ["docker", "run", "--detach", "--init"],
            ["--label-file", str(job.folder / "job.labels")],
            ["--stop-timeout", str(STOP_S)],
            ["--user", f"{os.getuid()}:{os.getgid()}"],
            ["--ipc", "host", "--ulimit", "memlock=-1"],
            ["--volume", f"{job.run_dir}:{job.run_dir}"],
            *(["--volume", f"{folder}:{folder}:ro"] for folder in job.data),
            *([["--volume", f"{job.cache}:{job.cache}"]] if job.cache else []),
            ["--workdir", str(job.run_dir)],
            ["--env", f"PYTHONPATH={job.code}"],
            # By name alone: their values are in nobody's list of processes.
            ["--env", "WANDB_API_KEY", "--env", "WANDB_MODE", "--env", "RWP_WEBHOOK"],
        ]
        if wants.gpus:
            run.append(["--gpus", str(wants.gpus)])
        if wants.cpus:
            run.append(["--cpus", str(wants.cpus)])
        run += [["--env", name] for name in _keys(job)]
        run += [[f"--{option}"] for option in wants.options]
        run += [
            [wants.container],
            # The engine's own log is removed with the container.
            ["sh", "-c", 'exec "$@" >>"$0" 2>&1', str(self.output(job)[0])],
            ["rwp-launch", "run", f"--nproc={wants.ranks_per_node}", str(job.settings)],
        ]
        # The engine would make a missing folder for root alone.
        cache = f"mkdir -p {shlex.quote(job.cache)}\n" if job.cache else ""
        return f"#!/bin/sh\n{cache}exec " + " \\\n    ".join(map(shlex.join, run)) + "\n"

    def command(self, jobs: Sequence[Job]) -> list[str]:
        return ["sh", "-s"]

    def submit(self, jobs: Sequence[Job], script: str) -> str:
        (job,) = jobs
        (job.folder / "job.labels").write_text(f"{LABEL}={job.token}\n", encoding="utf-8")
        return _docker(self.command(jobs), script, _keys(job))[:12]

    def find(self, jobs: Sequence[Job]) -> list[JobStatus | None]:
        line = "{{json .}}"
        listed = _docker(
            ["docker", "ps", "--all", "--no-trunc", "--filter", f"label={LABEL}", "--format", line]
        )
        known = [json.loads(text) for text in listed.splitlines()]
        by_token = {
            text.partition("=")[2]: container
            for container in known
            for text in str(container["Labels"]).split(",")
            if text.startswith(f"{LABEL}=")
        }
        return [_found(by_token.get(job.token)) for job in jobs]

    def cancel(self, jobs: Sequence[Job]) -> None:
        """Send the signal of ``docker stop``, without waiting for the checkpoint."""
        for found in self.find(jobs):
            if found is not None and found.state != "ended":
                _docker(["docker", "kill", "--signal", "TERM", found.id])

    def output(self, job: Job) -> list[Path]:
        return [job.output / "docker.out"]


def _found(container: dict[str, str] | None) -> JobStatus | None:
    if container is None:
        return None
    state = {"running": "running", "created": "queued", "paused": "queued"}
    return JobStatus(
        container["ID"][:12],
        state.get(container["State"], "ended"),  # type: ignore[arg-type]
        socket.gethostname(),
        container.get("Status", ""),
    )


def _keys(job: Job) -> dict[str, str]:
    """Of the file of keys, which docker's own --env-file would read with quotes and line ends."""
    return read_keys(Path(job.resources.secrets)) if job.resources.secrets else {}


def _docker(
    command: list[str], script: str | None = None, keys: Mapping[str, str] | None = None
) -> str:
    env = os.environ | dict(keys or {})
    try:
        done = subprocess.run(
            command, input=script, env=env, capture_output=True, encoding="utf-8", errors="replace"
        )
    except FileNotFoundError:
        raise LaunchError("docker: there is no such program here", cure="install it") from None
    if done.returncode:
        words = done.stderr.strip().removeprefix("docker: ") or f"exit code {done.returncode}"
        raise LaunchError(f"docker refused: {words.rstrip('.')}", cure=REFUSED)
    return done.stdout.strip()
