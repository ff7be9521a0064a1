"""One rank's batches, read ahead by worker processes.

The plan says which samples a step takes; worker ``w`` of ``n`` makes steps ``w``, ``w + n``, ... So
neither ranks nor workers change what a step holds, and a run can start at any step.
"""

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import KW_ONLY, dataclass, field, replace
from functools import cache, cached_property
from itertools import count, islice, repeat

from rwp_dist.base.errors import DataError
from rwp_dist.data.batch import BadRecord, Batch, Step, Unreadable
from rwp_dist.data.dataset import Dataset
from rwp_dist.data.image import EvalTransform, TrainTransform
from rwp_dist.data.loader import load
from rwp_dist.data.plan import Plan, Positions, evaluation_rows
from rwp_dist.data.remote import NodeCache
from rwp_dist.data.sizes import Sizes
from rwp_dist.data.worker import LOOK_AHEAD_STEPS, Key, Loaded, Lost, Reading, Request, StepReader


@dataclass(eq=False)
class TrainStream:
    """One rank's training steps."""

    dataset: Dataset
    plan: Plan
    """Which samples a step takes."""
    transform: TrainTransform
    """From the bytes of an image to pixels."""
    reading: Reading
    """How samples are read."""
    _: KW_ONLY
    rank: int
    """Which slice of the global batch."""
    micro_batches: int
    """Batches of one step."""
    micro_batch_size: int
    """Samples of one of them."""
    cache: NodeCache | None = None
    """For remote shards."""
    sizes: Sizes | None = None
    """Of the images of each step; None: that of the transform."""

    def __post_init__(self) -> None:
        size = self.micro_batches * self.micro_batch_size
        self._start, self._stop = self.rank * size, (self.rank + 1) * size

    @property
    def steps_per_epoch(self) -> int:
        """Steps of one epoch, the same on every rank."""
        return self.plan.steps_per_epoch

    def steps(self, first: int, last: int) -> Iterator[Step]:
        """Steps ``first`` to ``last - 1`` of the run, over its epochs.

        If a shard cannot be read, the last step has a fatal ``bad`` record, so that all ranks can
        stop together; iterating over its batches raises the error.
        """

        def requests(worker: int, workers: int) -> Iterator[Request]:
            for step in range(first + worker, last, workers):
                yield self.request(step)

        def upcoming(step: int) -> list[int]:
            epoch, index = divmod(step, self.steps_per_epoch)
            return self.plan.upcoming_shards(
                epoch, index, self._start, self._stop, min(LOOK_AHEAD_STEPS, last - step)
            )

        reader = StepReader(
            self.dataset, requests, self._transform_at, self.reading, self.cache, upcoming
        )
        for item in load(reader, self.reading, last - first, self._stop - self._start):
            if isinstance(item, Lost):
                fatal = BadRecord(item.step, -1, str(item.error), item.error)
                yield Step(Unreadable(item.error), [0] * self.micro_batches, [fatal])
                return
            yield _step(item, self.micro_batch_size)

    def request(self, step: int) -> Request:
        """Rows of this rank in one step of the run."""
        epoch, index = divmod(step, self.steps_per_epoch)
        rows = self.plan.step(epoch, index, self._start, self._stop)
        samples = (self.dataset.firsts[rows.shards] + rows.rows).tolist()
        parts = [repeat(self.plan.seed), repeat(epoch), samples]
        if self.plan.selection.repeats or self.plan.copies > 1:
            # The same sample several times in an epoch: augmented differently by its place.
            parts.append(count(index * self.plan.batch + self._start))
        keys: list[Key] = list(zip(*parts, strict=False))
        size = self.sizes.at(step) if self.sizes else self.transform.size
        return Request(step, rows.shards, rows.rows, rows.weights, keys, size)

    @cached_property
    def _transform_at(self) -> Callable[[int], TrainTransform]:
        """The transform to images of a size."""
        return cache(lambda size: replace(self.transform, size=size))


@dataclass(eq=False)
class EvalStream:
    """One rank's share of an evaluation: over all ranks, every sample exactly once."""

    dataset: Dataset
    transform: EvalTransform
    """From the bytes of an image to pixels."""
    reading: Reading
    """How samples are read."""
    _: KW_ONLY
    batch: int
    """Samples of one batch."""
    rank: int
    """Which share."""
    world_size: int
    """Number of shares."""
    samples: Positions | None = None
    """Numbers of the samples, in their order; all, unless given."""
    cache: NodeCache | None = None
    """For remote shards."""
    _begun: Iterator[Loaded | Lost] | None = field(default=None, init=False, repr=False)

    @property
    def ahead(self) -> int:
        """Batches that workers keep ready, once ``begin`` has started them."""
        return self.reading.workers * self.reading.prefetch

    def begin(self) -> None:
        """Start the workers of the next ``steps`` now, which read the first batches meanwhile."""
        if self._begun is None and self.ahead:
            with suppress(DataError):  # ``steps`` tries again, where all ranks stop together
                # Of a copy, so that no circle of references keeps workers that nobody asks for.
                self._begun = replace(self)._items()

    def steps(self) -> Iterator[Step]:
        """All batches, as steps of one batch each.

        Raises:
            DataError: a shard cannot be read.
        """
        items, self._begun = self._begun or self._items(), None
        for item in items:
            if isinstance(item, Lost):
                raise item.error
            yield _step(item, self.batch)

    def _items(self) -> Iterator[Loaded | Lost]:
        num = self.dataset.num_samples if self.samples is None else len(self.samples)
        num_batches = -(-num // (self.batch * self.world_size))

        def requests(worker: int, workers: int) -> Iterator[Request]:
            share = enumerate(evaluation_rows(num, self.batch, self.rank, self.world_size))
            for number, (positions, weights) in islice(share, worker, None, workers):
                taken = positions if self.samples is None else self.samples[positions]
                shards, rows = self.dataset.locate(taken)
                keys: list[Key] = [(sample,) for sample in taken.tolist()]
                yield Request(number, shards, rows, weights, keys, self.transform.size)

        reader = StepReader(
            self.dataset, requests, lambda size: self.transform, self.reading, self.cache
        )
        return load(reader, self.reading, num_batches, self.batch)


def _step(loaded: Loaded, size: int) -> Step:
    """Cut what was loaded into micro-batches of ``size`` samples."""
    tensors = (t.split(size) for t in (loaded.images, loaded.labels, loaded.weights))
    batches = [Batch(*parts) for parts in zip(*tensors, strict=True)]
    valid = [int(batch.weights.sum()) for batch in batches]
    return Step(batches, valid, loaded.bad, loaded.num_bytes, loaded.cache)
