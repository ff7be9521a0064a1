"""Running statistics of normalisation layers: learnt at clean weights, equal on all ranks."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase


class Kept:
    """Mixed into the class of a layer whose running statistics never change."""

    def train(self, mode: bool = True) -> Any:
        return super().train(False)  # type: ignore[misc]


def keep_statistics(layer: _NormBase) -> None:
    """Have a layer normalise by its running statistics also in training, and leave them as is."""
    kind = type(layer)
    layer.__class__ = type(kind.__name__, (Kept, kind), {"__module__": kind.__module__})
    layer.eval()


def tracking_layers(model: nn.Module) -> list[_NormBase]:
    """Layers that learn running statistics."""
    return [
        m
        for m in model.modules()
        if isinstance(m, _NormBase) and m.track_running_stats and not isinstance(m, Kept)
    ]


@contextmanager
def frozen_statistics(layers: Sequence[_NormBase]) -> Iterator[None]:
    """Leave running statistics as they are; batches are still normalised by their own."""
    learning = [layer for layer in layers if layer.training]
    for layer in learning:
        layer.track_running_stats = False
    try:
        yield
    finally:
        for layer in learning:
            layer.track_running_stats = True


def average_statistics(layers: Sequence[_NormBase], contributes: bool) -> None:
    """Average running statistics over the ranks that contribute; all ranks get the result.

    One all-reduce. At least one rank must contribute.
    """
    floats, counts = _buffers(layers)
    if not floats or not dist.is_initialized() or dist.get_world_size() == 1:
        return
    share = floats[0].new_tensor([float(contributes)])
    flat = torch.cat([b.flatten().float() for b in floats] + [share])
    # zeros, not a product: the statistics of a rank without clean passes may be NaN.
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


def copy_statistics(layers: Sequence[_NormBase]) -> list[Tensor]:
    """Copies of this rank's statistics."""
    floats, counts = _buffers(layers)
    return [buffer.clone() for buffer in floats + counts]


def load_statistics(layers: Sequence[_NormBase], copies: Sequence[Tensor]) -> None:
    """Take over what ``copy_statistics`` gave."""
    floats, counts = _buffers(layers)
    for buffer, copy in zip(floats + counts, copies, strict=True):
        buffer.copy_(copy.view_as(buffer))


def gather_statistics(copies: Sequence[Tensor]) -> Tensor | None:
    """Copies of every rank, ``[world_size, values]`` in float64 on the CPU. A collective.

    None on other ranks than 0: on thousands of ranks it takes gigabytes.
    """
    if not copies:
        return None
    mine = torch.cat([copy.flatten().double() for copy in copies])
    if not dist.is_initialized():
        return mine.cpu()[None]
    ranks = None
    if dist.get_rank() == 0:
        ranks = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
    dist.gather(mine, ranks, 0)
    return torch.stack(ranks).cpu() if ranks else None


def split_statistics(layers: Sequence[_NormBase], row: Tensor) -> list[Tensor]:
    """One row of ``gather_statistics`` as copies."""
    floats, counts = _buffers(layers)
    return list(row.split([b.numel() for b in floats + counts]))


class RunningStatistics:
    """The running statistics of one network on one rank."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self.layers = tracking_layers(model)
        self._own: list[Tensor] | None = None
        """This rank's own statistics while the layers hold averaged ones."""

    @contextmanager
    def averaged(
        self, *, contributes: bool, relearn: Callable[[], None] | None = None
    ) -> Iterator[None]:
        """Statistics that are equal on all ranks; this rank's own come back afterwards.

        Args:
            contributes: whether this rank's statistics belong to clean weights.
            relearn: passes batches through the network, to learn statistics anew first. A layer
                that the network in training mode keeps in evaluation mode, because it is frozen,
                keeps its statistics.
        """
        self._own = copy_statistics(self.layers)
        try:
            if relearn is not None and self.layers:
                learning = [m for m in self.layers if m.training or not self._model.training]
                with torch.no_grad(), recalibrating(learning):
                    relearn()
            average_statistics(self.layers, contributes)
            yield
        finally:
            load_statistics(self.layers, self._own)
            self._own = None

    def gather(self) -> Tensor | None:
        """Every rank's own statistics, ``[world_size, values]``, on rank 0. A collective."""
        own = copy_statistics(self.layers) if self._own is None else self._own
        return gather_statistics(own)

    def load(self, row: Tensor) -> None:
        """Take over one rank's row of ``gather``."""
        load_statistics(self.layers, split_statistics(self.layers, row))


@contextmanager
def recalibrating(layers: Sequence[_NormBase]) -> Iterator[None]:
    """Learn running statistics anew, as plain means over the batches inside the block."""
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None
    try:
        yield
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum


def _buffers(layers: Sequence[_NormBase]) -> tuple[list[Tensor], list[Tensor]]:
    """Means and variances, and counts of batches."""
    floats: list[Tensor] = []
    counts: list[Tensor] = []
    for layer in layers:
        floats += [b for b in (layer.running_mean, layer.running_var) if b is not None]
        counts += [layer.num_batches_tracked] if layer.num_batches_tracked is not None else []
    return floats, counts
