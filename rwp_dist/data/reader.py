"""Shards become batches: all samples lie in memory, and the plan says who takes which.

Images stay uint8 until they are on the device, where ``normalise`` turns them into floats.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rwp_dist.data.plan import Plan, evaluation_rows
from rwp_dist.data.samples import Samples, expand_shards, load_shards

__all__ = [
    "Batch",
    "Reader",
    "Samples",
    "Step",
    "evaluation_batches",
    "expand_shards",
    "load_shards",
    "normalise",
]


@dataclass(frozen=True)
class Batch:
    """What one pass through the network takes."""

    images: Tensor
    """uint8 ``[B, C, H, W]``."""
    labels: Tensor
    """int64 ``[B]``."""
    weights: Tensor
    """float32 ``[B]``: 1, or 0 for padding."""

    def to(self, device: torch.device | str) -> "Batch":
        """The same batch on a device; the host does not wait for pinned memory."""
        return Batch(
            self.images.to(device, non_blocking=True),
            self.labels.to(device, non_blocking=True),
            self.weights.to(device, non_blocking=True),
        )


@dataclass(frozen=True)
class Step:
    """What one rank needs for one update."""

    batches: list[Batch]
    """This rank's micro-batches, in order."""
    valid: NDArray[np.int64]
    """``[slots]``: valid rows of every slot of all ranks, known without communication."""


class Reader:
    """One rank's training steps; its micro-batch m is slot ``rank * micro_batches + m``.

    Raises:
        ValueError: the plan has no slots for this rank.
    """

    def __init__(self, samples: Samples, plan: Plan, rank: int, micro_batches: int) -> None:
        self._slots = range(rank * micro_batches, (rank + 1) * micro_batches)
        if self._slots.stop > plan.slots:
            raise ValueError(
                f"rank {rank} with {micro_batches} micro-batches needs {self._slots.stop} slots, "
                f"and the plan has {plan.slots}."
            )
        self._samples = samples
        self._plan = plan
        self.steps_per_epoch = plan.steps_per_epoch
        self.num_samples = plan.num_samples

    def steps(self, epoch: int, start: int = 0) -> Iterator[Step]:
        """Steps of an epoch from ``start`` on; starting late costs nothing."""
        for index in range(start, self.steps_per_epoch):
            rows, weights = self._plan.step(epoch, index)
            batches = [_batch(self._samples, rows[slot], weights[slot]) for slot in self._slots]
            yield Step(batches, np.count_nonzero(weights, axis=1))


def evaluation_batches(samples: Samples, batch: int, rank: int, world_size: int) -> Iterator[Batch]:
    """One rank's share of an evaluation: equal counts of batches, every sample once over all."""
    for rows, weights in evaluation_rows(len(samples.labels), batch, rank, world_size):
        yield _batch(samples, rows, weights)


def normalise(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """``(images / 255 - mean) / std`` as one multiply-add: uint8 to float32, ``[B, C, H, W]``.

    ``mean`` and ``std`` hold one value, or one for each channel.
    """
    scale, shift = _affine(tuple(mean), tuple(std), images.device)
    return torch.addcmul(shift, images, scale)


def _batch(samples: Samples, rows: NDArray[np.int64], weights: NDArray[np.float32]) -> Batch:
    index = torch.from_numpy(rows)
    return Batch(samples.images[index], samples.labels[index], torch.from_numpy(weights))


@lru_cache(maxsize=8)
def _affine(
    mean: tuple[float, ...], std: tuple[float, ...], device: torch.device
) -> tuple[Tensor, Tensor]:
    # Cached, because copying to the device for every batch would make the host wait.
    width = max(len(mean), len(std))
    means, stds = (values * (width // len(values)) for values in (mean, std))
    scale = [1 / (255 * s) for s in stds]
    shift = [-m / s for m, s in zip(means, stds, strict=True)]
    shape = (1, width, 1, 1)
    return (
        torch.tensor(scale, dtype=torch.float32, device=device).view(shape),
        torch.tensor(shift, dtype=torch.float32, device=device).view(shape),
    )
