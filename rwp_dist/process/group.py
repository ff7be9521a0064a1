"""The process group of a run, with or without torchrun, and what ranks agree on through it."""

import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import nn

from rwp_dist.base.errors import ConfigError, ReplicaError, RwpError
from rwp_dist.process import torchrun

T = TypeVar("T")


def choose_device(name: str) -> torch.device:
    """The device of this rank: ``auto``, ``cpu`` or ``cuda``. Call it before DeepSpeed is imported.

    Raises:
        ConfigError: cuda is wanted and there is none.
    """
    device = _device(name)
    # DeepSpeed probes for accelerators when it is imported, and warns where it finds none.
    os.environ.setdefault("DS_ACCELERATOR", device.type)
    for logger in ("DeepSpeed", "torch.utils.cpp_extension"):
        logging.getLogger(logger).setLevel(logging.ERROR)
    return device


def _device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda":
        if not torch.cuda.is_available():
            raise ConfigError("run.device: torch sees no CUDA device; set run.device to cpu.")
        local = torchrun.local_rank()
        if local >= torch.cuda.device_count():
            raise ConfigError(
                f"run.device: local rank {local} has no GPU of its own, {torch.cuda.device_count()}"
                " are visible; start fewer ranks on this node."
            )
        torch.cuda.set_device(local)
        return torch.device("cuda", local)
    return torch.device("cpu")


@contextmanager
def process_group(device: torch.device) -> Iterator[None]:
    """Join the group that torchrun describes, or form one of this process alone.

    A group that exists already is used and left alone.
    """
    if dist.is_initialized():
        yield
        return
    if torchrun.world_size() > 64:
        # Ranks then connect to those they talk to, not each to all of a thousand others.
        os.environ.setdefault("TORCH_GLOO_LAZY_INIT", "1")
    gpu = device if device.type == "cuda" else None
    backend = "nccl" if gpu else "gloo"
    if torchrun.by_torchrun():
        dist.init_process_group(backend, device_id=gpu)
    else:
        os.environ.setdefault("LOCAL_RANK", "0")  # DeepSpeed asks for it
        store = dist.HashStore()  # type: ignore[attr-defined]
        dist.init_process_group(backend, store=store, rank=0, world_size=1, device_id=gpu)
    try:
        yield
    finally:
        # gloo aborts a process that leaves its group open. NCCL would wait here, after an
        # exception, for ranks that may still be inside a collective.
        error = sys.exc_info()[1]
        if gpu is None or error is None or isinstance(error, RwpError):
            dist.destroy_process_group()


@contextmanager
def same_on_all_ranks() -> Iterator[None]:
    """An error that a user can act on, on any rank, ends all ranks with the same message.

    Raises:
        RwpError: the error of the lowest rank that had one.
    """
    error: RwpError | None = None
    try:
        yield
    except RwpError as caught:
        error = caught
    if dist.get_world_size() == 1:
        if error:
            raise error
        return
    errors = gathered(error)
    first = next((e for e in errors if e is not None), None)
    if first is not None:
        # This rank's own error knows where it comes from, a copy from elsewhere does not.
        first = error if error is not None and first is errors[dist.get_rank()] else first
        first.shared = True
        raise first


def all_agree_on(flag: bool) -> bool:
    """Whether any rank says so. Every rank calls it, and none leaves before all have come."""
    return any(gathered(flag))


def gathered(mine: T) -> list[T]:
    """What every rank has, by rank. A collective."""
    everybody: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everybody, mine)
    return everybody


def from_main(make: Callable[[], T]) -> T:
    """What ``make`` returns on rank 0, on every rank."""
    box: list[Any] = [make() if dist.get_rank() == 0 else None]
    dist.broadcast_object_list(box, 0)
    value: T = box[0]
    return value


def check_replicas(model: nn.Module, step: int) -> None:
    """Compare the bits of all parameters between ranks.

    Raises:
        ReplicaError: they differ; names the rank that most others contradict, and the parameter.
    """
    names, sums = [], []
    for name, param in model.named_parameters():
        bits = param.detach().contiguous().view(-1).view(torch.uint8)
        bits = torch.nn.functional.pad(bits, (0, -bits.numel() % 8)).view(torch.int64)
        # Position-dependent odd factors, so that two equal changes do not cancel.
        factors = torch.arange(1, 2 * bits.numel(), 2, device=bits.device)
        names.append(name)
        sums.append((bits * factors).sum())
    mine = torch.stack(sums)
    gathered = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
    dist.all_gather(gathered, mine)
    ranks = torch.stack(gathered).cpu()
    differs = (ranks != ranks[0]).any(0).nonzero()
    if not len(differs):
        return
    column = ranks[:, int(differs[0])]
    values, votes = column.unique(return_counts=True)
    # Where votes are equal, as with two ranks, rank 0 counts as right.
    right = column[0] if (column == column[0]).sum() == votes.max() else values[votes.argmax()]
    rank = int((column != right).nonzero()[0])
    others = "most ranks" if len(column) > 2 else f"rank {1 - rank}"
    raise ReplicaError(
        f"After step {step} the weights of rank {rank} differ from those of {others}, first in "
        f"{names[int(differs[0])]} ({len(differs)} of {len(names)} parameters); a rank's hardware "
        "or a change of weights outside the optimizer is the likely cause: leave that node out, "
        "remove the last checkpoint, and start the same command again."
    )
