"""Limits of the control groups that a container or a Slurm job puts this process into."""

import math
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")


def threads_left() -> int | None:
    """Threads that the tightest group still allows; None: no limit."""
    rooms = []
    for folder in _groups("pids"):
        with suppress(OSError, ValueError):  # no such file, or "max"
            rooms.append(_number(folder / "pids.max") - _number(folder / "pids.current"))
    return min(rooms, default=None)


def memory_left() -> int | None:
    """Bytes that the tightest group still allows; None: no limit.

    Cached files do not count as used, because the kernel drops them when memory is short. Both
    versions of control groups have the same numbers under other names.
    """
    names = {
        "memory.max": ("memory.current", "inactive_file"),
        "memory.limit_in_bytes": ("memory.usage_in_bytes", "total_inactive_file"),
    }
    rooms = []
    for folder in _groups("memory"):
        for limit, (used, droppable) in names.items():
            with suppress(OSError, ValueError, KeyError):
                lines = (folder / "memory.stat").read_text("utf-8").splitlines()
                stat = dict(line.split(" ", 1) for line in lines)
                held = _number(folder / used) - int(stat[droppable])
                rooms.append(_number(folder / limit) - held)
    return min(rooms, default=None)


def cores() -> int:
    """CPU cores that this process may keep busy: of those that it may run on, what groups allow."""
    known = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    allowed = [float(known or 1)]
    for folder in _groups("cpu"):
        with suppress(OSError, ValueError):  # no such file, or "max"
            quota, period = (folder / "cpu.max").read_text("utf-8").split()
            allowed.append(int(quota) / int(period))
        with suppress(OSError, ValueError):
            quota_us = _number(folder / "cpu.cfs_quota_us")
            if quota_us > 0:
                allowed.append(quota_us / _number(folder / "cpu.cfs_period_us"))
    return max(1, math.floor(min(allowed)))


def _groups(controller: str) -> Iterator[Path]:
    """Folders of this process's group and of those around it, in either version's tree."""
    try:
        lines = MEMBERSHIP.read_text("utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        root = ROOT / controller if controllers else ROOT
        folder = root / path.strip("/")
        while folder != root:
            yield folder
            folder = folder.parent
        yield root


def _number(path: Path) -> int:
    return int(path.read_text("utf-8"))
