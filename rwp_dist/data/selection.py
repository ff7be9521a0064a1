"""Which samples an epoch consists of, before the plan orders them.

All of them once; several data sets mixed by weight; or every class equally often. A selection says
which samples an epoch has and how often, and the plan does the rest. So what holds for the plan
(exactness, other numbers of ranks, instant resume) holds for every selection.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from rwp_dist.base.keyed import numpy_generator


@dataclass(frozen=True)
class Line:
    """The samples of an epoch in a row, as stretches of shards."""

    shards: NDArray[np.int64]
    """Shard of each stretch."""
    ends: NDArray[np.int64]
    """Position after each stretch."""
    table: NDArray[np.uint32] | None = None
    """Row of every position. None: a stretch has the first rows of its shard."""

    def locate(self, positions: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Shard and row of every position."""
        stretch = np.searchsorted(self.ends, positions, side="right")
        if self.table is not None:
            return self.shards[stretch], self.table[positions].astype(np.int64)
        return self.shards[stretch], positions - self._begins[stretch]

    @cached_property
    def _begins(self) -> NDArray[np.int64]:
        """First position of each stretch."""
        return np.concatenate([[0], self.ends[:-1]])


class Selection(Protocol):
    """What a plan needs to know."""

    @property
    def repeats(self) -> bool:
        """Whether an epoch may have a sample several times."""

    @property
    def num_samples(self) -> int:
        """Samples of an epoch, the same in all epochs."""

    def line(self, seed: int, epoch: int) -> Line:
        """The samples of one epoch, with the shards in random order."""


@dataclass(frozen=True)
class Everything:
    """Every sample of every shard once."""

    counts: NDArray[np.int64]
    """Samples of each shard."""

    repeats = False

    @cached_property
    def num_samples(self) -> int:
        return int(self.counts.sum())

    def line(self, seed: int, epoch: int) -> Line:
        order = numpy_generator(seed, 0, epoch).permutation(len(self.counts))
        return Line(order, self.counts[order].cumsum())


@dataclass(frozen=True)
class Mixture:
    """Several data sets by weight. An epoch is as long as all of them together.

    Of a data set with a large share, samples come several times; of one with a small share, every
    epoch takes other shards.
    """

    counts: NDArray[np.int64]
    """Samples of each shard, data set after data set."""
    dataset: NDArray[np.int64]
    """Which data set each shard belongs to."""
    weights: Sequence[float]
    """Of each data set; only their proportions count."""

    repeats = True

    @cached_property
    def num_samples(self) -> int:
        return sum(self._quotas())

    def _quotas(self) -> list[int]:
        total, weight = int(self.counts.sum()), sum(self.weights)
        return [round(total * w / weight) for w in self.weights]

    def line(self, seed: int, epoch: int) -> Line:
        random = numpy_generator(seed, 0, epoch)
        shards, sizes = [], []
        for number, quota in enumerate(self._quotas()):
            own = np.flatnonzero(self.dataset == number)
            while quota > 0:
                # One pass over the data set, cut at the end of its share.
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
        return Line(np.concatenate(shards)[mixed], size.cumsum())


@dataclass(frozen=True)
class Balanced:
    """Every class equally often. An epoch is about as long as all samples together.

    The samples of a rare class come several times; of a frequent one, every epoch takes others.
    """

    counts: NDArray[np.int64]
    """Samples of each shard."""
    labels: NDArray[np.signedinteger[Any]]
    """Labels of all samples, shard after shard."""
    num_present: int
    """Classes that have samples."""

    repeats = True

    @cached_property
    def num_samples(self) -> int:
        return self.num_present * (len(self.labels) // self.num_present)

    def line(self, seed: int, epoch: int) -> Line:
        random = numpy_generator(seed, 0, epoch)
        labels = self.labels
        if labels.max() < 2**16:
            labels = labels.astype(np.uint16)  # numpy sorts these by radix, in linear time
        order = np.argsort(labels, kind="stable").astype(np.uint32)
        classes, members = np.unique(labels, return_counts=True)
        quota = len(labels) // len(members)
        whole = np.zeros(int(classes[-1]) + 1, np.uint32)
        whole[classes] = quota // members
        repeats = whole[labels]
        for own in np.split(order, members.cumsum()[:-1]):
            repeats[random.permutation(own)[: quota % len(own)]] += 1
        firsts = self.counts.cumsum() - self.counts
        rows = np.arange(len(labels), dtype=np.uint32)
        rows -= np.repeat(firsts, self.counts).astype(np.uint32)
        sizes = np.add.reduceat(repeats, firsts, dtype=np.int64)
        shards = random.permutation(len(self.counts))
        shards = shards[sizes[shards] > 0]
        of_shards = np.split(np.repeat(rows, repeats), sizes.cumsum()[:-1])
        table = np.concatenate([of_shards[shard] for shard in shards])
        return Line(shards, sizes[shards].cumsum(), table)
