"""``environment.json``: what a run depends on besides its settings."""

import os
import platform
import socket
import sys
from collections.abc import Sequence
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

from rwp_dist.base.urls import shown_tree
from rwp_dist.record.git import git_state

PACKAGES = ("torch", "deepspeed", "torchvision", "webdataset", "wandb")
"""Packages whose versions can change a run's numbers or its record."""


def environment(*, world_size: int, gpus: Sequence[str] = ()) -> dict[str, Any]:
    """The content of ``environment.json``; ``gpus`` are the names of this machine's GPUs."""
    return {
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "argv": shown_tree(sys.argv),
        "hostname": socket.gethostname(),
        "platform": platform.platform(),
        "num_cpus": os.cpu_count(),
        "gpus": list(gpus),
        "world_size": world_size,
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "git": git_state(Path(__file__).resolve().parents[2]) or _commit_of_image(),
    }


def _commit_of_image() -> dict[str, Any] | None:
    """The commit that a container image was built from, in the form of ``git_state``."""
    commit = os.environ.get("RWP_COMMIT")
    return {"commit": commit, "dirty": None} if commit else None


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
