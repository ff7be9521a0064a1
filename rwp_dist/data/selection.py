"""Which samples an epoch consists of, before the plan orders them.

All of them once; several data sets mixed by weight; or every class equally often. A selection only
says which samples lie on an epoch's line and how often, so everything that holds for the plan
(exactness, elasticity, instant resume) holds for all of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from rwp_dist.base.keyed import numpy_generator


@dataclass(frozen=True)
class Line:
    """Samples of an epoch end to end: stretches of shards, or single rows of them."""

    shards: NDArray[np.int64]
    """Shard of each stretch."""
    ends: NDArray[np.int64]
    """Position behind each stretch."""
    starts: NDArray[np.int64]
    """Row at which each stretch starts; with ``table`` where it starts in the table."""
    table: NDArray[np.int64] | None = None
    """Rows of all stretches, where these are not simply one after another."""

    def locate(self, positions: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Shard and row of every position."""
        stretch = np.searchsorted(self.ends, positions, side="right")
        rows = positions + self._shifts[stretch]
        return self.shards[stretch], rows if self.table is None else self.table[rows]

    @cached_property
    def _shifts(self) -> NDArray[np.int64]:
        """From positions to rows, for each stretch."""
        shifts: NDArray[np.int64] = self.starts.copy()
        shifts[1:] -= self.ends[:-1]
        return shifts


class Selection(Protocol):
    """What a plan needs to know."""

    @property
    def repeats(self) -> bool:
        """Whether an epoch may hold a sample several times."""

    @property
    def recipe(self) -> str:
        """What a checkpoint remembers: selections of another recipe take other samples."""

    @property
    def num_samples(self) -> int:
        """Samples of an epoch, the same in all epochs."""

    def line(self, seed: int, epoch: int) -> Line:
        """The samples of one epoch, their shards in random order."""


@dataclass(frozen=True)
class Everything:
    """Every sample of every shard once."""

    counts: NDArray[np.int64]
    """Samples of each shard."""

    @property
    def repeats(self) -> bool:
        """Never."""
        return False

    @property
    def recipe(self) -> str:
        """The same for all."""
        return "every sample once"

    @property
    def num_samples(self) -> int:
        """All samples."""
        return int(self.counts.sum())

    def line(self, seed: int, epoch: int) -> Line:
        """Whole shards in random order."""
        order = numpy_generator(seed, 0, epoch).permutation(len(self.counts))
        return Line(order, self.counts[order].cumsum(), np.zeros(len(order), dtype=np.int64))


@dataclass(frozen=True)
class Mixture:
    """Several data sets by weight, in an epoch as long as all of them together.

    A data set whose share is more than it has is gone through more than once; of one whose share
    is less, every epoch takes other shards.
    """

    counts: NDArray[np.int64]
    """Samples of each shard, of all data sets one after another."""
    dataset: NDArray[np.int64]
    """Which data set each shard belongs to."""
    weights: Sequence[float]
    """Share of each data set; only their proportions count."""

    @property
    def repeats(self) -> bool:
        """Where a share is larger than what there is."""
        return True

    @property
    def recipe(self) -> str:
        """With the weights."""
        return f"a mixture {':'.join(f'{weight:g}' for weight in self.weights)}"

    @property
    def num_samples(self) -> int:
        """All samples of an epoch."""
        return sum(self._quotas())

    def _quotas(self) -> list[int]:
        total, weight = int(self.counts.sum()), sum(self.weights)
        return [round(total * w / weight) for w in self.weights]

    def line(self, seed: int, epoch: int) -> Line:
        """Stretches of all data sets in random order."""
        random = numpy_generator(seed, 0, epoch)
        shards, sizes = [], []
        for number, quota in enumerate(self._quotas()):
            own = np.flatnonzero(self.dataset == number)
            while quota > 0:
                # One pass over the data set, cut where its share ends.
                order = random.permutation(own)
                passed = self.counts[order].cumsum()
                last = int(np.searchsorted(passed, quota))
                taken = self.counts[order][: last + 1].copy()
                if last < len(order):
                    taken[-1] -= passed[last] - quota
                shards.append(order[: last + 1])
                sizes.append(taken)
                quota -= int(taken.sum())
        mixed = random.permutation(sum(map(len, shards)))
        size = np.concatenate(sizes)[mixed]
        return Line(
            np.concatenate(shards)[mixed], size.cumsum(), np.zeros(len(mixed), dtype=np.int64)
        )


@dataclass(frozen=True)
class Balanced:
    """Every class equally often, in an epoch as long as all samples.

    A rare class's samples come several times; of a frequent one every epoch takes others.
    """

    counts: NDArray[np.int64]
    """Samples of each shard."""
    labels: NDArray[np.int64]
    """Labels of all samples, shard after shard."""

    @property
    def repeats(self) -> bool:
        """Where a share is larger than what there is."""
        return True

    @property
    def recipe(self) -> str:
        """The same for all."""
        return "every class equally often"

    @property
    def num_samples(self) -> int:
        """Samples of an epoch: classes that occur, times the quota of each."""
        present = len(np.unique(self.labels))
        return present * (len(self.labels) // present)

    def line(self, seed: int, epoch: int) -> Line:
        """Rows repeated so that classes are even, shards in random order."""
        random = numpy_generator(seed, 0, epoch)
        classes, members = np.unique(self.labels, return_counts=True)
        quota = len(self.labels) // len(classes)
        repeats = np.zeros(len(self.labels), dtype=np.int64)
        by_class = np.split(np.argsort(self.labels, kind="stable"), members.cumsum()[:-1])
        for own in by_class:
            repeats[own] = quota // len(own)
            repeats[random.permutation(own)[: quota % len(own)]] += 1
        firsts = self.counts.cumsum() - self.counts
        rows = np.arange(len(self.labels)) - np.repeat(firsts, self.counts)
        table = np.repeat(rows, repeats)
        sizes = np.add.reduceat(repeats, firsts) if len(firsts) else repeats
        begins = sizes.cumsum() - sizes
        order = random.permutation(len(self.counts))
        order = order[sizes[order] > 0]
        return Line(order, sizes[order].cumsum(), begins[order], table)
