"""A small data set of real JPEG shards, its streams, and what they yield."""

import hashlib
from functools import partial

import numpy as np

from rwp_dist.data.dataset import load_dataset, load_manifest
from rwp_dist.data.format.manifest import Manifest
from rwp_dist.data.image import EvalTransform, TrainTransform
from rwp_dist.data.plan import Plan
from rwp_dist.data.selection import Everything
from rwp_dist.data.stream import EvalStream, TrainStream
from rwp_dist.data.worker import Reading
from rwp_dist.shards.samples import Samples, Source
from rwp_dist.shards.sources import Listing
from rwp_dist.shards.synthetic import make_jpeg
from rwp_dist.shards.write import write_shards

NUM, CLASSES, SIZE, BATCH, LANES = 101, 5, 16, 24, 4
NO_IMAGE = b"this is not the image that it claims to be " * 20


def read_source(sample, undecodable=()):
    if sample.offset in undecodable:
        return NO_IMAGE
    return make_jpeg(sample, width=40, height=32, seed=0)


def write_set(out, *, num=NUM, per_shard=15, first=0, undecodable=(), labels=None, without=()):
    """Shards of ``num`` different images, some left out; labels in turn, or as given."""
    labels = [i % CLASSES for i in range(num)] if labels is None else labels
    samples = Samples(
        Source(f"{i:04d}.jpg", "jpg", labels[i - first], "", i)
        for i in range(first, first + num)
        if i not in without
    )
    classes = tuple(f"class-{i}" for i in range(max(labels) + 1))
    reader = partial(read_source, undecodable=undecodable)
    write_shards(Listing(samples, classes, reader), out, samples_per_shard=per_shard)
    return out


def rename_classes(folder, *names):
    """The labels of shards that are there get other names, as written from other folders."""
    Manifest(len(names), names, Manifest.load(folder).shards).save(folder)
    return folder


def load(*folders, num_classes=CLASSES, cache=None):
    return load_dataset([load_manifest(str(f)) for f in folders], num_classes, cache)


def augmented():
    return TrainTransform(SIZE, crop="random_resized", flip=True, auto="trivial", erase=0.3)


def cropped():
    return TrainTransform(SIZE, crop="random_resized", flip=True)


def plain():
    return TrainTransform(SIZE, crop="none", flip=True)


def train_streams(
    dataset,
    world_size=1,
    workers=0,
    *,
    micro_batches=1,
    transform=None,
    selection=None,
    pad=False,
    seed=7,
    cache=None,
    copies=1,
    sizes=None,
):
    """One stream for each rank."""
    plan = Plan(selection or Everything(dataset.counts), BATCH, LANES, 16, seed, pad, copies)
    return [
        TrainStream(
            dataset,
            plan,
            transform or augmented(),
            Reading(SIZE, 3, workers),
            rank=rank,
            micro_batches=micro_batches,
            micro_batch_size=BATCH // world_size // micro_batches,
            cache=cache,
            sizes=sizes,
        )
        for rank in range(world_size)
    ]


def eval_streams(dataset, world_size=1, workers=0, batch=4):
    return [
        EvalStream(
            dataset,
            EvalTransform(SIZE),
            Reading(SIZE, 3, workers),
            batch=batch,
            rank=rank,
            world_size=world_size,
        )
        for rank in range(world_size)
    ]


def joined(steps):
    """Images, labels and weights of the ranks' shares of one step, in order."""
    batches = [batch for step in steps for batch in step.batches]
    images = np.concatenate([b.images.permute(0, 2, 3, 1).numpy() for b in batches])
    labels = np.concatenate([b.labels.numpy() for b in batches])
    weights = np.concatenate([b.weights.numpy() for b in batches])
    return images, labels, weights


def digest(steps):
    """Of all pixels, labels and weights of a global batch."""
    sha256 = hashlib.sha256()
    for array in joined(steps):
        sha256.update(np.ascontiguousarray(array).tobytes())
    return sha256.hexdigest()


def digests(dataset, first, last, world_size=1, workers=0, **options):
    """Of every global batch of some steps."""
    streams = train_streams(dataset, world_size, workers, **options)
    return [digest(steps) for steps in zip(*(s.steps(first, last) for s in streams), strict=True)]


def identities(images):
    """One value for each image that tells it from all others."""
    return [hashlib.sha256(image.tobytes()).hexdigest() for image in images]


def flip_bit(folder, shard, sample, index):
    """One bit in the middle of a sample's image differs; its index is known."""
    path = sorted(folder.glob("*.tar"))[shard]
    data = bytearray(path.read_bytes())
    at = int(index[sample]["offset"]) + int(index[sample]["size"]) // 2
    data[at] ^= 8
    path.write_bytes(bytes(data))
    return path


def served(folder):
    """What a server of this folder has, by path."""
    return {f"/{folder.name}/{p.name}": p.read_bytes() for p in folder.iterdir() if p.is_file()}
