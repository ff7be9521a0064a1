"""The embedded data: scikit-learn's handwritten digits with noisy training labels, as shards.

::

    OUT/train/digits-train-000000.tar ...           1,000 images, some labels replaced
    OUT/test/digits-test-000000.tar ...             the other 797 images with their true labels
    OUT/fold0/train/...  OUT/fold0/val/...          folds of the training side, for tuning

Every folder also gets indexes and a manifest, as all shards do.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rwp_dist.base.errors import ConfigError
from rwp_dist.shards.arrays import NUM_SHARDS, LabelledImages, write_arrays

NUM_TRAIN = 1000
NUM_CLASSES = 10
CLASSES = tuple(map(str, range(NUM_CLASSES)))
MAX_FOLDS = NUM_TRAIN // NUM_SHARDS


@dataclass(frozen=True)
class DigitsReport:
    """What was written."""

    num_train: int
    num_test: int
    num_noisy: int
    """Training labels replaced; about a tenth of them by the label that they had."""


def write_digits(
    out: Path, label_noise: float = 0.4, seed: int = 0, folds: int = 0
) -> DigitsReport:
    """Write 1,797 real 8x8 digits as WebDataset shards: 1,000 for training, 797 for testing.

    The same arguments give the same bytes. Shards of an earlier call are replaced.

    Args:
        out: folder of ``train`` and ``test``.
        label_noise: share of training labels that are replaced by a label drawn uniformly from all
            ten. A tenth of the new labels are right: at 0.4, 400 are replaced and about 360 are
            wrong (355 with seed 0). Test labels are never replaced.
        seed: of the split and the noise.
        folds: also write this many folds of the training side, with noisy labels on both sides, to
            tune without the test images.

    Raises:
        ConfigError: an argument is out of range.
    """
    if not 0.0 <= label_noise <= 1.0:
        raise ConfigError(
            f"{label_noise} is no share of labels", key="label_noise", cure="give 0 to 1"
        )
    if folds < 0 or folds == 1 or folds > MAX_FOLDS:
        raise ConfigError(
            f"{folds} folds are not possible", key="folds", cure=f"give 2 to {MAX_FOLDS}, or 0"
        )
    train, test, num_noisy = _load(label_noise, seed)
    parts = {"train": train, "test": test}
    rows = np.arange(NUM_TRAIN)
    for fold in range(folds):
        parts[f"fold{fold}/train"] = train.take(rows[rows % folds != fold])
        parts[f"fold{fold}/val"] = train.take(rows[rows % folds == fold])
    for name, part in parts.items():
        write_arrays(out / name, "digits", part, CLASSES)
    return DigitsReport(len(train.keys), len(test.keys), num_noisy)


def _load(label_noise: float, seed: int) -> tuple[LabelledImages, LabelledImages, int]:
    """Training side, test side, and the number of labels that were replaced."""
    from sklearn.datasets import load_digits  # takes a second, and only this command needs it

    bunch = load_digits()
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(bunch.target))
    images = np.rint(bunch.images[order] * (255 / 16)).astype(np.uint8)
    labels = bunch.target[order].astype(np.int64)
    num_noisy = round(label_noise * NUM_TRAIN)
    noisy = rng.choice(NUM_TRAIN, size=num_noisy, replace=False)
    labels[noisy] = rng.integers(NUM_CLASSES, size=num_noisy)
    keys = [f"train-{i:06d}" for i in range(NUM_TRAIN)]
    keys += [f"test-{i:06d}" for i in range(len(order) - NUM_TRAIN)]
    digits = LabelledImages(images, labels, keys)
    rows = np.arange(len(order))
    return digits.take(rows[:NUM_TRAIN]), digits.take(rows[NUM_TRAIN:]), num_noisy
