"""From settings to a queued job: check them, copy the code, hand over, write down."""

import stat
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from launcher.backends import JobStatus, backend
from launcher.job import Job, Resources, new_jobs, read_job
from launcher.snapshot import Snapshot, own_code_of, take
from rwp_dist.base.errors import ConfigError
from rwp_dist.base.files import write_text
from rwp_dist.base.urls import scheme_of, shown
from rwp_dist.config import Settings, dump_settings, split_batch
from rwp_dist.record.directory import RunDir
from rwp_dist.record.resume import changed_settings


def plan(
    settings: Settings,
    wants: Resources,
    backend_name: str,
    source: Sequence[str],
    folder: Path | None = None,
) -> tuple[Job, Settings]:
    """The job of a run, and its settings with absolute paths.

    Args:
        settings: of the run.
        wants: nodes, ranks and other resources.
        backend_name: where the job will run.
        source: configuration and overrides as they were given.
        folder: of the sweep, if the run is part of one.

    Raises:
        ConfigError: the ranks cannot share the batch, a file is missing, or others may read the
            secrets.
    """
    split_batch(settings, wants.world_size)
    for file, option in ((wants.secrets, "--secrets"), (wants.site, "--site")):
        if file is not None and not Path(file).is_file():
            cure = f"name one, or leave {option} out"
            raise ConfigError(f"{file} is no file", key=option, cure=cure)
    if wants.secrets and stat.S_IMODE(Path(wants.secrets).stat().st_mode) & 0o077:
        why = f"others may read {wants.secrets}"
        raise ConfigError(why, key="--secrets", cure="chmod 600 it")
    in_venv = sys.prefix != sys.base_prefix
    if backend_name == "slurm" and not wants.container and wants.venv is None and in_venv:
        wants = replace(wants, venv=sys.prefix)
    settings = _absolute(settings)
    run_dir = Path(str(settings.run.dir))
    job = Job(
        run_dir=run_dir,
        name=str(settings.run.name),
        backend=backend_name,
        resources=wants,
        folder=folder or run_dir,
        source=tuple(source),
        data=tuple(dict.fromkeys(_local_data(settings))),
        cache=str(settings.data.cache_dir) if any(map(scheme_of, _data(settings))) else None,
    )
    return job, settings


def with_code(jobs: Sequence[Job], settings: Sequence[Settings]) -> tuple[list[Job], Snapshot]:
    """The jobs of one submission with the folder of their code, and that code as it is now.

    Raises:
        ConfigError: the user's own package is too large.
    """
    code = take(jobs[0].resources, own_code_of(settings))
    place = jobs[0].folder / "code" / code.name
    return [replace(job, code=place, git=code.git) for job in jobs], code


def submit(jobs: Sequence[Job], settings: Sequence[Settings], code: Snapshot) -> list[Job]:
    """Submit one run, or the runs of a sweep as one array; returns the jobs with their id.

    Args:
        jobs: from ``with_code``.
        settings: of each job.
        code: from ``with_code``.

    Raises:
        ConfigError: a run directory is in use, finished, or holds a run with other settings.
        LaunchError: the backend refused.
    """
    for own in settings:
        _refuse_secrets(own)
    jobs = new_jobs(jobs)
    script = backend(jobs[0].backend).render(jobs)
    with ExitStack() as locks:
        for job, own in zip(jobs, settings, strict=True):
            run_dir = RunDir(job.run_dir)
            locks.enter_context(run_dir.locked())
            changed_settings(run_dir, own, job.resources.world_size)
        for error in refusals([job.run_dir for job in jobs]).values():
            raise error
        for job, own in zip(jobs, settings, strict=True):
            write_text(job.settings, dump_settings(own))
        code.write(jobs[0].code)
        return _hand_over(jobs, script)


def resubmit(run_dir: RunDir) -> Job:
    """Submit a run again with the same settings, code and resources.

    Raises:
        ConfigError: the run was never submitted, is finished, or still has a job.
        LaunchError: the backend refused.
    """
    job = read_job(run_dir)
    if job is None and not run_dir.job.is_file():
        raise ConfigError(
            f"{run_dir.path} was not submitted", cure="start the command again that began it"
        )
    if job is None or not (job.code / "launcher" / "__main__.py").is_file():
        raise ConfigError(
            f"{run_dir.path} was submitted by another version of rwp-launch",
            cure="submit the run anew: it goes on from its newest checkpoint",
        )
    with run_dir.locked():
        for error in refusals([run_dir.path]).values():
            raise error
        (job,) = new_jobs([job])
        return _hand_over([job], backend(job.backend).render([job]))[0]


def refusals(folders: Sequence[Path]) -> dict[Path, ConfigError]:
    """Why run directories cannot be submitted; every backend is asked once."""
    reasons: dict[Path, ConfigError] = {}
    jobs: dict[str, list[Job]] = {}
    for folder in folders:
        if RunDir(folder).summary.is_file():
            cure = "choose another run.dir, or remove that folder"
            reasons[folder] = ConfigError(f"{folder} is finished", key="run.dir", cure=cure)
        elif job := read_job(RunDir(folder)):
            jobs.setdefault(job.backend, []).append(job)
    for name, own in jobs.items():
        for job, found in zip(own, backend(name).find(own), strict=True):
            if found is not None and found.state != "ended":
                known = job.with_id(found.id)
                reasons[job.run_dir] = ConfigError(
                    f"{job.run_dir} has a job already ({name} {known.full_id}, {found.state})",
                    key="run.dir",
                    cure=f"end it with `rwp-launch cancel {job.run_dir}`",
                )
    return reasons


def locate(jobs: Sequence[Job]) -> list[JobStatus | None]:
    """What the backends know of the jobs; writes down ids that were not."""
    found: dict[Path, JobStatus | None] = {}
    for name in dict.fromkeys(job.backend for job in jobs):
        own = [job for job in jobs if job.backend == name]
        found |= {job.run_dir: f for job, f in zip(own, backend(name).find(own), strict=True)}
    for job in jobs:
        known = found[job.run_dir]
        if known is not None and job.id is None:
            job.with_id(known.id)
    return [found[job.run_dir] for job in jobs]


def _hand_over(jobs: Sequence[Job], script: str) -> list[Job]:
    """Write the token, submit, write the id: a crash in between loses no job."""
    for job in jobs:
        job.output.mkdir(parents=True, exist_ok=True)
        job.write()
    write_text(jobs[0].script, script)
    known = backend(jobs[0].backend).submit(jobs, script)
    return [job.with_id(known) for job in jobs]


def _absolute(settings: Settings) -> Settings:
    """The settings with absolute local paths."""
    data = settings.data
    paths = {
        "train": _full(data.train),
        "val": _full(data.val),
        "cache_dir": str(Path(data.cache_dir).expanduser().absolute()),
        "mix": {_full(path): weight for path, weight in data.mix.items()},
    }
    run = settings.run.model_copy(update={"dir": _full(str(settings.run.dir))})
    return settings.model_copy(update={"run": run, "data": data.model_copy(update=paths)})


def _refuse_secrets(settings: Settings) -> None:
    """A job's settings are a file, which keeps no secrets.

    Raises:
        ConfigError: the address of data has a user, a password or a signature.
    """
    for address in _data(settings):
        if shown(address) != address:
            raise ConfigError(
                f"{address}: its user, password or signature would be in the job's files",
                key="data",
                cure="put the password into ~/.netrc of the nodes, or name a function in "
                "data.opener that adds the signature",
            )


def _full(path: str) -> str:
    return path if scheme_of(path) else str(Path(path).absolute())


def _data(settings: Settings) -> tuple[str, ...]:
    return (*(settings.data.mix or (settings.data.train,)), settings.data.val)


def _local_data(settings: Settings) -> Iterator[str]:
    for path in _data(settings):
        if not scheme_of(path):
            # A pattern of files, or a folder.
            yield str(Path(path).parent if "{" in path or path.endswith(".tar") else path)
