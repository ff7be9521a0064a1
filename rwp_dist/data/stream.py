"""One rank's batches, read ahead by worker processes.

The plan says which samples a step takes; worker ``w`` of ``n`` makes steps ``w``, ``w + n``, ... So
neither ranks nor workers change what a step holds, and a run starts at any step at once. A sample
that cannot be read is replaced by a copy of a good one with weight 0 and reported.
"""

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from multiprocessing.synchronize import Semaphore
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from rwp_dist.base.errors import DataError, RwpError
from rwp_dist.data.batch import BadRecord, Batch, Step, Unreadable
from rwp_dist.data.dataset import Dataset
from rwp_dist.data.image import EvalTransform, TrainTransform
from rwp_dist.data.image.decode import UndecodableImage
from rwp_dist.data.plan import Plan, evaluation_rows
from rwp_dist.data.reader import BadSample, ShardFiles, ShardReader
from rwp_dist.data.remote.cache import CacheStats, NodeCache
from rwp_dist.process.rank import end_with_parent

LOOK_AHEAD_STEPS = 64
"""How far ahead of a worker its node's cache fetches shards."""

WORKER_START_S, WORKER_STARTS = 60.0, 3
"""How long a worker may take to begin, and how often workers are started until all have begun."""

Decode = Callable[[bytes, tuple[int, ...]], NDArray[np.uint8]]


@dataclass(frozen=True)
class Reading:
    """How samples become pixels, and with how many processes."""

    size: int
    channels: int
    workers: int = 0
    prefetch: int = 2
    """Steps that each worker keeps ready."""
    pin: bool = False
    max_open_shards: int = 128
    """Local ones; of the cache a process holds one at a time."""


class Request(NamedTuple):
    """One step's rows, as a worker needs them."""

    step: int
    """Position in the stream; what bad samples are reported with."""
    shards: NDArray[np.int64]
    rows: NDArray[np.int64]
    weights: NDArray[np.float32]
    keys: list[tuple[int, ...]]


class _Work(IterableDataset[dict[str, Any]]):
    """What worker processes run: requests in, pixels out."""

    def __init__(
        self,
        dataset: Dataset,
        requests: Callable[[int, int], Iterator[Request]],
        decode: Decode,
        reading: Reading,
        cache: NodeCache | None,
        upcoming: Callable[[int], list[int]] | None = None,
    ) -> None:
        self._dataset, self._requests, self._decode = dataset, requests, decode
        self._reading, self._cache, self._upcoming = reading, cache, upcoming

    def __iter__(self) -> Iterator[dict[str, Any]]:
        info = get_worker_info()
        worker, workers = (info.id, info.num_workers) if info else (0, 1)
        # Of the cache one at a time: whoever waits for a shard must hold none that others wait for.
        files = ShardFiles(1 if self._cache else self._reading.max_open_shards, self._cache)
        firsts, counts, index = self._dataset.firsts, self._dataset.counts, self._dataset.index
        readers: dict[int, ShardReader] = {}

        def read(shard: int, row: int) -> bytes:
            if shard not in readers:
                rows = index[firsts[shard] : firsts[shard] + counts[shard]]
                readers[shard] = ShardReader(self._dataset.shards[shard], rows, files)
            return readers[shard].read(row)

        before = CacheStats()
        look_at = -1
        for request in self._requests(worker, workers):
            if self._cache and self._upcoming and request.step >= look_at:
                look_at = request.step + LOOK_AHEAD_STEPS // 2
                soon = self._upcoming(request.step)
                self._cache.prefetch(self._dataset.shards[shard] for shard in soon)
            try:
                item = self._fill(request, read)
            except RwpError as error:
                # As an item: an exception would come out of a worker with its traceback as text.
                yield {"step": request.step, "error": error}
                return
            if self._cache:
                files.close()
                now = self._cache.stats()
                item["cache"], before = _since(before, now), now
            yield item

    def _fill(self, request: Request, read: Callable[[int, int], bytes]) -> dict[str, Any]:
        size, channels = self._reading.size, self._reading.channels
        count = len(request.rows)
        images = np.empty((count, size, size, channels), dtype=np.uint8)
        samples = self._dataset.firsts[request.shards] + request.rows
        weights = request.weights.copy()
        bad: list[tuple[int, int, str]] = []
        failed: list[int] = []
        num_bytes = 0
        # Shard by shard, in the order in which the samples lie there.
        order = np.lexsort((request.rows, request.shards))
        for position in order.tolist():
            shard, row = int(request.shards[position]), int(request.rows[position])
            try:
                data = read(shard, row)
                images[position] = self._decode(data, request.keys[position])
                num_bytes += len(data)
            except (BadSample, UndecodableImage) as error:
                failed.append(position)
                if weights[position]:
                    name = self._dataset.name(shard, row)
                    reason = str(error) if name.split(",")[0] in str(error) else f"{name}: {error}"
                    bad.append((request.step, int(samples[position]), reason))
        labels = self._dataset.labels_of(samples)
        item = {
            "step": request.step,
            "images": torch.from_numpy(images).permute(0, 3, 1, 2),  # a view: channels last
            "labels": torch.from_numpy(labels),
            "weights": torch.from_numpy(weights),
            "bad": bad,
            "bytes": num_bytes,
            "cache": CacheStats(),
        }
        return _replaced(item, failed)


class TrainStream:
    """One rank's training steps."""

    def __init__(
        self,
        dataset: Dataset,
        plan: Plan,
        transform: TrainTransform,
        reading: Reading,
        *,
        rank: int,
        micro_batches: int,
        micro_batch_size: int,
        cache: NodeCache | None = None,
    ) -> None:
        self.dataset, self.plan = dataset, plan
        self._transform, self._reading, self._cache = transform, reading, cache
        self._start = rank * micro_batches * micro_batch_size
        self._size, self._micro_batches = micro_batch_size, micro_batches
        self._stop = self._start + micro_batches * micro_batch_size

    @property
    def steps_per_epoch(self) -> int:
        """Steps of one epoch, the same on every rank."""
        return self.plan.steps_per_epoch

    def steps(self, first: int, last: int) -> Iterator[Step]:
        """Steps ``first`` up to, not including, ``last`` of the run, over its epochs.

        If a shard cannot be had, the last step is one whose ``bad`` says so, so that all ranks may
        end together; taking its batches raises the error.
        """

        def requests(worker: int, workers: int) -> Iterator[Request]:
            for step in range(first + worker, last, workers):
                yield self.request(step)

        def upcoming(step: int) -> list[int]:
            epoch, index = divmod(step, self.steps_per_epoch)
            return self.plan.upcoming_shards(
                epoch, index, self._start, self._stop, min(LOOK_AHEAD_STEPS, last - step)
            )

        work = _Work(self.dataset, requests, self._transform, self._reading, self._cache, upcoming)
        for item in _load(work, self._reading, last - first):
            if "error" in item:
                failed = BadRecord(item["step"], -1, str(item["error"]))
                yield Step(Unreadable(item["error"]), [0] * self._micro_batches, [failed])
                return
            yield _step(item, self._size)

    def state(self) -> dict[str, object]:
        """What the order of samples depends on, beside epoch and step."""
        plan = self.plan
        return {
            "manifest id": self.dataset.id,
            "run.seed": plan.seed,
            "batch.global": plan.batch,
            "data.lanes": plan.lanes,
            "data.window": plan.window,
            "data.pad_last": plan.pad,
            "sampling": plan.selection.recipe,
        }

    def request(self, step: int) -> Request:
        """Rows of this rank in one step of the run."""
        epoch, index = divmod(step, self.steps_per_epoch)
        rows = self.plan.step(epoch, index, self._start, self._stop)
        samples = (self.dataset.firsts[rows.shards] + rows.rows).tolist()
        seed = self.plan.seed
        keys: list[tuple[int, ...]]
        if self.plan.selection.repeats:
            # The same sample several times in an epoch: augmented differently by its place.
            first = index * self.plan.batch + self._start
            keys = [(seed, epoch, sample, place) for place, sample in enumerate(samples, first)]
        else:
            keys = [(seed, epoch, sample) for sample in samples]
        return Request(step, rows.shards, rows.rows, rows.weights, keys)


class EvalStream:
    """One rank's share of an evaluation: every sample exactly once over all ranks."""

    def __init__(
        self,
        dataset: Dataset,
        transform: EvalTransform,
        reading: Reading,
        *,
        batch: int,
        rank: int,
        world_size: int,
        cache: NodeCache | None = None,
    ) -> None:
        self.dataset = dataset
        self._transform, self._reading, self._cache = transform, reading, cache
        self._share = (batch, rank, world_size)
        self._batch = batch

    def steps(self) -> Iterator[Step]:
        """All batches, as steps of one batch each.

        Raises:
            DataError: a shard cannot be had.
        """
        shares = list(evaluation_rows(self.dataset.num_samples, *self._share))

        def requests(worker: int, workers: int) -> Iterator[Request]:
            for number in range(worker, len(shares), workers):
                samples, weights = shares[number]
                shards, rows = self.dataset.locate(samples)
                yield Request(number, shards, rows, weights, [()] * len(samples))

        transform = self._transform

        def decode(data: bytes, key: tuple[int, ...]) -> NDArray[np.uint8]:
            return transform(data)

        work = _Work(self.dataset, requests, decode, self._reading, self._cache)
        for item in _load(work, self._reading, len(shares)):
            if "error" in item:
                raise item["error"]
            yield _step(item, self._batch)


def _load(work: _Work, reading: Reading, count: int) -> Iterator[dict[str, Any]]:
    """The items of all steps.

    Raises:
        DataError: worker processes did not begin.
    """
    workers = min(reading.workers, count)
    load = partial(DataLoader, work, batch_size=None, collate_fn=_as_it_is, pin_memory=reading.pin)
    if not workers:
        return iter(load())
    # Forked: index and plan are shared, not copied.
    fork = multiprocessing.get_context("fork")
    for _ in range(WORKER_STARTS):
        before = set(multiprocessing.active_children())
        begun = fork.Semaphore(0)
        items = iter(
            load(
                num_workers=workers,
                prefetch_factor=reading.prefetch,
                worker_init_fn=partial(_begin, begun),
                multiprocessing_context=fork,
            )
        )
        if all(begun.acquire(timeout=WORKER_START_S) for _ in range(workers)):
            return items
        # Before Python 3.12 a child can hang inside fork itself, if another thread of the parent
        # (gloo's, as it lets go of a tensor) just then holds the interpreter's list of threads.
        started = set(multiprocessing.active_children()) - before
        del items  # ends those that have begun; the others do not even hear signals
        for process in started:
            process.kill()
            process.join()
    raise DataError(
        f"{workers} worker processes did not begin in {WORKER_STARTS} times {WORKER_START_S:.0f} "
        "s; start the same command again, or set data.workers=0."
    )


def _begin(begun: Semaphore, worker: int) -> None:
    """What a worker does first."""
    _obey_rank_alone(worker)
    begun.release()


def _as_it_is(item: Any) -> Any:
    return item


def _obey_rank_alone(worker: int) -> None:
    """Ctrl-C and Slurm's signals reach workers too: the rank decides when to stop.

    A rank that is killed takes its workers along, also those that wait for a server just then.
    """
    for number in (signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    # torch ends its workers with SIGTERM. scancel sends it to every process of a job, and a worker
    # that is lost would fail the rank while it saves.
    if sys.platform == "linux":
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_obey_sigterm_of, args=(os.getppid(),), daemon=True).start()
    else:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    end_with_parent()


def _obey_sigterm_of(rank: int) -> None:
    if sys.platform == "linux":
        while signal.sigwaitinfo({signal.SIGTERM}).si_pid != rank:
            pass
        os._exit(128 + signal.SIGTERM)


def _replaced(item: dict[str, Any], failed: list[int]) -> dict[str, Any]:
    """Copies of a good row, so that BatchNorm sees images, with weight 0; black without any."""
    if failed:
        images, labels = item["images"], item["labels"]
        good = next((i for i in range(len(labels)) if i not in set(failed)), None)
        images[failed] = 0 if good is None else images[good].clone()
        labels[failed] = 0 if good is None else labels[good].clone()
        item["weights"][failed] = 0.0
    return item


def _step(item: dict[str, Any], size: int) -> Step:
    tensors = (item[name].split(size) for name in ("images", "labels", "weights"))
    batches = [Batch(*parts) for parts in zip(*tensors, strict=True)]
    valid = [int(batch.weights.sum()) for batch in batches]
    bad = [BadRecord(*record) for record in item["bad"]]
    return Step(batches, valid, bad, item["bytes"], item["cache"])


def _since(before: CacheStats, now: CacheStats) -> CacheStats:
    return CacheStats(
        now.hits - before.hits,
        now.misses - before.misses,
        now.bytes_downloaded - before.bytes_downloaded,
        now.retries - before.retries,
        now.evictions - before.evictions,
    )
