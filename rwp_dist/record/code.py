"""The code that a run computes with: this package, and what settings name as ``module:function``.

Imports no torch.
"""

import hashlib
import json
import os
import sys
from collections.abc import Iterable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

from rwp_dist.base.files import read_json
from rwp_dist.base.named import find_source, is_named
from rwp_dist.config import Settings
from rwp_dist.record.directory import RunDir
from rwp_dist.record.git import git_state

PACKAGE = Path(__file__).resolve().parents[1]
SOURCES = {".py", ".c", ".h"}
"""What is compiled or imported; notebooks, data and pictures beside it are not."""


def digest_of(settings: Settings) -> str:
    """12 hexadecimal digits that change with any source file of the package or of the user."""
    digest = hashlib.sha256()
    for top in (PACKAGE, *own_code_of([settings])):
        for path in [top] if top.is_file() else sorted(top.rglob("*")):
            if path.suffix in SOURCES and path.is_file():
                content = path.read_bytes()
                name = path.relative_to(top.parent).as_posix()
                digest.update(f"{name}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()[:12]


def own_code_of(runs: Iterable[Settings]) -> list[Path]:
    """Modules and packages of the user that settings name as ``module:function``.

    What is installed is left out: a job's Python has it too. So is a name that nothing is found
    for: the run itself will say so.
    """
    names = (text for run in runs for text in _texts(run.model_dump()) if is_named(text))
    found = (find_source(name) for name in names)
    return list(dict.fromkeys(path for path in found if path is not None))


def commit_of(run_dir: RunDir, *, dirty: bool = True) -> dict[str, Any]:
    """``commit`` and ``dirty`` of the package and, where one cannot be known, ``unknown``: why.

    A checkout says it. So does ``job.json`` of the copy that a submitted job runs, a container's
    image, and pip of what it installed from a repository. Without ``dirty``, which reads a whole
    checkout, that is None.
    """
    return _commit_of_job(run_dir) or commit_here(dirty=dirty)


def commit_here(*, dirty: bool = True) -> dict[str, Any]:
    """The same of the package as it is here, whichever run it trains."""
    return _commit_of_image() or _commit_of_install() or git_state(PACKAGE, dirty=dirty)


def _commit_of_job(run_dir: RunDir) -> dict[str, Any] | None:
    try:
        job = read_json(run_dir.job)
        git, code = job["git"], Path(job["code"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if not isinstance(git, dict) or code.resolve() != PACKAGE.parent:
        return None
    unknown = {"unknown": git["unknown"]} if git.get("unknown") else {}
    return {key: git.get(key) for key in ("commit", "dirty")} | unknown


def _commit_of_image() -> dict[str, Any] | None:
    """As the image's build was told; not that of other code, which is mounted into a container."""
    commit = os.environ.get("RWP_COMMIT", "unknown")
    if commit == "unknown" or not PACKAGE.is_relative_to(Path(sys.prefix).resolve()):
        return None
    return {"commit": commit, "dirty": None}


def _commit_of_install() -> dict[str, Any] | None:
    """As pip knows it that installed the package by ``pip install git+https://...``."""
    try:
        own = metadata.distribution("rwp-dist")
        source = json.loads(own.read_text("direct_url.json") or "{}")
    except (metadata.PackageNotFoundError, ValueError):
        return None
    if Path(str(own.locate_file(PACKAGE.name))).resolve() != PACKAGE:
        return None  # another copy of the package is imported
    commit = source.get("vcs_info", {}).get("commit_id")
    return {"commit": commit, "dirty": None} if commit else None


def version_of(package: str) -> str | None:
    """The installed version of a package; None: it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _texts(value: Any) -> Iterator[str]:
    """All strings in nested dictionaries and sequences."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from _texts(list(value.values()))
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _texts(item)
