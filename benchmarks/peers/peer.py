"""What a peer is asked for, and what several of them need."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
import torchvision.transforms as v1
from torch import Tensor
from torchvision.transforms import v2

from rwp_dist.shards import synthetic_listing

SIZE, BATCH = 224, 64
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SHARDS, PER_SHARD = 1281, 1000
"""Of the large data set."""
RANK_BATCH = 128
"""Samples of the first batch that is read of it."""


class Place(NamedTuple):
    """A large data set, and where in it to begin."""

    folder: Path
    position: Any = None
    """As ``Opens.position`` gives it; None: at the beginning."""


class Opens(Protocol):
    """A way to open a large data set."""

    name: str
    package: str
    """Its distribution; empty for this project."""

    def make_large(self, folder: Path, num_shards: int) -> None:
        """Make ``num_shards * PER_SHARD`` samples in a new folder from few tiny images."""

    def position(self, folder: Path) -> Any:
        """What is saved after 90 % of an epoch; None if there is no way to begin there."""

    def first_batch(self, place: Place) -> None:
        """Open the data set and read ``RANK_BATCH`` samples."""


class Reads(Opens, Protocol):
    """A way to read photographs, which has a format of its own."""

    def write(self, files: Path, out: Path) -> None:
        """Write a folder of JPEGs, in a folder for each class, in its format."""

    def batches(self, out: Path) -> Iterator[Tensor]:
        """Normalised batches ``[BATCH, 3, SIZE, SIZE]``, for ever."""


def photos_of(files: Path) -> list[str]:
    """The images of a folder."""
    return sorted(map(str, files.glob("*/*.jpg")))


def make_tiny(folder: Path) -> list[str]:
    """``PER_SHARD`` tiny images as files, in a folder for each class, unless they are there."""
    listing = synthetic_listing(PER_SHARD, 16, 16, PER_SHARD, seed=0)
    for sample in [] if folder.exists() else listing.samples:
        path = folder / f"{sample.label:04d}" / f"{sample.label}.jpg"
        path.parent.mkdir(parents=True)
        path.write_bytes(listing.read(sample))
    return photos_of(folder)


def of_pillow() -> v1.Compose:
    """The usual transform of a Pillow image."""
    return v1.Compose(
        [
            v1.RandomResizedCrop(SIZE),
            v1.RandomHorizontalFlip(),
            v1.ToTensor(),
            v1.Normalize(MEAN, STD),
        ]
    )


def of_tensor() -> v2.Compose:
    """The usual transform of a tensor of bytes, ``[3, H, W]``."""
    return v2.Compose(
        [
            v2.RandomResizedCrop(SIZE, antialias=True),
            v2.RandomHorizontalFlip(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(MEAN, STD),
        ]
    )
