"""The process group of a run, with or without torchrun, and what ranks agree on through it."""

import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from rwp_dist.base.errors import ConfigError, RwpError
from rwp_dist.process import launchers, torchrun
from rwp_dist.process.meeting import meet, waiting

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
            raise ConfigError("torch sees no CUDA device", key="run.device", cure="set it to cpu")
        local = torchrun.local_rank()
        if local >= torch.cuda.device_count():
            raise ConfigError(
                f"rank {local} of this node has no GPU; {torch.cuda.device_count()} are visible",
                key="run.device",
                cure="start fewer ranks on this node, or ask for nodes that have equally many GPUs",
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
    launchers.adopt_variables()
    rank, size = torchrun.rank(), torchrun.world_size()
    if size > 1:
        with waiting():
            dist.init_process_group(
                backend, store=meet(), rank=rank, world_size=size, device_id=gpu
            )
    else:  # needs no address, which may be somebody else's by now
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
    """A user's error in the block, on any rank, is raised on all ranks.

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
    rank, nobody = dist.get_rank(), dist.get_world_size()
    lowest = smallest(nobody if error is None else rank)
    if lowest == nobody:
        return
    box: list[Any] = [error]
    dist.broadcast_object_list(box, lowest)
    # This rank's own error knows where it comes from, a copy from elsewhere does not.
    first: RwpError = box[0] if error is None or lowest != rank else error
    first.shared = True
    raise first


def any_rank(flag: bool) -> bool:
    """Whether the flag is set on any rank. A collective: no rank leaves before all have come."""
    return smallest(int(not flag)) == 0


def smallest(value: int) -> int:
    """Of the values of all ranks. A collective."""
    found = torch.tensor(value, device=_own_device())
    dist.all_reduce(found, dist.ReduceOp.MIN)
    return int(found)


def all_equal(content: bytes) -> bool:
    """Whether all ranks have the same content, of a multiple of 8 bytes. A collective."""
    return not differing(torch.frombuffer(bytearray(content), dtype=torch.int64))


def differing(words: Tensor) -> list[int]:
    """Where the int64 ``words`` of the ranks are not the same. A collective.

    One reduction finds the largest of all words ``w`` and of all ``~w``. ``~max(~w)`` is the
    smallest word, so ranks agree if the largest word is that one. So what a rank sends and gets
    does not grow with the number of ranks.
    """
    both = torch.stack([words, ~words]).to(_own_device())
    dist.all_reduce(both, dist.ReduceOp.MAX)
    largest, largest_of_not = both.cpu()
    return (largest != ~largest_of_not).nonzero().flatten().tolist()


def _own_device() -> torch.device:
    """Where this rank's tensors for collectives are."""
    return torch.device("cuda" if dist.get_backend() == "nccl" else "cpu")


def gathered(mine: T) -> list[T]:
    """What every rank has, by rank. A collective.

    Each rank gets as much as there are ranks: not for what a healthy run does more than once.
    """
    everybody: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everybody, mine)
    return everybody


def gathered_on_main(mine: T) -> list[T]:
    """What every rank has, by rank, on rank 0; nothing on the others. A collective."""
    everybody: list[Any] = [None] * dist.get_world_size() if dist.get_rank() == 0 else []
    dist.gather_object(mine, everybody or None, 0)
    return everybody


def from_main(make: Callable[[], T]) -> T:
    """What ``make`` returns on rank 0, on every rank."""
    box: list[Any] = [make() if dist.get_rank() == 0 else None]
    dist.broadcast_object_list(box, 0)
    return box[0]
