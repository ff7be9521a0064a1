"""Where a run writes: its run directory, the cache of shards, shared memory."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil  # type: ignore[import-untyped]

from rwp_dist.base.errors import ConfigError
from rwp_dist.base.text import size
from rwp_dist.base.urls import local_path
from rwp_dist.config import Settings, split_batch
from rwp_dist.doctor.finding import Check, Finding, ok, problem, warning
from rwp_dist.doctor.machine import Machine

LOGS_BYTES = 100e6
"""Room for logs, metrics and W&B's files of a run."""

SHARED_MEMORY = Path("/dev/shm")

NETWORK = frozenset({"nfs", "nfs4", "cifs", "smb3", "smbfs", "ceph", "lustre", "gpfs", "beegfs"})
"""Types of file systems that lie on another machine."""


def run_directory(machine: Machine) -> Iterator[Finding]:
    """The run directory can be written to and has room for what any run leaves."""
    yield _writable("run directory", machine.run_dir, "run.dir")
    yield room("room for logs", machine, LOGS_BYTES)


def room(name: str, machine: Machine, need: float) -> Finding:
    """There are ``need`` bytes left on the run directory's disk."""
    folder = _existing(machine.run_dir)
    status = os.statvfs(folder)
    free = status.f_bavail * status.f_frsize
    figures = {"free_bytes": free, "need_bytes": need}
    if status.f_files and not status.f_favail:
        seen = f"{folder} has no inode left, so no file can be made"
    elif free < need:
        seen = f"{size(free)} free in {folder}, {size(need)} needed"
    else:
        return ok(name, f"{size(free)} free, {size(need)} needed", **figures)
    return problem(name, seen, "free space there, or set run.dir to another disk", **figures)


def cache(machine: Machine) -> Iterator[Finding]:
    """The cache of remote shards can be written to and is a disk of this machine."""
    if machine.settings is None:
        return
    data = machine.settings.data
    if all(local_path(source) is not None for source in (*data.mix, data.train, data.val)):
        return
    folder = _cache_folder(machine.settings)
    yield _writable("cache", folder, "data.cache_dir")
    kind = _file_system(folder)
    if kind in NETWORK:
        seen = f"{folder} lies on a network file system ({kind}), which every node would read from"
        cure = "set data.cache_dir to a folder on a disk of this machine, such as $TMPDIR"
        yield warning("cache's disk", seen, cure)


def cache_room(settings: Settings, data_bytes: float) -> Finding:
    """The cache holds the ``data_bytes`` of all remote shards, or as much as the settings say."""
    limit = settings.data.cache_gb and settings.data.cache_gb * 1e9
    need = min(limit or data_bytes, data_bytes)
    folder = _cache_folder(settings)
    held = sum(e.stat().st_size for e in folder.glob("shards/*"))
    have = shutil.disk_usage(_existing(folder)).free + held
    figures = {"have_bytes": have, "need_bytes": need, "data_bytes": data_bytes}
    seen = f"{size(have)} in {folder}, {size(need)} wanted for {size(data_bytes)} of shards"
    if have >= need:
        return ok("room for the cache", seen, **figures)
    cure = (
        f"set data.cache_gb to {max(int(0.9 * have / 1e9), 1)}, or data.cache_dir to a larger disk "
        "(what does not fit is downloaded again in every epoch)"
    )
    return (problem if limit else warning)("room for the cache", seen, cure, **figures)


def shared_memory(machine: Machine) -> Iterator[Finding]:
    """Workers hand their batches to ranks through shared memory."""
    if not SHARED_MEMORY.is_dir():
        return
    usage = shutil.disk_usage(SHARED_MEMORY)
    need = _batches_on_their_way(machine) if machine.settings else 0
    figures = {"free_bytes": usage.free, "need_bytes": need}
    seen = f"{size(usage.free)} of {size(usage.total)} free in {SHARED_MEMORY}"
    if need:
        seen += f", workers need {size(need)}"
    if need <= usage.free:
        yield ok("shared memory", seen, **figures)
        return
    cure = (
        "give the container more (docker run --ipc=host, or --shm-size), or lower data.prefetch or "
        "data.workers"
    )
    yield problem("shared memory", seen, cure, **figures)


def _batches_on_their_way(machine: Machine) -> int:
    """Bytes of all steps that workers keep ready, one more each that is being made."""
    assert machine.settings is not None
    data = machine.settings.data
    try:
        split = split_batch(machine.settings, machine.world_size)
        images = split.micro_batches * split.size
    except ConfigError:  # so many ranks cannot share this batch; another number can
        images = -(-machine.settings.batch.global_ // machine.world_size)
    step = images * (data.channels * data.image_size**2 + 12)  # uint8, label and weight
    return machine.num_ranks * data.workers * (data.prefetch + 1) * step


def _writable(name: str, wanted: Path, key: str) -> Finding:
    folder = _existing(wanted)
    try:
        if not folder.is_dir():
            raise NotADirectoryError(20, f"{folder} is a file")
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".rwp-doctor-") as file:
            file.write(b"x" * 4096)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        cure = f"set {key} to a folder of yours, or have this one's permissions or disk put right"
        return problem(name, f"{wanted} cannot be written to ({error.strerror})", cure)
    return ok(name, f"{wanted} can be written to")


def _existing(folder: Path) -> Path:
    """The folder, or its nearest parent that exists."""
    folder = folder.absolute()
    return next(level for level in (folder, *folder.parents) if level.exists())


def _file_system(folder: Path) -> str:
    """Type of the file system that a folder lies on, such as ``ext4``; empty if unknown."""
    path = _existing(folder).resolve()
    mounts = {Path(p.mountpoint): p.fstype for p in psutil.disk_partitions(all=True)}
    return next((mounts[level] for level in (path, *path.parents) if level in mounts), "")


def _cache_folder(settings: Settings) -> Path:
    return Path(settings.data.cache_dir).expanduser()


CHECKS = (
    Check("disks", "shared memory", shared_memory),
    Check("disks", "run directory", run_directory),
    Check("disks", "cache", cache),
)
