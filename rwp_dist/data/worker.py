"""What a worker process does: read the samples of a step, decode them, fill tensors.

A sample that cannot be read or decoded is replaced by a copy of a good one with weight 0, and
reported.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from rwp_dist.base.errors import RwpError
from rwp_dist.data.batch import BadRecord
from rwp_dist.data.dataset import Dataset
from rwp_dist.data.format.index import Index
from rwp_dist.data.image import UndecodableImage
from rwp_dist.data.image.pixels import Encoded, Pixels
from rwp_dist.data.reader import OPEN_SHARDS, BadSample, ShardFiles
from rwp_dist.data.remote import CacheStats, NodeCache, Prefetcher, Shard

LOOK_AHEAD_STEPS = 64
"""How many steps ahead of a worker shards are downloaded into the node's cache."""
LOOK_AHEAD_SHARDS = 32
"""Most shards that one worker has downloaded before it needs them."""

Key = tuple[int, ...]
Decode = Callable[[Encoded, Key, Pixels], object]
"""Bytes of an image and the key of its augmentation into uint8 ``[size, size, C]``."""
DecodeAt = Callable[[int], Decode]
"""From the size of images to what makes them."""


@dataclass(frozen=True)
class Reading:
    """How samples become pixels, and with how many processes."""

    size: int
    """Height and width of the largest images, in pixels."""
    channels: int
    workers: int = 0
    """Processes that read and decode. 0: the calling process does."""
    prefetch: int = 2
    """Steps that each worker keeps ready."""
    pin: bool = False
    """Put batches into pinned memory, from which a GPU copies without the host waiting."""


class Request(NamedTuple):
    """The rows of one step."""

    step: int
    """Position in the stream, which bad samples are reported with."""
    shards: NDArray[np.int64]
    """Shard of each sample, ``[B]``."""
    rows: NDArray[np.int64]
    """Row of each sample in the index of its shard, ``[B]``."""
    weights: NDArray[np.float32]
    """1, or 0 for padding, ``[B]``."""
    keys: list[Key]
    """Key of each sample's augmentation."""
    size: int
    """Height and width of its images, in pixels."""


class Loaded(NamedTuple):
    """The samples of one request, decoded."""

    step: int
    images: Tensor
    """uint8 ``[B, C, H, W]``, channels last in memory."""
    labels: Tensor
    """int64 ``[B]``."""
    weights: Tensor
    """float32 ``[B]``: those of the request, or 0 for a bad sample."""
    bad: list[BadRecord]
    num_bytes: int
    """Encoded bytes that were read."""
    cache: CacheStats


class Lost(NamedTuple):
    """A request whose shard cannot be read."""

    step: int
    error: RwpError


class ItemReader(IterableDataset[Loaded | Lost]):
    """What workers read, each its own part."""

    def __iter__(self) -> Iterator[Loaded | Lost]:
        info = get_worker_info()
        assert info is not None, "only a DataLoader's workers iterate over it"
        return self.items(info.id, info.num_workers)

    def items(self, worker: int, workers: int) -> Iterator[Loaded | Lost]:
        """Those of one of so many workers: items ``worker``, ``worker + workers``, ..."""
        raise NotImplementedError


@dataclass(eq=False)
class StepReader(ItemReader):
    """Reads the requests of this worker, one after the other."""

    dataset: Dataset
    requests: Callable[[int, int], Iterator[Request]]
    """From a worker's number and the number of workers to its requests."""
    decode_at: DecodeAt
    reading: Reading
    cache: NodeCache | None
    """For remote shards."""
    upcoming: Callable[[int], list[int]] | None = None
    """From a step to the shards that it and the following ones need, soonest first."""

    def items(self, worker: int, workers: int) -> Iterator[Loaded | Lost]:
        """Those of one of so many workers."""
        # Of the cache only one shard is open, because its disk has to hold what is open as well.
        files = ShardFiles(1 if self.cache else OPEN_SHARDS, self.cache)
        prefetcher = None
        if self.cache:
            self.cache.take_stats()  # what the parent process counted is not this worker's
            prefetcher = Prefetcher(self.cache, LOOK_AHEAD_SHARDS)
        look_at = -1
        # Kept, because making them takes longer than looking a sample up.
        shard_of = lru_cache(OPEN_SHARDS)(self._shard)
        try:
            for request in self.requests(worker, workers):
                if prefetcher and self.upcoming and request.step >= look_at:
                    look_at = request.step + LOOK_AHEAD_STEPS // 2
                    soon = self.upcoming(request.step)
                    prefetcher.want(self.dataset.shards[shard] for shard in soon)
                try:
                    yield self._load(request, files, shard_of)
                except RwpError as error:
                    # Not raised: it would come out of a worker with its traceback as text.
                    yield Lost(request.step, error)
                    return
                if self.cache:
                    files.close()
        finally:
            files.close()
            if prefetcher:
                prefetcher.close()

    def _shard(self, number: int) -> tuple[Shard, Index]:
        return self.dataset.shards[number], self.dataset.rows_of(number)

    def _load(
        self, request: Request, files: ShardFiles, shard_of: Callable[[int], tuple[Shard, Index]]
    ) -> Loaded:
        dataset, size, channels = self.dataset, request.size, self.reading.channels
        decode = self.decode_at(size)
        images = np.empty((len(request.rows), size, size, channels), dtype=np.uint8)
        samples = dataset.firsts[request.shards] + request.rows
        bad: list[BadRecord] = []
        failed: list[int] = []
        num_bytes = 0
        # Shard by shard, in the order in which the samples lie there.
        shards, rows = request.shards.tolist(), request.rows.tolist()
        for position in np.lexsort((request.rows, request.shards)).tolist():
            number, row = shards[position], rows[position]
            shard, index = shard_of(number)
            try:
                data = files.view(shard, index, row)
                decode(data, request.keys[position], images[position])
                num_bytes += len(data)
            except (BadSample, UndecodableImage) as error:
                failed.append(position)
                if request.weights[position]:
                    reason = self._reason(number, row, error)
                    bad.append(BadRecord(request.step, int(samples[position]), reason))
        loaded = Loaded(
            request.step,
            torch.from_numpy(images).permute(0, 3, 1, 2),  # a view: channels last
            torch.from_numpy(dataset.labels_of(samples)),
            torch.from_numpy(request.weights.copy()),
            bad,
            num_bytes,
            self.cache.take_stats() if self.cache else CacheStats(),
        )
        _replace(loaded, failed)
        return loaded

    def _reason(self, shard: int, row: int, error: Exception) -> str:
        name = self.dataset.name(shard, row)
        return str(error) if name.split(",")[0] in str(error) else f"{name}: {error}"


def _replace(loaded: Loaded, failed: list[int]) -> None:
    """Overwrite bad rows by copies of a good one, so that BatchNorm sees images; weight 0.

    Without any good row they become black.
    """
    if not failed:
        return
    images, labels = loaded.images, loaded.labels
    good = next((i for i in range(len(labels)) if i not in set(failed)), None)
    images[failed] = 0 if good is None else images[good].clone()
    labels[failed] = 0 if good is None else labels[good].clone()
    loaded.weights[failed] = 0.0
