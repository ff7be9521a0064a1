"""The order of samples, as a pure function of (seed, epoch, step).

Nothing here is state: any step of any epoch can be asked for directly, so resuming is instant, and
the global batch does not depend on ranks or workers, which only choose their rows of it.

An epoch permutes the shards, lays them end to end, and cuts that line into ``lanes`` of equal
length. Each lane is shuffled in blocks of ``window`` samples. A global batch is the next slice of
every lane, one lane after another. So a rank reads from few shards at a time, a batch mixes many,
and the plan knows which shards come next.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache, partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rwp_dist.base.errors import ConfigError
from rwp_dist.base.keyed import numpy_generator
from rwp_dist.data.selection import Line, Selection

Positions = NDArray[np.int64]
Weights = NDArray[np.float32]


BLOCKS_PER_LANE = 4
"""Blocks that a plan remembers: 20 bytes a sample, 10 MB for 8 lanes and the usual window."""


class Rows(NamedTuple):
    """Samples of a batch, by shard and row of the shard's index."""

    shards: NDArray[np.int64]
    rows: NDArray[np.int64]
    weights: Weights
    """1, or 0 for padding."""


@dataclass(frozen=True)
class Plan:
    """Which samples every training step takes.

    Every sample is taken at most once an epoch, and fewer than ``batch + lanes`` are left out,
    others in every epoch; with ``pad`` every sample is taken, and the last batch is filled up with
    copies of weight 0.

    With ``copies`` above 1 a batch has ``batch / copies`` samples so many times (Hoffer et al.,
    "Augment your batch", CVPR 2020). An epoch has as many steps as without, and goes on where the
    one before has ended: ``copies`` epochs take what one would. Copies of a sample are
    ``batch / copies`` rows apart, so that few of them meet in a pass, as in DeiT's sampler.

    Raises:
        ConfigError: lanes do not divide the batch, or there is not one whole batch.
    """

    selection: Selection
    batch: int
    """Samples of one step over all ranks."""
    lanes: int
    window: int
    """Samples of a lane that are shuffled with each other."""
    seed: int
    pad: bool = False
    copies: int = 1
    """How often a batch has each of its samples."""

    def __post_init__(self) -> None:
        if self.batch % self.copies:
            raise ConfigError(
                f"a batch of {self.batch} cannot have each sample {self.copies} times",
                key="augment.repeats",
                cure=f"set augment.repeats to {np.gcd(self.copies, self.batch)}",
            )
        if self.batch // self.copies % self.lanes:
            raise ConfigError(
                f"{self.lanes} lanes do not divide a batch of {self.batch // self.copies}",
                key="data.lanes",
                cure=f"set data.lanes to {np.gcd(self.lanes, self.batch // self.copies)}",
            )
        if self.steps_per_epoch < 1:
            raise ConfigError(
                f"{self.batch} is more than the {self.num_samples} samples of an epoch",
                key="batch.global",
                cure="make it smaller, or set data.pad_last to true",
            )

    @property
    def num_samples(self) -> int:
        """Samples of an epoch, before any are left out."""
        return self.selection.num_samples

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches of an epoch; with ``pad`` also the last, partial one."""
        if self.pad:
            return -(-self.num_samples // self.batch)
        return self.num_samples // self.lanes // (self.batch // self.lanes)

    def step(self, epoch: int, index: int, start: int = 0, stop: int | None = None) -> Rows:
        """Rows ``start`` to ``stop`` of a global batch.

        Raises:
            IndexError: the epoch has no such step.
        """
        if not 0 <= index < self.steps_per_epoch:
            raise IndexError(f"step {index} of an epoch of {self.steps_per_epoch} steps.")
        stop = self.batch if stop is None else stop
        if self.copies > 1:
            return self._step_of_copies(epoch * self.steps_per_epoch + index, start, stop)
        share = self.batch // self.lanes
        pieces: list[Rows] = []
        for lane in range(start // share, -(-stop // share)):
            first = max(start - lane * share, 0) + index * share
            last = min(stop - lane * share, share) + index * share
            for number in range(first // self.window, -(-last // self.window)):
                begin = number * self.window
                cut = slice(max(first - begin, 0), last - begin)
                pieces.append(Rows._make(part[cut] for part in self._block(epoch, lane, number)))
        if len(pieces) == 1:
            return Rows._make(part.copy() for part in pieces[0])
        return Rows._make(map(np.concatenate, zip(*pieces, strict=True)))

    def _step_of_copies(self, step: int, start: int, stop: int) -> Rows:
        """Rows ``start`` to ``stop`` of a step of the run, whose batch is one of fewer samples."""
        once = self._once
        epoch, index = divmod(step, once.steps_per_epoch)
        pieces = [
            once.step(epoch, index, max(start - first, 0), min(stop - first, once.batch))
            for first in range(0, self.batch, once.batch)
            if start < first + once.batch and stop > first
        ]
        return Rows._make(map(np.concatenate, zip(*pieces, strict=True)))

    @cached_property
    def _once(self) -> "Plan":
        """The plan of the same samples without copies."""
        return replace(self, batch=self.batch // self.copies, copies=1)

    def upcoming_shards(
        self, epoch: int, index: int, start: int, stop: int, num_steps: int
    ) -> list[int]:
        """Shards that rows ``start`` to ``stop`` of the next steps need, soonest first.

        At the end of an epoch these are the next one's.
        """
        found: dict[int, None] = {}
        for ahead in range(index, index + num_steps):
            later, own = divmod(ahead, self.steps_per_epoch)
            rows = self.step(epoch + later, own, start, stop)
            found.update(dict.fromkeys(rows.shards.tolist()))
        return list(found)

    def _lane_length(self) -> int:
        if self.pad:
            return self.steps_per_epoch * (self.batch // self.lanes)
        return self.num_samples // self.lanes

    @cached_property
    def _line(self) -> Callable[[int], Line]:
        """The line of an epoch. Two are kept: at the end of an epoch the next one is needed too."""
        return lru_cache(maxsize=2)(partial(self.selection.line, self.seed))

    @cached_property
    def _block(self) -> Callable[[int, int, int], Rows]:
        """The samples of a block, by (epoch, lane, number), shuffled.

        Those of this step are kept, and those of the steps that are looked at ahead.
        """
        return lru_cache(maxsize=BLOCKS_PER_LANE * self.lanes)(self._shuffled)

    def _shuffled(self, epoch: int, lane: int, number: int) -> Rows:
        length = self._lane_length()
        begin = number * self.window
        size = min(self.window, length - begin)
        order = numpy_generator(self.seed, 1, epoch, lane, number).permutation(size)
        positions = np.arange(size) + (lane * length + begin)
        weights = np.ones(size, dtype=np.float32)
        if self.pad:
            weights[positions >= self.num_samples] = 0.0
            positions %= self.num_samples
        shards, rows = self._line(epoch).locate(positions)
        return Rows(shards[order], rows[order], weights[order])


def evaluation_rows(
    num_samples: int, batch: int, rank: int, world_size: int
) -> Iterator[tuple[Positions, Weights]]:
    """One rank's share of an evaluation: positions and weights, ``[batch]`` each.

    Over all ranks every sample comes with weight 1 exactly once. Every rank gets the same number
    of batches, so collective operations line up; what is missing is copies with weight 0. A rank's
    batch is a stretch of neighbours, which lie in one shard.
    """
    for start in range(0, num_samples, batch * world_size):
        positions = start + rank * batch + np.arange(batch, dtype=np.int64)
        yield positions % num_samples, (positions < num_samples).astype(np.float32)
