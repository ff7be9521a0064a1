"""What a queued job will run, put where a later edit cannot change it."""

import shutil
from pathlib import Path

import launcher
import rwp_dist
from launcher.job import Job, Resources
from rwp_dist.rundir import git, write_text

PACKAGES = tuple(Path(str(package.__file__)).parent for package in (rwp_dist, launcher))
PROJECT = PACKAGES[0].parent
"""The checkout, or the folder of installed packages."""

SITE = Path("slurm") / "site.sh"
"""Where a project keeps the profile of its cluster, and the job script looks for it."""


def snapshot_code(job: Job) -> None:
    """Both packages as they lie here, the site's profile, and the changes since the commit.

    What an earlier submission left in their place goes.
    """
    fresh = job.folder / f".{job.code.name}.{job.token}"
    for package in PACKAGES:
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(package, fresh / package.name, ignore=ignored)
    profile = site(job.resources)
    if profile is not None:
        (fresh / SITE).parent.mkdir()
        shutil.copyfile(profile, fresh / SITE)
    shutil.rmtree(job.code, ignore_errors=True)
    fresh.rename(job.code)
    if job.git is not None:
        write_text(job.folder / "code.diff", git(PROJECT, "diff", "HEAD") or "")


def site(resources: Resources) -> Path | None:
    """The profile that was named, or that of the project."""
    if resources.site is not None:
        return Path(resources.site)
    return PROJECT / SITE if (PROJECT / SITE).is_file() else None
