"""The steps that a stream yields: batches of uint8 images, and what reading them cost."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from rwp_dist.base.errors import RwpError
from rwp_dist.data.remote import CacheStats


@dataclass(frozen=True)
class Batch:
    """The samples of one pass through the network."""

    images: Tensor
    """uint8 ``[B, C, H, W]``, channels last in memory."""
    labels: Tensor
    """int64 ``[B]``."""
    weights: Tensor
    """float32 ``[B]``: 1, or 0 for padding and for samples that could not be read."""

    def to(self, device: torch.device | str) -> "Batch":
        """The same batch on a device; the host does not wait for pinned memory."""
        return Batch(
            self.images.to(device, non_blocking=True),
            self.labels.to(device, non_blocking=True),
            self.weights.to(device, non_blocking=True),
        )


@dataclass(frozen=True)
class BadRecord:
    """A sample that was left out."""

    step: int
    sample: int
    """Its number in the data set. -1: all samples of the step, because a shard cannot be read."""
    reason: str
    fatal: RwpError | None = None
    """The error that ends training, if a whole shard cannot be read."""


class Unreadable(list[Batch]):
    """In place of a step's batches: iterating raises the error that made them unreadable."""

    def __init__(self, error: RwpError) -> None:
        super().__init__()
        self._error = error

    def __iter__(self) -> Iterator[Batch]:
        """Raises the error."""
        raise self._error


@dataclass(frozen=True)
class Step:
    """What one rank needs for one update."""

    batches: list[Batch]
    """This rank's micro-batches, in order."""
    valid: list[int]
    """Rows of each micro-batch whose weight is not 0; known without asking the device."""
    bad: Sequence[BadRecord] = ()
    num_bytes: int = 0
    """Encoded bytes that were read for it."""
    cache: CacheStats = field(default_factory=CacheStats)
