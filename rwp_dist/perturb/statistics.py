"""Running statistics of normalisation layers: learnt at clean weights, equal on all ranks."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase


def tracking_layers(model: nn.Module) -> list[_NormBase]:
    """Layers that keep running statistics."""
    return [m for m in model.modules() if isinstance(m, _NormBase) and m.track_running_stats]


@contextmanager
def frozen_statistics(layers: list[_NormBase]) -> Iterator[None]:
    """Leave running statistics as they are; batches are still normalised by their own."""
    for layer in layers:
        layer.track_running_stats = False
    try:
        yield
    finally:
        for layer in layers:
            layer.track_running_stats = True


def broadcast_buffers(model: nn.Module) -> None:
    """Give every rank the buffers of rank 0. DeepSpeed does this for parameters only."""
    for buffer in model.buffers():
        dist.broadcast(buffer, 0)


def average_statistics(layers: list[_NormBase], contributes: bool) -> None:
    """Average running statistics over the ranks that had a clean pass; all ranks get the result.

    One all-reduce. ``contributes``: whether this rank had one; at least one rank must.
    """
    floats, counts = _statistics(layers)
    if not floats or dist.get_world_size() == 1:
        return
    share = floats[0].new_tensor([float(contributes)])
    flat = torch.cat([b.flatten().float() for b in floats] + [share])
    # zeros, not a product: a rank without clean passes may hold anything, also NaN.
    flat = flat if contributes else torch.zeros_like(flat)
    dist.all_reduce(flat)
    flat /= flat[-1].clone()
    for buffer, mean in zip(floats, flat.split([b.numel() for b in floats] + [1]), strict=False):
        buffer.copy_(mean.view_as(buffer))
    if counts:
        most = torch.stack(counts)
        dist.all_reduce(most, dist.ReduceOp.MAX)
        for count, value in zip(counts, most, strict=True):
            count.copy_(value)


@contextmanager
def own_statistics_kept(layers: list[_NormBase]) -> Iterator[None]:
    """Whatever happens to running statistics inside, this rank goes on with its own afterwards.

    So it makes no difference to training when it is evaluated, saved or interrupted.
    """
    floats, counts = _statistics(layers)
    buffers = floats + counts
    kept = [buffer.clone() for buffer in buffers]
    try:
        yield
    finally:
        for buffer, own in zip(buffers, kept, strict=True):
            buffer.copy_(own)


def gather_statistics(layers: list[_NormBase]) -> Tensor | None:
    """Every rank's own statistics, ``[world_size, values]`` in float64 on the CPU. A collective."""
    floats, counts = _statistics(layers)
    if not floats:
        return None
    mine = torch.cat([b.flatten().double() for b in floats + counts])
    ranks = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
    dist.all_gather(ranks, mine)
    return torch.stack(ranks).cpu()


def load_statistics(layers: list[_NormBase], own: Tensor) -> None:
    """Take over one row of ``gather_statistics``."""
    floats, counts = _statistics(layers)
    buffers = floats + counts
    for buffer, value in zip(buffers, own.split([b.numel() for b in buffers]), strict=True):
        buffer.copy_(value.view_as(buffer))


def _statistics(layers: list[_NormBase]) -> tuple[list[Tensor], list[Tensor]]:
    floats: list[Tensor] = []
    counts: list[Tensor] = []
    for layer in layers:
        floats += [b for b in (layer.running_mean, layer.running_var) if b is not None]
        counts += [layer.num_batches_tracked] if layer.num_batches_tracked is not None else []
    return floats, counts


@contextmanager
def recalibrating(layers: list[_NormBase]) -> Iterator[None]:
    """Learn running statistics anew, as plain means over the batches passed meanwhile."""
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None
    try:
        yield
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum
