"""What a queued job will run, put where a later edit cannot change it."""

import hashlib
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import launcher
import rwp_dist
from launcher.job import Resources
from rwp_dist.record.git import git_output, git_state

PACKAGES = tuple(Path(str(package.__file__)).parent for package in (rwp_dist, launcher))
PROJECT = PACKAGES[0].parent
"""The checkout, or the folder of installed packages."""

SITE = Path("slurm") / "site.sh"
"""Where a project keeps the profile of its cluster, and the job script looks for it."""


@dataclass(frozen=True)
class Snapshot:
    """Both packages as they are at one moment, the site's profile, and ``code.diff``."""

    files: dict[str, bytes]
    """Contents by path."""

    git: dict[str, Any] | None
    """``commit``, ``dirty`` and ``untracked`` (files and folders that the diff does not have) of
    the checkout; ``diff``: why there is none, if git failed. None: it is not in a checkout."""

    @property
    def name(self) -> str:
        """A digest of the contents: other code never has the same name, equal code has."""
        digest = hashlib.sha256()
        for path, content in sorted(self.files.items()):
            digest.update(f"{path}\0{len(content)}\0".encode() + content)
        return digest.hexdigest()[:16]

    def write(self, folder: Path) -> None:
        """Put it there as a whole; if it is there already, nothing is touched."""
        if folder.is_dir():
            return
        fresh = folder.with_name(f".{folder.name}.part")
        shutil.rmtree(fresh, ignore_errors=True)  # of a submission that was killed
        for path, content in self.files.items():
            (fresh / path).parent.mkdir(parents=True, exist_ok=True)
            (fresh / path).write_bytes(content)
        fresh.rename(folder)


def take(resources: Resources) -> Snapshot:
    """The code as it lies here now."""
    files = {
        str(path.relative_to(package.parent)): path.read_bytes()
        for package in PACKAGES
        for path in package.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    profile = site(resources)
    if profile is not None:
        files[str(SITE)] = profile.read_bytes()
    git = git_state(PROJECT)
    if git is not None:
        listed = git_output(PROJECT, "status", "--porcelain", "-z") or b""
        names = listed.decode(errors="replace").split("\0")
        git["untracked"] = [name[3:] for name in names if name.startswith("?? ")]
        diff = git_output(PROJECT, "diff", "--binary", "--no-ext-diff", "--no-color", "HEAD")
        if diff is None:
            git["diff"] = "git diff failed: the changes since the commit are not known"
        elif diff:
            files["code.diff"] = diff
    return Snapshot(files, git)


def site(resources: Resources) -> Path | None:
    """The profile that was named, or that of the project."""
    if resources.site is not None:
        return Path(resources.site)
    return PROJECT / SITE if (PROJECT / SITE).is_file() else None
