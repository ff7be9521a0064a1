"""All ranks of a job examine their machines, then the network and the clocks between them."""

import os
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

from rwp_dist.config import Settings
from rwp_dist.doctor import clock, network
from rwp_dist.doctor.case import Case, node_name
from rwp_dist.doctor.examine import examine
from rwp_dist.doctor.finding import Finding, Step, findings_of
from rwp_dist.process import torchrun as launched

JOIN_S = 120.0
"""How long ranks wait for each other to join: some are slow to import torch."""

EXAMINE_S = 1800.0
"""How long the others wait for the machine with the slowest disks."""

COLLECTIVE_S = 120.0


def examine_together(settings: Settings | None) -> list[Finding]:
    """Findings of all machines, on every rank: of rank 0's all, of others' what is not ok.

    One rank of each machine examines it. What needs other ranks comes last; if they cannot be
    reached, that is the finding, and the rank's own machine is examined all the same.
    """
    here = list(examine(settings)) if launched.local_rank() == 0 else []
    joined = findings_of(Step(network.GROUP, "ranks", _join, JOIN_S))
    if any(finding.state != "ok" for finding in joined):
        return [*here, *(_cured(finding) for finding in joined)]
    case, found = Case(settings), list(here)
    for step in (
        Step(network.GROUP, "all-reduce (gloo)", _gloo, COLLECTIVE_S),
        Step(network.GROUP, "all-reduce (nccl)", lambda: _nccl(case), COLLECTIVE_S),
        Step(clock.GROUP, "between nodes", _clocks, COLLECTIVE_S),
    ):
        said = [replace(finding, node=node_name()) for finding in findings_of(step)]
        found += said
        if any(finding.state != "ok" for finding in said):
            return found  # others may be waiting in it: no further collective can be trusted
    return _merged(_gathered(found))


def _join() -> Iterator[Finding]:
    import torch.distributed as dist

    dist.init_process_group("gloo", timeout=timedelta(seconds=EXAMINE_S))
    yield Finding(network.GROUP, "ranks", "ok", f"{dist.get_world_size()} have joined")


def _cured(finding: Finding) -> Finding:
    address = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
    return replace(
        finding,
        state="problem",
        node=node_name(),
        cure=f"Check that every node reaches rank 0 at {address} (firewall, name), or set "
        "GLOO_SOCKET_IFNAME to the network card that connects the nodes.",
    )


def _gloo() -> Iterator[Finding]:
    import torch.distributed as dist

    found = network.measure("cpu")
    if dist.get_rank() == 0:
        yield network.finding("gloo", found, f"{dist.get_world_size()} ranks")


def _nccl(case: Case) -> Iterator[Finding]:
    import torch
    import torch.distributed as dist

    local = launched.local_rank()
    ready = case.on_gpus and torch.cuda.is_available() and local < torch.cuda.device_count()
    if not all(_gathered(ready)):
        return
    torch.cuda.set_device(local)
    group = dist.new_group(backend="nccl")
    found = network.measure(f"cuda:{local}", group)
    if dist.get_rank() == 0:
        yield network.finding("nccl", found, f"{dist.get_world_size()} GPUs")


def _clocks() -> Iterator[Finding]:
    import torch.distributed as dist

    pairs = _gathered((clock.offset_to_main(), node_name()))
    offsets, nodes = zip(*pairs, strict=True)
    if dist.get_rank() == 0 and len(set(nodes)) > 1:
        yield clock.between_nodes(offsets, nodes)


def _gathered(mine: Any) -> list[Any]:
    """One object of every rank, by rank. A collective."""
    import torch.distributed as dist

    every: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(every, mine)
    return every


def _merged(every: list[list[Finding]]) -> list[Finding]:
    """Findings of all ranks as one list: groups stay together, and fine machines are not told."""
    first, *others = every
    kept = [
        replace(finding, name=f"{finding.node}: {finding.name}")
        for findings in others
        for finding in findings
        if finding.state != "ok"
    ]
    groups = dict.fromkeys(finding.group for finding in [*first, *kept])
    everything = [*first, *kept]
    return [f for group in groups for f in everything if f.group == group]
