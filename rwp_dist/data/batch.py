"""What the loop gets: batches of uint8 images, and what reading them cost."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import torch
from torch import Tensor

from rwp_dist.base.errors import RwpError
from rwp_dist.data.remote import CacheStats

CACHED_VALUES = 2**17
"""Values whose float32 form a core's cache holds."""


@dataclass(frozen=True)
class Batch:
    """What one pass through the network takes."""

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
    """-1: all of the step's, because a shard cannot be had."""
    reason: str

    @property
    def fatal(self) -> bool:
        """Whether training cannot go on: no sample is bad, a shard is missing."""
        return self.sample < 0


class Unreadable(list[Batch]):
    """Batches that could not be read: whoever takes one gets the error."""

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


def normalise(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """``(images / 255 - mean) / std``: uint8 to float32, ``[B, C, H, W]``, on the images' device.

    ``mean`` and ``std`` hold one value, or one for each channel.
    """
    scale, shift = _affine(tuple(mean), tuple(std), images.device)
    if images.device.type != "cpu":
        return torch.addcmul(shift, images, scale)  # one kernel
    pixels = images.permute(0, 2, 3, 1)
    if not pixels.is_contiguous():
        return (images * scale).add_(shift)
    return (
        _on_cpu(pixels.flatten(1), scale.flatten(), shift.flatten())
        .view_as(pixels)
        .permute(0, 3, 1, 2)
    )


def _on_cpu(pixels: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Of ``[B, H * W * C]``, in pieces that stay in a cache: a third of the time."""
    repeats = pixels.shape[1] // len(scale)
    scale, shift = scale.repeat(repeats), shift.repeat(repeats)
    out = torch.empty(pixels.shape, dtype=torch.float32)
    size = max(1, CACHED_VALUES // max(pixels.shape[1], 1))
    for into, values in zip(out.split(size), pixels.split(size), strict=True):
        torch.addcmul(shift, into.copy_(values), scale, out=into)
    return out


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
