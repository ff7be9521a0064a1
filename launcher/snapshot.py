"""The code that a queued job will run, copied to where a later edit cannot change it."""

import hashlib
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import launcher
import rwp_dist
from launcher.job import Resources
from rwp_dist.base.errors import ConfigError
from rwp_dist.record.code import commit_here
from rwp_dist.record.git import STATUS, GitError, git_output

PACKAGES = tuple(Path(str(package.__file__)).parent for package in (rwp_dist, launcher))
PROJECT = PACKAGES[0].parent
"""The checkout, or the folder of installed packages."""

SITE = Path("slurm") / "site.sh"
"""Where a project keeps the profile of its cluster, and the job script looks for it."""

DIFF = (
    *("diff", "--binary", "--no-ext-diff", "--no-textconv", "--no-color"),
    *("--src-prefix=a/", "--dst-prefix=b/", "HEAD"),
)
"""Arguments for a diff that ``git apply`` takes, whatever the user's configuration says."""

MAX_BYTES = 64 << 20
"""Most bytes of one package: more is data that lies in its folder by mistake."""


@dataclass(frozen=True)
class Snapshot:
    """Packages as they are at one moment, the site's profile, and ``code.diff``."""

    files: dict[str, bytes]
    """Contents by path."""

    git: dict[str, Any]
    """``commit``, ``dirty``, ``untracked`` (files and folders that the diff does not have), and
    ``unknown``: why something of that is not known."""

    @property
    def name(self) -> str:
        """A digest of the contents: equal code has an equal name, other code another one."""
        digest = hashlib.sha256()
        for path, content in sorted(self.files.items()):
            digest.update(f"{path}\0{len(content)}\0".encode() + content)
        return digest.hexdigest()[:16]

    def write(self, folder: Path) -> None:
        """Write all files, or none; a folder that is there already is not touched."""
        if folder.is_dir():
            return
        fresh = folder.with_name(f".{folder.name}.part")
        shutil.rmtree(fresh, ignore_errors=True)  # of a submission that was killed
        try:
            for path, content in self.files.items():
                (fresh / path).parent.mkdir(parents=True, exist_ok=True)
                (fresh / path).write_bytes(content)
            fresh.rename(folder)
        except OSError:  # the disk is full
            shutil.rmtree(fresh, ignore_errors=True)
            raise


def take(resources: Resources, own_code: Sequence[Path] = ()) -> Snapshot:
    """Read the code as it is now.

    Args:
        resources: of the job.
        own_code: the user's modules and packages (see ``record/code.py``), beside this project's.

    Raises:
        ConfigError: a package is too large to be only code.
    """
    files = {
        str(path.relative_to(top.parent)): content
        for top in (*PACKAGES, *own_code)
        for path, content in _contents(top)
    }
    profile = site(resources)
    if profile is not None:
        files[str(SITE)] = profile.read_bytes()
    git = commit_here()
    if git["dirty"] is not None:
        try:
            listed = git_output(PROJECT, *STATUS).decode(errors="replace").split("\0")
            git["untracked"] = [name[3:] for name in listed if name.startswith("?? ")]
            if diff := git_output(PROJECT, *DIFF):
                files["code.diff"] = diff
        except GitError as error:
            git["unknown"] = str(error)
    return Snapshot(files, git)


def site(resources: Resources) -> Path | None:
    """The profile that was named, or that of the project."""
    if resources.site is not None:
        return Path(resources.site)
    return PROJECT / SITE if (PROJECT / SITE).is_file() else None


def _contents(top: Path) -> Iterator[tuple[Path, bytes]]:
    """Files of a module or a package, without hidden ones and compiled Python."""
    paths = [top] if top.is_file() else sorted(top.rglob("*"))
    total = 0
    for path in paths:
        parts = path.relative_to(top.parent).parts
        if not path.is_file() or any(p == "__pycache__" or p.startswith(".") for p in parts):
            continue
        total += path.stat().st_size
        if total > MAX_BYTES:
            raise ConfigError(
                f"{top} has more than {MAX_BYTES >> 20} MiB, too much to be copied with a job",
                cure="move what is not code to another folder",
            )
        yield path, path.read_bytes()
