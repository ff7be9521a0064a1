"""From settings to a queued job: check them, copy the code, hand over, write down."""

import os
import re
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from launcher.backends import JobStatus, LaunchError, NoAnswerError, backend
from launcher.job import Job, Resources, new_jobs, read_job
from launcher.limit import SAVE_S, limit_seconds, save_seconds
from launcher.snapshot import Snapshot, site, take
from launcher.undo import undone_on_failure
from rwp_dist.base.errors import ConfigError, RunDirError, RwpError
from rwp_dist.base.files import write_bytes, write_text
from rwp_dist.base.urls import scheme_of, shown
from rwp_dist.config import LIBRARIES, Settings, dump_settings, with_absolute_paths
from rwp_dist.record.code import own_code_of
from rwp_dist.record.directory import RunDir


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
    """
    in_venv = sys.prefix != sys.base_prefix
    if backend_name == "slurm" and not wants.container and wants.venv is None and in_venv:
        wants = replace(wants, venv=sys.prefix)
    settings = with_absolute_paths(settings)
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


def warnings_of(job: Job) -> Iterator[str]:
    """What of a job's resources may be wrong, and cannot be known here."""
    wants = job.resources
    if wants.venv is not None and not (Path(wants.venv) / "bin" / "activate").is_file():
        yield f"--venv: {wants.venv} is not there on this machine; nodes must have it."
    if wants.container and wants.container.startswith("/") and not Path(wants.container).exists():
        yield f"--container: {wants.container} is not there on this machine; nodes must have it."
    limit_s = limit_seconds(wants.time) if wants.time else None
    if limit_s and (left := save_seconds(limit_s)) < SAVE_S:
        yield f"--time: {wants.time} is short: ranks save and stop {left} s before it."


def faults(jobs: Sequence[Job], settings: Sequence[Settings]) -> list[RwpError]:
    """Why ``submit`` would refuse these jobs now, apart from what settings have; makes no files."""
    found: list[RwpError] = [*filter(None, (*map(_secret_in, settings), _wrong_profile(jobs[0])))]
    for job in jobs:
        if holder := RunDir(job.run_dir).holder():
            found.append(
                RunDirError(
                    f"{job.run_dir} is being trained already ({holder})",
                    key="run.dir",
                    cure="stop that, or choose another run.dir",
                )
            )
    try:
        found += refusals([job.run_dir for job in jobs], writing=False).values()
    except LaunchError as error:
        found.append(error)
    return found


def submit(jobs: Sequence[Job], settings: Sequence[Settings], code: Snapshot) -> list[Job]:
    """Submit one run, or the runs of a sweep as one array; returns the jobs with their id.

    What it wrote is removed again if it fails.

    Args:
        jobs: from ``with_code``.
        settings: of each job.
        code: from ``with_code``.

    Raises:
        ConfigError: a run directory is finished, has a job, or is none that can be written to; or
            the job script would refuse the cluster's profile.
        RunDirError: a run directory is in use, or its disk is full or fails.
        LaunchError: the backend refused.
    """
    for error in filter(None, (*map(_secret_in, settings), _wrong_profile(jobs[0]))):
        raise error
    jobs = new_jobs(jobs)
    script = backend(jobs[0].backend).render(jobs)
    with _locked(jobs), undone_on_failure(jobs[0].folder, _written(jobs)):
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
    (job,) = new_jobs([job])
    with _locked([job]), undone_on_failure(run_dir.path, _written([job])):
        return _hand_over([job], backend(job.backend).render([job]))[0]


def refusals(folders: Sequence[Path], *, writing: bool = True) -> dict[Path, ConfigError]:
    """Why run directories cannot be submitted; every backend is asked once.

    ``writing``: an id that was not known is written into ``job.json``.
    """
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
                known = job.with_id(found.id) if writing else replace(job, id=found.id)
                reasons[job.run_dir] = ConfigError(
                    f"{job.run_dir} has a job already ({name} {known.full_id}, {found.state})",
                    key="run.dir",
                    cure=f"end it with `rwp-launch cancel {shlex.quote(str(job.run_dir))}`",
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
    write_bytes(jobs[0].script, os.fsencode(script))  # names of folders may be no UTF-8
    place = backend(jobs[0].backend)
    try:
        known = place.submit(jobs, script)
    except NoAnswerError as error:
        try:
            (found, *_) = place.find(jobs)
        except LaunchError:
            raise error from None
        if found is None:
            raise
        known = found.id
    return [job.with_id(known) for job in jobs]


@contextmanager
def _locked(jobs: Sequence[Job]) -> Iterator[None]:
    """Keep others from submitting these runs or training them meanwhile.

    Raises:
        ConfigError: a run is finished, has a job already, or cannot write to its directory.
        RunDirError: a run directory is in use, or its disk is full or fails.
    """
    dirs = [RunDir(job.run_dir) for job in jobs]
    with undone_on_failure(jobs[0].folder, [one.lock for one in dirs]), ExitStack() as locks:
        for one in dirs:
            locks.enter_context(one.locked())
        for error in refusals([one.path for one in dirs]).values():
            raise error
        yield


def _written(jobs: Sequence[Job]) -> list[Path]:
    """All that a submission writes, besides the locks."""
    one = jobs[0]
    own = [path for job in jobs for path in (job.settings, RunDir(job.run_dir).job)]
    return [one.script, one.output, one.code, one.code.parent, one.folder / "job.labels", *own]


def _secret_in(settings: Settings) -> ConfigError | None:
    """The error of an address with a user, a password or a signature.

    A job's settings are a file, which keeps no secrets.
    """
    for address in _data(settings):
        if shown(address) != address:
            return ConfigError(
                f"{address}: its user, password or signature would be in the job's files",
                key="data",
                cure="put the password into ~/.netrc of the nodes, or name a function in "
                "data.opener that adds the signature",
            )
    return None


def _wrong_profile(job: Job) -> ConfigError | None:
    """The error of a profile that the job script would refuse."""
    profile = site(job.resources) if job.backend == "slurm" else None
    if profile and re.search(rb"\r$", profile.read_bytes(), re.MULTILINE):
        return ConfigError(
            f"{profile} has line ends of Windows",
            key="--site",
            cure=f"convert it, as with sed -i 's/\\r$//' {shlex.quote(str(profile))}",
        )
    return None


def _data(settings: Settings) -> tuple[str, ...]:
    return (*(settings.data.mix or (settings.data.train,)), settings.data.val)


def _local_data(settings: Settings) -> Iterator[str]:
    for path in _data(settings):
        if not scheme_of(path):
            # A pattern of files, or a folder.
            yield str(Path(path).parent if "{" in path or path.endswith(".tar") else path)
    init = settings.model.init
    if init and not init.startswith(LIBRARIES) and not scheme_of(init):
        yield init
