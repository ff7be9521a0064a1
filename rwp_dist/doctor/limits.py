"""Limits that the system sets on processes: open files, their number, locked memory."""

import os
import resource
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil  # type: ignore[import-untyped]

from rwp_dist.doctor import cgroup
from rwp_dist.doctor.case import Case
from rwp_dist.doctor.finding import Finding
from rwp_dist.tracking.console import size

GROUP = "limits"

OPEN_SHARDS = 128
"""Local shards that a worker keeps open (``data.stream.Reading``)."""
FILES_OF_TORCH = 100
"""Files, pipes and sockets that a rank holds besides: measured, rounded up."""
THREADS_OF_RANK = 60
"""Threads of a rank: torch, gloo or NCCL, W&B's service."""
THREADS_OF_WORKER = 5

RDMA = Path("/sys/class/infiniband")


def open_files(case: Case) -> Iterator[Finding]:
    """Enough for shards, for batches on their way (each a file) and for other ranks."""
    workers, prefetch = _workers(case)
    need = FILES_OF_TORCH + OPEN_SHARDS + 3 * workers * (prefetch + 1)
    if case.world_size <= 64:  # beyond, ranks connect only to those they talk to
        need += 2 * case.world_size
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= need:
        yield Finding(GROUP, "open files", "ok", f"{_words(soft)} (ulimit -n)")
        return
    cure = f"Raise it before starting: ulimit -n {max(need, 4096)}"
    if hard != resource.RLIM_INFINITY and hard < need:
        cure += "; that needs an administrator, because the hard limit is as low"
    yield Finding(
        GROUP,
        "open files",
        "problem",
        f"{soft} may be open at once (ulimit -n), a rank needs about {need}",
        f"{cure}.",
        {"limit": soft, "need": need},
    )


def processes(case: Case) -> Iterator[Finding]:
    """Enough processes and threads for all ranks of this machine and their workers."""
    workers, _ = _workers(case)
    need = case.ranks_here * (THREADS_OF_RANK + THREADS_OF_WORKER * workers)
    soft, _ = resource.getrlimit(resource.RLIMIT_NPROC)
    rooms = {}
    if soft != resource.RLIM_INFINITY and os.geteuid() != 0:  # root is exempt
        rooms["ulimit -u"] = soft - _threads_of(os.geteuid())
    group = cgroup.threads_left()
    if group is not None:
        rooms["the container or job (pids.max)"] = group
    for what, room in rooms.items():
        if room < need:
            yield Finding(
                GROUP,
                "processes",
                "problem",
                f"{what} leaves room for {max(room, 0)} more threads, the ranks of this machine "
                f"need about {need}",
                "Raise it (ulimit -u, docker run --pids-limit=-1), or use fewer data.workers.",
                {"room": room, "need": need},
            )
            return
    seen = f"room for {min(rooms.values()):,}" if rooms else "unlimited"
    yield Finding(GROUP, "processes", "ok", seen)


def locked_memory(case: Case) -> Iterator[Finding]:
    """RDMA network cards need memory that is locked; nothing else here does."""
    soft, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    unlimited = soft == resource.RLIM_INFINITY
    cards = sorted(p.name for p in RDMA.iterdir()) if RDMA.is_dir() else []
    if not cards:
        seen = "unlimited" if unlimited else f"{size(soft)}, enough without an RDMA card"
        yield Finding(GROUP, "locked memory", "ok", seen)
    elif unlimited or soft >= 1 << 33:
        yield Finding(GROUP, "locked memory", "ok", f"{_words(soft)}, for {', '.join(cards)}")
    else:
        yield Finding(
            GROUP,
            "locked memory",
            "warning",
            f"{size(soft)} (ulimit -l), though {', '.join(cards)} wants to lock more",
            "Raise it for jobs (memlock unlimited in limits.conf or in slurmd's unit; docker run "
            "--ulimit memlock=-1), or NCCL may fail to use the card.",
        )


def _workers(case: Case) -> tuple[int, int]:
    """Workers of a rank, and steps that each keeps ready."""
    if case.settings is None:
        return 0, 0
    return case.settings.data.workers, case.settings.data.prefetch


def _words(limit: int) -> str:
    return "unlimited" if limit == resource.RLIM_INFINITY else f"{limit:,}"


def _threads_of(uid: int) -> int:
    total = 0
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.uids().real == uid:
                total += process.num_threads()
    return total
