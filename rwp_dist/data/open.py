"""From settings to one rank's streams: data sets, cache, plan, transforms."""

from collections.abc import Iterator
from math import gcd
from pathlib import Path
from typing import Literal, Protocol

from rwp_dist.base.keyed import numpy_generator
from rwp_dist.config import Settings, Split
from rwp_dist.data.batch import Step
from rwp_dist.data.classes import Classes
from rwp_dist.data.dataset import Dataset, is_local, load_dataset, load_manifest
from rwp_dist.data.format.manifest import Manifest
from rwp_dist.data.image import Decoder, EvalTransform, TrainTransform
from rwp_dist.data.plan import Plan
from rwp_dist.data.remote import NodeCache, Patience
from rwp_dist.data.selection import Balanced, Everything, Mixture, Selection
from rwp_dist.data.stream import EvalStream, TrainStream
from rwp_dist.data.worker import Reading

_SAMPLE = 3
"""Part of the key of ``open_sample``; the plan's keys are 0 and 1."""

Key = Literal["data.train", "data.val"]
"""The setting that names a data set."""


class Train(Protocol):
    """Training steps of one rank."""

    @property
    def steps_per_epoch(self) -> int:
        """Steps of one epoch, the same on every rank."""

    def steps(self, first: int, last: int) -> Iterator[Step]:
        """Steps ``first`` to ``last - 1`` of the run."""

    def state(self) -> dict[str, object]:
        """What must be the same for a resumed run to see the same samples."""


class Eval(Protocol):
    """One rank's share of an evaluation."""

    def steps(self) -> Iterator[Step]:
        """All its batches, as steps of one batch each."""


def open_train(settings: Settings, split: Split, rank: int, *, pin: bool = False) -> TrainStream:
    """Training steps of one rank.

    Raises:
        ConfigError: plan and batch do not fit each other.
        DataError: shards are missing or not what their manifest says.
    """
    d = settings.data
    cache, dataset = open_dataset(settings, "data.train")
    plan = Plan(
        choose_selection(settings, dataset),
        settings.batch.global_,
        d.lanes or gcd(8, settings.batch.global_),
        d.window,
        settings.run.seed,
        d.pad_last,
    )
    return TrainStream(
        dataset,
        plan,
        transform_of(settings),
        reading_of(settings, pin),
        rank=rank,
        micro_batches=split.micro_batches,
        micro_batch_size=split.size,
        cache=cache,
    )


def sources_of(settings: Settings, key: Key) -> tuple[str, ...]:
    """Folders or URLs of the data; of all in ``data.mix``, which replaces ``data.train``."""
    if key == "data.val":
        return (settings.data.val,)
    return tuple(settings.data.mix) or (settings.data.train,)


def transform_of(settings: Settings) -> TrainTransform:
    """From encoded training images to pixels."""
    d, a = settings.data, settings.augment
    return TrainTransform(
        d.image_size,
        a.crop,
        a.flip,
        scale=a.scale,
        pad=a.pad,
        auto=a.auto,
        num_ops=a.num_ops,
        magnitude=a.magnitude,
        cutout=a.cutout,
        erase=a.erase,
        fill=[round(255 * m) for m in d.mean],
        decoder=Decoder(d.decoder, d.channels),
        interpolation=d.interpolation,
    )


def open_eval(settings: Settings, rank: int, world_size: int, *, pin: bool = False) -> EvalStream:
    """One rank's share of the evaluation samples.

    Raises:
        DataError: shards are missing or not what their manifest says.
    """
    cache, dataset = open_dataset(settings, "data.val")
    return EvalStream(
        dataset,
        _plain_transform(settings),
        reading_of(settings, pin),
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
        DataError: shards are missing or not what their manifest says.
    """
    cache, dataset = open_dataset(settings, "data.train")
    drawn = numpy_generator(0, _SAMPLE).permutation(dataset.num_samples)[:num_images]
    return EvalStream(
        dataset,
        _plain_transform(settings),
        reading_of(settings, pin=False),
        batch=batch,
        rank=0,
        world_size=1,
        samples=drawn,
        cache=cache,
    )


def open_dataset(settings: Settings, key: Key) -> tuple[NodeCache | None, Dataset]:
    """Join the data sets of ``key``; there is a cache if one is remote or has remote shards.

    Raises:
        DataError: shards are missing or not what their manifest says.
    """
    d = settings.data
    patience = Patience(d.retries, stall_s=d.stall_s)
    manifests = _manifests(settings, key, patience)
    cache = None
    if not all(is_local(manifest) for manifest in manifests):
        limit = None if d.cache_gb is None else int(d.cache_gb * 1e9)
        cache = NodeCache(Path(d.cache_dir).expanduser(), limit, patience, d.opener)
    return cache, load_dataset(manifests, settings.model.num_classes, cache)


def classes_of(settings: Settings, key: Key) -> Classes:
    """The classes of the data sets of ``key``, from their manifests alone.

    Raises:
        DataError: a manifest is missing, or labels of a mixture do not mean the same.
    """
    d = settings.data
    return Classes.of(_manifests(settings, key, Patience(d.retries, stall_s=d.stall_s)))


def _manifests(settings: Settings, key: Key, patience: Patience) -> list[Manifest]:
    d = settings.data
    named = "data.mix" if key == "data.train" and d.mix else key
    return [
        load_manifest(source, patience, d.opener, key=named) for source in sources_of(settings, key)
    ]


def _plain_transform(settings: Settings) -> EvalTransform:
    d = settings.data
    decoder = Decoder(d.decoder, d.channels)
    return EvalTransform(d.image_size, d.eval_crop_ratio, decoder, d.interpolation)


def choose_selection(settings: Settings, dataset: Dataset) -> Selection:
    """Which samples an epoch consists of."""
    if settings.data.mix:
        weights = tuple(settings.data.mix.values())
        return Mixture(dataset.counts, dataset.source, weights)
    if settings.data.sampling == "balanced":
        return Balanced(dataset.counts, dataset.labels)
    return Everything(dataset.counts)


def reading_of(settings: Settings, pin: bool) -> Reading:
    """How this rank reads."""
    d = settings.data
    return Reading(d.image_size, d.channels, d.workers, d.prefetch, pin)
