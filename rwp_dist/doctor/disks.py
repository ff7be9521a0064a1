"""Where a run writes: its run directory, the cache of shards, shared memory."""

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile

from rwp_dist.base.compiled import compiled_folder
from rwp_dist.base.disk import NETWORK, cure_of, file_system, unreachable
from rwp_dist.base.errors import ConfigError
from rwp_dist.base.files import write_bytes
from rwp_dist.base.home import kernels_folder
from rwp_dist.base.text import duration, size
from rwp_dist.base.urls import local_path
from rwp_dist.config import Settings, split_batch
from rwp_dist.data.room import (
    SHARED_MEMORY,
    batch_bytes,
    shared_bytes,
    shared_memory_left,
    why_not_shared,
)
from rwp_dist.doctor.finding import Check, Finding, from_error, ok, problem, warning
from rwp_dist.doctor.machine import Machine

LOGS_BYTES = 100e6
"""Room for logs, metrics and W&B's files of a run."""

MOST_AHEAD_S = 60.0
"""Of the clock of a disk, before it is worth a word."""


def run_directory(machine: Machine) -> Iterator[Finding]:
    """The run directory can be written to and has room for what any run leaves."""
    for error in unreachable([machine.run_dir]).values():
        yield _not_writable("run directory", machine.run_dir, "run.dir", error)
        return
    writable = _writable("run directory", machine.run_dir, "run.dir")
    yield writable
    if writable.state == "ok":
        yield from _locks_and_clock(machine.run_dir)
    yield room("room for logs", machine, LOGS_BYTES)


def room(name: str, machine: Machine, need: float) -> Finding:
    """There are ``need`` bytes left on the run directory's disk."""
    folder = _existing(machine.run_dir)
    status = os.statvfs(folder)
    free = status.f_bavail * status.f_frsize
    figures = {"free_bytes": free, "need_bytes": need}
    if not status.f_blocks:  # an object store
        return ok(name, f"{folder} does not say how much, {size(need)} needed", need_bytes=need)
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
    kind = file_system(_existing(folder))
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
    step = _step_bytes(machine) if machine.settings else 0
    prefetch = machine.settings.data.prefetch if machine.settings else 0
    need = 0
    if step:
        need = shared_bytes(
            step, prefetch=prefetch, workers=machine.workers, ranks=machine.num_ranks
        )
    free = shared_memory_left()
    figures = {"free_bytes": free, "need_bytes": need}
    why = None
    if machine.workers:
        why = why_not_shared(
            step, prefetch=prefetch, workers=machine.workers, ranks=machine.num_ranks
        )
    if why is None:
        seen = "there is enough" if free is None else f"{size(free)} free in {SHARED_MEMORY}"
        seen += f", workers need {size(need)}" if need else ""
        yield ok("shared memory", seen, **figures)
        return
    cure = (
        "give the container more (docker run --ipc=host, or --shm-size), or lower data.prefetch or "
        "data.workers (otherwise batches go through pipes, which takes longer)"
    )
    yield warning("shared memory", why, cure, **figures)


def _step_bytes(machine: Machine) -> int:
    """Bytes of the batches of a rank's step."""
    assert machine.settings is not None
    data = machine.settings.data
    try:
        split = split_batch(machine.settings, machine.world_size)
        images = split.micro_batches * split.size
    except ConfigError:  # so many ranks cannot share this batch; another number can
        images = -(-machine.settings.batch.global_ // machine.world_size)
    return batch_bytes(images, max(data.train_sizes), data.channels)


def temporary_folder(machine: Machine) -> Iterator[Finding]:
    """There is a folder for temporary files, and it is the one that was asked for."""
    name, wanted = "temporary folder", os.environ.get("TMPDIR")
    try:
        folder = tempfile.gettempdir()
    except FileNotFoundError:  # none of the usual ones either
        cure = "set TMPDIR to a folder that can be written to (docker run --tmpfs /tmp:exec)"
        yield problem(name, "no file can be made in TMPDIR, /tmp or here", cure)
        return
    if wanted and Path(wanted).absolute() != Path(folder):
        cure = "set TMPDIR to a folder that is there, has room and can be written to"
        yield warning(name, f"{wanted} (TMPDIR) is of no use, so {folder} is used", cure)
    else:
        yield ok(name, f"{folder} can be written to")


def compiled_code(machine: Machine) -> Iterator[Finding]:
    """What is compiled at a start can be kept for the next one, and executed."""
    name, folder = "compiled code", compiled_folder()
    cure = "set XDG_CACHE_HOME to a folder of yours (otherwise each start compiles for a second)"
    if folder is None:
        yield warning(name, "this user has no home folder to keep it in", cure)
        return
    if _writable(name, folder, "").state != "ok":
        yield warning(name, f"{folder} cannot be written to", cure)
    else:
        yield ok(name, f"{folder} can be written to")
    if not machine.on_gpus:
        return
    try:
        kernels = kernels_folder()
    except ConfigError as error:
        yield from_error("Triton's kernels", error)
    else:
        yield ok("Triton's kernels", f"{kernels} can be written to, and its files executed")


def _writable(name: str, wanted: Path, key: str) -> Finding:
    """Files can be made, synced and replaced there."""
    try:
        folder = _existing(wanted)
        if not folder.is_dir():
            raise NotADirectoryError(20, f"{folder} is a file")
        with TemporaryDirectory(dir=folder, prefix=".rwp-doctor-") as made:
            for content in (b"x" * 4096, b"y" * 4096):
                write_bytes(Path(made) / "file", content)
    except OSError as error:
        return _not_writable(name, wanted, key, error)
    return ok(name, f"{wanted} can be written to")


def _not_writable(name: str, wanted: Path, key: str, error: OSError) -> Finding:
    seen = f"{wanted} cannot be written to ({error.strerror or error})"
    return problem(name, seen, cure_of(error, f"set {key} to"))


def _locks_and_clock(wanted: Path) -> Iterator[Finding]:
    """Two processes cannot train in one folder; times of files there are right."""
    with TemporaryFile(dir=_existing(wanted)) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            seen = f"the disk of {wanted} has none ({error.strerror})"
            cure = (
                "start each run once, as nothing keeps out a second start on another machine, or "
            )
            yield warning("locks", seen, f"{cure}have the disk mounted with -o flock")
        ahead_s = os.fstat(file.fileno()).st_mtime - time.time()
    if abs(ahead_s) > MOST_AHEAD_S:
        way = "ahead of" if ahead_s > 0 else "behind"
        seen = f"the clock of {wanted} is {duration(abs(ahead_s))} {way} this machine's"
        cure = "have both set by NTP; until then times of files there differ from those in logs"
        yield warning("clock of the disk", seen, cure, ahead_s=ahead_s)


def _existing(folder: Path) -> Path:
    """The folder, or its nearest parent that exists."""
    folder = folder.absolute()
    return next(level for level in (folder, *folder.parents) if os.path.exists(level))  # noqa: PTH110


def _cache_folder(settings: Settings) -> Path:
    return Path(settings.data.cache_dir)


CHECKS = (
    Check("disks", "shared memory", shared_memory),
    Check("disks", "temporary folder", temporary_folder),
    Check("disks", "compiled code", compiled_code),
    Check("disks", "run directory", run_directory),
    Check("disks", "cache", cache),
)
