"""The order of samples, as a pure function of (seed, epoch, index).

Nothing here is state: any step of any epoch can be asked for directly, so resuming is exact, and
the samples of a global batch do not depend on how many ranks share it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.int64]
Weights = NDArray[np.float32]


@dataclass(frozen=True)
class Plan:
    """Which samples every slot of every training step takes.

    A slot is one micro-batch of one rank. Every sample is taken exactly once an epoch; the last
    global batch is filled up with copies of good samples whose weight is 0.

    Raises:
        ValueError: there are no samples, or the slots cannot share the global batch equally.
    """

    num_samples: int
    global_batch: int
    """Samples of one step over all slots."""
    slots: int
    """Micro-batches of one step over all ranks."""
    seed: int

    def __post_init__(self) -> None:
        if self.num_samples < 1:
            raise ValueError("a plan needs at least one sample.")
        if self.global_batch < 1 or self.slots < 1 or self.global_batch % self.slots:
            raise ValueError(
                f"a global batch of {self.global_batch} samples cannot be shared equally by "
                f"{self.slots} slots."
            )

    @property
    def steps_per_epoch(self) -> int:
        """Steps that show every sample once."""
        return -(-self.num_samples // self.global_batch)

    def step(self, epoch: int, index: int) -> tuple[Rows, Weights]:
        """Rows of samples and their weights (1, or 0 for padding), both ``[slots, size]``.

        Row i of the global batch is dealt to slot ``i % slots``, so the padding of a last batch is
        spread out: valid counts of slots differ by at most one.

        Raises:
            IndexError: the epoch has no such step.
        """
        if not 0 <= index < self.steps_per_epoch:
            raise IndexError(f"step {index} of an epoch of {self.steps_per_epoch} steps.")
        order = _permutation(self.num_samples, self.seed, epoch)
        start = index * self.global_batch
        valid = order[start : start + self.global_batch]
        # np.resize repeats: a data set smaller than its padding is gone through more than once.
        padding = np.resize(order, self.global_batch - len(valid))
        weights = np.zeros(self.global_batch, dtype=np.float32)
        weights[: len(valid)] = 1.0
        return self._deal(np.concatenate([valid, padding])), self._deal(weights)

    def _deal(self, values: NDArray[Any]) -> NDArray[Any]:
        return np.ascontiguousarray(values.reshape(-1, self.slots).T)


def evaluation_rows(
    num_samples: int, batch: int, rank: int, world_size: int
) -> Iterator[tuple[Rows, Weights]]:
    """One rank's share of an evaluation: rows and weights, ``[batch]`` each.

    Over all ranks every sample comes with weight 1 exactly once. Every rank gets the same number
    of batches, so collective operations line up; what is missing is copies with weight 0.
    """
    for start in range(0, num_samples, batch * world_size):
        positions = start + np.arange(batch, dtype=np.int64) * world_size + rank
        yield positions % num_samples, (positions < num_samples).astype(np.float32)


@lru_cache(maxsize=1)
def _permutation(num_samples: int, seed: int, epoch: int) -> Rows:
    # As a spawn key the epoch cannot be taken for high bits of a long seed.
    sequence = np.random.SeedSequence(seed, spawn_key=(epoch,))
    order = np.random.Generator(np.random.Philox(sequence)).permutation(num_samples)
    order.setflags(write=False)
    return order.astype(np.int64, copy=False)
