"""Where a run writes: its run directory, the cache of shards, shared memory."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil  # type: ignore[import-untyped]

from rwp_dist.base.errors import ConfigError
from rwp_dist.config import Settings, split_batch
from rwp_dist.doctor.case import Case
from rwp_dist.doctor.finding import Finding
from rwp_dist.tracking.console import size

GROUP = "disks"

LOGS_BYTES = 100e6
"""Room for logs, metrics and W&B's files of a run."""

SHARED_MEMORY = Path("/dev/shm")

NETWORK = frozenset({"nfs", "nfs4", "cifs", "smb3", "smbfs", "ceph", "lustre", "gpfs", "beegfs"})
"""Types of file systems that lie on another machine."""


def output(case: Case) -> Iterator[Finding]:
    """The run directory can be written to and has room for what any run leaves."""
    folder = existing(case.run_dir)
    yield from _writable("run directory", folder, case.run_dir, "run.dir")
    yield _room(case, "room for logs", LOGS_BYTES)


def checkpoints(case: Case, need_bytes: float) -> Finding:
    """There is room for all checkpoints that the run keeps, and for one that is being written."""
    return _room(case, "room for checkpoints", need_bytes)


def cache(case: Case) -> Iterator[Finding]:
    """The cache of remote shards can be written to and is a disk of this machine."""
    if case.settings is None or not case.has_remote_data:
        return
    wanted = _cache_folder(case.settings)
    yield from _writable("cache", existing(wanted), wanted, "data.cache_dir")
    kind = file_system(wanted)
    if kind in NETWORK:
        yield Finding(
            GROUP,
            "cache's disk",
            "warning",
            f"{wanted} lies on a network file system ({kind}), which every node would read from",
            "Set data.cache_dir to a folder on a disk of this machine, such as $TMPDIR.",
        )


def cache_room(settings: Settings, data_bytes: float) -> Iterator[Finding]:
    """The cache holds the data set, or as much of it as the settings say.

    Args:
        settings: name the folder and its limit.
        data_bytes: of all remote shards.
    """
    limit = settings.data.cache_gb and settings.data.cache_gb * 1e9
    need = min(limit or data_bytes, data_bytes)
    wanted = _cache_folder(settings)
    have = shutil.disk_usage(existing(wanted)).free + _size_of(wanted / "shards")
    figures = {"have_bytes": have, "need_bytes": need, "data_bytes": data_bytes}
    seen = f"{size(have)} in {wanted}, {size(need)} wanted for {size(data_bytes)} of shards"
    if have >= need:
        yield Finding(GROUP, "room for the cache", "ok", seen, "", figures)
        return
    yield Finding(
        GROUP,
        "room for the cache",
        "problem" if limit else "warning",
        seen,
        f"Set data.cache_gb to {max(int(0.9 * have / 1e9), 1)}, or data.cache_dir to a larger "
        "disk; what does not fit is downloaded again in every epoch.",
        figures,
    )


def shared_memory(case: Case) -> Iterator[Finding]:
    """Workers hand their batches to ranks through shared memory."""
    if not SHARED_MEMORY.is_dir():
        return
    usage = shutil.disk_usage(SHARED_MEMORY)
    need = _batches_on_their_way(case)
    seen = f"{size(usage.free)} of {size(usage.total)} free in {SHARED_MEMORY}"
    if need <= usage.free:
        more = f", workers need {size(need)}" if need else ""
        yield Finding(GROUP, "shared memory", "ok", f"{seen}{more}")
        return
    yield Finding(
        GROUP,
        "shared memory",
        "problem",
        f"{seen}, the workers' batches need {size(need)}",
        "Give the container more (docker run --ipc=host, or --shm-size), or lower data.prefetch or "
        "data.workers.",
        {"free_bytes": usage.free, "need_bytes": need},
    )


def existing(folder: Path) -> Path:
    """The folder, or what there is of the way to it."""
    folder = folder.absolute()
    return next(level for level in (folder, *folder.parents) if level.exists())


def file_system(folder: Path) -> str:
    """Type of the file system that a folder lies on, as ``ext4``; empty if unknown."""
    path = existing(folder).resolve()
    mounts = {Path(p.mountpoint): p.fstype for p in psutil.disk_partitions(all=True)}
    return next((mounts[level] for level in (path, *path.parents) if level in mounts), "")


def _writable(name: str, folder: Path, wanted: Path, key: str) -> Iterator[Finding]:
    try:
        if not folder.is_dir():
            raise NotADirectoryError(20, f"{folder} is a file")
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".rwp-doctor-") as file:
            file.write(b"x" * 4096)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        yield Finding(
            GROUP,
            name,
            "problem",
            f"{wanted} cannot be written to ({error.strerror})",
            f"Set {key} to a folder of yours, or have this one's permissions or disk put right.",
        )
    else:
        yield Finding(GROUP, name, "ok", f"{wanted} can be written to")


def _room(case: Case, name: str, need: float) -> Finding:
    folder = existing(case.run_dir)
    status = os.statvfs(folder)
    free = status.f_bavail * status.f_frsize
    figures = {"free_bytes": free, "need_bytes": need}
    if status.f_files and not status.f_favail:
        seen = f"{folder} has no inode left, so no file can be made"
    elif free < need:
        seen = f"{size(free)} free in {folder}, {size(need)} needed"
    else:
        return Finding(GROUP, name, "ok", f"{size(free)} free, {size(need)} needed", "", figures)
    cure = "Free space there, or set run.dir to another disk."
    return Finding(GROUP, name, "problem", seen, cure, figures)


def _cache_folder(settings: Settings) -> Path:
    return Path(settings.data.cache_dir).expanduser()


def _batches_on_their_way(case: Case) -> float:
    """Bytes of all steps that workers keep ready, one more each that is being made."""
    if case.settings is None:
        return 0.0
    data = case.settings.data
    try:
        split = split_batch(case.settings, case.world_size)
        images = split.micro_batches * split.size
    except ConfigError:  # so many ranks cannot share this batch; another number can
        images = -(-case.settings.batch.global_ // case.world_size)
    step = images * (data.channels * data.image_size**2 + 12)  # uint8, label and weight
    return float(case.ranks_here * data.workers * (data.prefetch + 1) * step)


def _size_of(folder: Path) -> int:
    if not folder.is_dir():
        return 0
    return sum(entry.stat().st_size for entry in os.scandir(folder))
