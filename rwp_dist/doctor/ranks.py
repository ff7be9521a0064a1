"""All ranks of a job examine their machines and then the network between them."""

import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from typing import cast

import torch
import torch.distributed as dist

from rwp_dist.base.text import size
from rwp_dist.config import Settings
from rwp_dist.doctor.examine import examine
from rwp_dist.doctor.finding import Check, Finding, ok, run_check
from rwp_dist.doctor.machine import Machine
from rwp_dist.process import torchrun
from rwp_dist.process.group import gathered
from rwp_dist.process.meeting import meet, waiting

JOIN_S = 120.0
"""How long ranks wait for each other to join: some are slow to import torch."""

EXAMINE_S = 1800.0
"""How long the others wait for the machine with the slowest disks."""

ALL_REDUCE_S = 120.0

CPU_BYTES = 16 << 20
GPU_BYTES = 256 << 20


def examine_together(settings: Settings | None) -> list[Finding]:
    """All findings of rank 0's machine, and those of other machines that are not ok.

    Every rank calls it, and one rank of each machine examines it. If the ranks do not reach each
    other, that is the finding, and the rank's own machine is examined all the same.
    """
    machine = Machine(settings)
    found = run_check(Check("network", "ranks", _join, JOIN_S), machine)
    here = list(examine(settings)) if torchrun.local_rank() == 0 else []
    for check in (
        Check("network", "all machines", _wait, EXAMINE_S),
        Check("network", "all-reduce", _all_reduce, ALL_REDUCE_S),
    ):
        if any(finding.state != "ok" for finding in found):
            break  # other ranks may hang in it: no further collective can be trusted
        found += run_check(check, machine)
    if any(finding.state != "ok" for finding in found):
        return [*here, *map(_failed, found)]
    return merge(gathered([*here, *found]))


def merge(every: list[list[Finding]]) -> list[Finding]:
    """Findings of all ranks as one list: first rank 0's, then what is wrong on other machines."""
    first, *others = every
    wrong = [
        replace(finding, name=f"{finding.node}: {finding.name}")
        for findings in others
        for finding in findings
        if finding.state != "ok"
    ]
    groups = list(dict.fromkeys(finding.group for finding in [*first, *wrong]))
    return sorted([*first, *wrong], key=lambda finding: groups.index(finding.group))


def _join(machine: Machine) -> Iterator[Finding]:
    rank, size, limit = torchrun.rank(), torchrun.world_size(), timedelta(seconds=EXAMINE_S)
    with waiting():
        dist.init_process_group("gloo", store=meet(), rank=rank, world_size=size, timeout=limit)
    if dist.get_rank() == 0:
        yield ok("ranks", f"{dist.get_world_size()} have joined")


def _wait(machine: Machine) -> Iterator[Finding]:
    """Wait until all machines have been examined."""
    dist.barrier()
    yield from ()


def _failed(finding: Finding) -> Finding:
    """Whatever keeps ranks from reaching each other keeps a run from starting."""
    if finding.state == "ok":
        return finding
    place = torchrun.master()
    address = torchrun.endpoint(*place) if place else "MASTER_ADDR, which is not set"
    cure = (
        f"check that every node reaches rank 0 at {address} (firewall, name), or set "
        "GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME to the network card that connects the nodes; "
        "NCCL_DEBUG=INFO shows what NCCL tries; unset RANK WORLD_SIZE if they are left over here"
    )
    return replace(finding, state="problem", cure=cure)


def _all_reduce(machine: Machine) -> Iterator[Finding]:
    """One all-reduce over all ranks, between GPUs if every rank has one: its sum and its time.

    The first one sets up the connections, the second is timed. In a ring each link carries
    ``2 (n - 1) / n`` times the bytes, as nccl-tests counts the bandwidth.

    Raises:
        RuntimeError: the sum is wrong.
    """
    local = torchrun.local_rank()
    gpu = machine.on_gpus and torch.cuda.is_available() and local < torch.cuda.device_count()
    device, num_bytes, group = "cpu", CPU_BYTES, dist.group.WORLD
    if all(gathered(gpu)):
        torch.cuda.set_device(local)
        device, num_bytes = f"cuda:{local}", GPU_BYTES
        group = cast(dist.ProcessGroup, dist.new_group(backend="nccl"))
    world_size, seconds = dist.get_world_size(), 0.0
    for _ in range(2):
        values = torch.ones(num_bytes // 4, device=device)
        dist.barrier(group)
        begin = time.perf_counter()
        dist.all_reduce(values, group=group)
        right = bool((values == world_size).all())  # waits for the GPU
        seconds = time.perf_counter() - begin
        if not right:
            raise RuntimeError("the sum over all ranks is wrong")
    if dist.get_rank() == 0:
        rate = 2 * (world_size - 1) / world_size * num_bytes / seconds
        yield ok(
            f"all-reduce ({dist.get_backend(group)})",
            f"{size(rate)}/s between {world_size} ranks: {size(num_bytes)} in "
            f"{1000 * seconds:.0f} ms",
            seconds=seconds,
            bytes_per_s=rate,
            bytes=num_bytes,
        )
