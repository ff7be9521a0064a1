"""From settings to one rank's streams: data sets, cache, plan, transforms."""

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from rwp_dist.base.keyed import numpy_generator
from rwp_dist.config import Settings, Split
from rwp_dist.data.batch import Step
from rwp_dist.data.chosen import (
    Key,
    choose_selection,
    manifests_of,
    mixed_classes,
    node_folder,
    num_workers,
    patience_of,
    plan_of,
)
from rwp_dist.data.dataset import Dataset, load_dataset
from rwp_dist.data.image import Decoder, EvalTransform, TrainTransform
from rwp_dist.data.remote import NodeCache
from rwp_dist.data.sizes import Sizes
from rwp_dist.data.stream import EvalStream, TrainStream
from rwp_dist.data.worker import Reading
from rwp_dist.process import torchrun

_SAMPLE = 3
"""Part of the key of ``open_sample``; the plan's keys are 0 and 1."""


class Train(Protocol):
    """Training steps of one rank."""

    @property
    def steps_per_epoch(self) -> int:
        """Steps of one epoch, the same on every rank."""

    def steps(self, first: int, last: int) -> Iterator[Step]:
        """Steps ``first`` to ``last - 1`` of the run."""


class Eval(Protocol):
    """One rank's share of an evaluation."""

    @property
    def ahead(self) -> int:
        """Batches that are read before ``steps`` asks for them, once ``begin`` was called."""

    def begin(self) -> None:
        """Read them; called again before ``steps``, it does nothing."""

    def steps(self) -> Iterator[Step]:
        """All its batches, as steps of one batch each."""


def open_train(settings: Settings, split: Split, rank: int, *, pin: bool = False) -> TrainStream:
    """Training steps of one rank.

    Raises:
        ConfigError: there are no such data, or plan and batch do not fit each other.
        DataError: shards are missing or not what their manifest says.
    """
    cache, dataset = open_dataset(settings, "data.train")
    plan = plan_of(settings, choose_selection(settings, dataset))
    return TrainStream(
        dataset,
        plan,
        transform_of(settings),
        reading_of(settings, max(settings.data.train_sizes), pin),
        rank=rank,
        micro_batches=split.micro_batches,
        micro_batch_size=split.size,
        cache=cache,
        sizes=Sizes.of(settings, plan.steps_per_epoch),
    )


def transform_of(settings: Settings) -> TrainTransform:
    """From encoded training images to pixels, of the largest size that the run has."""
    d, a = settings.data, settings.augment
    return TrainTransform(
        max(d.train_sizes),
        a.crop,
        a.flip,
        scale=a.scale,
        pad=a.pad,
        auto=a.auto,
        num_ops=a.num_ops,
        magnitude=a.magnitude,
        severity=a.severity,
        jitter=a.jitter,
        cutout=a.cutout,
        erase=a.erase,
        fill=[round(255 * m) for m in d.mean],
        decoder=Decoder(d.decoder, d.channels, d.max_pixels),
        interpolation=d.interpolation,
    )


def open_eval(settings: Settings, rank: int, world_size: int, *, pin: bool = False) -> EvalStream:
    """One rank's share of the evaluation samples.

    Raises:
        ConfigError: there are no such data.
        DataError: shards are missing or not what their manifest says.
    """
    cache, dataset = open_dataset(settings, "data.val")
    return EvalStream(
        dataset,
        eval_transform_of(settings, settings.eval_size),
        reading_of(settings, settings.eval_size, pin),
        batch=settings.batch.per_rank,
        rank=rank,
        world_size=world_size,
        cache=cache,
    )


def open_sample(settings: Settings, num_images: int, batch: int) -> EvalStream:
    """Training images without augmentation, the same for every run on the same data.

    Args:
        settings: of a run; its seed does not matter.
        num_images: how many are drawn, at most all.
        batch: images of one batch.

    Raises:
        ConfigError: there are no such data.
        DataError: shards are missing or not what their manifest says.
    """
    cache, dataset = open_dataset(settings, "data.train")
    drawn = numpy_generator(0, _SAMPLE).permutation(dataset.num_samples)[:num_images]
    return EvalStream(
        dataset,
        eval_transform_of(settings, settings.data.image_size),
        reading_of(settings, settings.data.image_size, pin=False),
        batch=batch,
        rank=0,
        world_size=1,
        samples=drawn,
        cache=cache,
    )


def open_dataset(settings: Settings, key: Key) -> tuple[NodeCache | None, Dataset]:
    """Join the data sets of ``key``; there is a cache if one is remote or has remote shards.

    Raises:
        ConfigError: there are no such data.
        DataError: shards are missing or not what their manifest says.
    """
    d, patience = settings.data, patience_of(settings)
    manifests = manifests_of(settings, key, patience)
    mixed_classes(manifests)
    cache = None
    if not all(manifest.is_local for manifest in manifests):
        limit = None if d.cache_gb is None else int(d.cache_gb * 1e9)
        cache = NodeCache(Path(d.cache_dir), limit, patience, d.opener)
    return cache, load_dataset(manifests, settings.model.num_classes, cache, node_folder(settings))


def eval_transform_of(settings: Settings, size: int) -> EvalTransform:
    """From encoded images to the pixels that are evaluated, so many a side."""
    d = settings.data
    decoder = Decoder(d.decoder, d.channels, d.max_pixels)
    return EvalTransform(size, d.eval_crop_ratio, decoder, d.interpolation)


def reading_of(settings: Settings, size: int, pin: bool) -> Reading:
    """How this rank reads images of at most so many pixels a side."""
    d, workers = settings.data, num_workers(settings, torchrun.ranks_here())
    return Reading(size, d.channels, workers, d.prefetch, pin)
