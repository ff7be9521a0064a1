"""Limits that the system sets on processes: open files, threads, locked memory."""

import os
import resource
from collections.abc import Iterator
from pathlib import Path

import psutil  # type: ignore[import-untyped]

from rwp_dist.base.text import size
from rwp_dist.data.room import FILES_OF_RANK
from rwp_dist.doctor.finding import Check, Finding, ok, problem, warning
from rwp_dist.doctor.machine import Machine
from rwp_dist.process import cgroup

THREADS_OF_RANK = 60
"""Threads of a rank: torch, gloo or NCCL, W&B's service."""

THREADS_OF_WORKER = 5

RDMA = Path("/sys/class/infiniband")


def open_files(machine: Machine) -> Iterator[Finding]:
    """Enough for a rank, its workers and other ranks; workers open fewer shards if they must."""
    need = FILES_OF_RANK + 3 * machine.workers
    if machine.world_size <= 64:  # beyond, ranks connect only to those they talk to
        need += 2 * machine.world_size
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= need:
        yield ok("open files", f"{_limit(soft)} (ulimit -n)")
        return
    cure = f"raise it before starting: ulimit -n {max(need, 4096)}"
    if hard != resource.RLIM_INFINITY and hard < need:
        cure += " (the hard limit is as low, so an administrator has to)"
    seen = f"{soft} may be open at once (ulimit -n), a rank needs about {need}"
    yield problem("open files", seen, cure, limit=soft, need=need)


def threads(machine: Machine) -> Iterator[Finding]:
    """The container or job allows the threads of all ranks of this machine and their workers."""
    workers = machine.workers if machine.settings else 0
    need = machine.num_ranks * (THREADS_OF_RANK + THREADS_OF_WORKER * workers)
    room = _threads_left()
    if room is None or room >= need:
        yield ok("threads", "unlimited" if room is None else f"room for {room:,}")
        return
    seen = f"room for {max(room, 0)} more, the ranks of this machine need about {need}"
    cure = (
        "raise the limit (ulimit -u; pids.max; docker run --pids-limit=-1), or use fewer "
        "data.workers"
    )
    yield problem("threads", seen, cure, room=room, need=need)


def _threads_left() -> int | None:
    """How many more the group of this process and its user may have; None: any number."""
    rooms = [cgroup.threads_left()]
    soft, _ = resource.getrlimit(resource.RLIMIT_NPROC)
    if soft != resource.RLIM_INFINITY and os.geteuid() != 0:
        mine = psutil.Process().uids().real
        users = psutil.process_iter(["uids", "num_threads"])
        theirs = (p.info for p in users if p.info["uids"] and p.info["uids"].real == mine)
        rooms.append(soft - sum(info["num_threads"] or 0 for info in theirs))
    return min((room for room in rooms if room is not None), default=None)


def locked_memory(machine: Machine) -> Iterator[Finding]:
    """RDMA network cards need memory that is locked; nothing else here does."""
    soft, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    cards = ", ".join(sorted(p.name for p in RDMA.iterdir())) if RDMA.is_dir() else ""
    if not cards or soft == resource.RLIM_INFINITY or soft >= 1 << 33:
        yield ok("locked memory", f"enough for {cards or 'a machine without an RDMA card'}")
    else:
        seen = f"{size(soft)} (ulimit -l), though {cards} locks more"
        cure = (
            "raise it for jobs, or NCCL may fail to use the card (memlock unlimited in limits.conf "
            "or slurmd's unit; docker run --ulimit memlock=-1)"
        )
        yield warning("locked memory", seen, cure)


def _limit(number: int) -> str:
    return "unlimited" if number == resource.RLIM_INFINITY else f"{number:,}"


CHECKS = (
    Check("limits", "open files", open_files),
    Check("limits", "threads", threads),
    Check("limits", "locked memory", locked_memory),
)
