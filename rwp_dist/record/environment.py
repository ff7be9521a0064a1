"""``environment.json``: what a run depends on besides its settings."""

import os
import platform
import socket
import sys
from collections.abc import Sequence
from typing import Any

from rwp_dist.base import clock
from rwp_dist.base.urls import shown_tree
from rwp_dist.record.code import version_of

PACKAGES = ("torch", "deepspeed", "torchvision", "webdataset", "wandb")
"""Packages whose versions can change a run's numbers or its record."""


def environment(
    *, world_size: int, gpus: Sequence[str] = (), git: dict[str, Any] | None = None
) -> dict[str, Any]:
    """The content of ``environment.json``.

    Args:
        world_size: number of ranks.
        gpus: names of this machine's GPUs.
        git: ``code.commit_of``.
    """
    return {
        "time": clock.now(),
        "argv": shown_tree(sys.argv),
        "hostname": socket.gethostname(),
        "platform": platform.platform(),
        "num_cpus": os.cpu_count(),
        "gpus": list(gpus),
        "world_size": world_size,
        "python": platform.python_version(),
        "packages": {name: version_of(name) for name in PACKAGES},
        "git": git,
    }
