"""Images per second and core, from shards to a normalised batch on the device; and resuming.

    OMP_NUM_THREADS=1 python benchmarks/streaming.py

With MosaicML streaming and litdata too, and with what opening and going on in 1.28 M samples takes
all of them, from an environment that has them (ten minutes, 1 GB of disk):

    python -m venv ~/peers && ~/peers/bin/pip install -e . litdata mosaicml-streaming
    OMP_NUM_THREADS=1 ~/peers/bin/python benchmarks/streaming.py --peers

Data are made on the spot: 500x375 JPEGs of about 110 KB with the spectrum of photographs, as shards
and as a folder of files. All paths read the same images and end with float32 batches
``[64, 3, 224, 224]`` on the device. They take turns in one process without workers, so that one
core does all the work, and a shared or throttled machine slows all of them; CPU time counts, and
the median over the rounds.

- ``ImageFolder``: torchvision's, with DataLoader, Pillow, RandomResizedCrop, flip, ToTensor and
  Normalize, as the authors' scripts do.
- ``WebDataset``: plain webdataset with this project's decoder, then torchvision v2's
  RandomResizedCrop, flip and normalisation for each sample, as its documentation shows.
- ``WebDataset, our transform``: the same with this project's transform and normalisation on the
  device, so that nothing but reading and shuffling differs.

Limits of the pipeline, see ``limits.py``: its own transform, libjpeg-turbo, and ``pread``.

Resuming: a data set of 1.28 M samples in 1,281 shards, whose indexes point into one real shard.
"""

import ctypes
import hashlib
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import click
import numpy as np
import torch
import torchvision.transforms as v1
import webdataset as wds
from limits import limits
from peers.table import opening, readers, versions
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from rwp_dist.config import Settings, load_settings, split_batch
from rwp_dist.data import Everything, Plan, TrainStream, open_train
from rwp_dist.data.format import (
    Manifest,
    ShardEntry,
    index_bytes,
    index_name,
    load_index,
)
from rwp_dist.data.image import Decoder, Normalise, TrainTransform, from_pixels
from rwp_dist.shards import synthetic_listing, write_shards

SIZE, BATCH, CLASSES = 224, 64, 10
WIDTH, HEIGHT = 500, 375
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
NORMALISE = Normalise(MEAN, STD)
OURS, FOLDER, PLAIN = "this project", "ImageFolder + Pillow", "WebDataset"
NUM_SHARDS, PER_SHARD, GLOBAL_BATCH, RANKS = 1281, 1000, 1024, 8

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
"""From glibc's ``malloc.h``."""

Batches = Iterator[Tensor]


def main_settings(folder: Path, *more: str) -> Settings:
    return load_settings(
        None,
        [
            f"data.train={folder}",
            f"data.image_size={SIZE}",
            "data.channels=3",
            f"data.mean={list(MEAN)}",
            f"data.std={list(STD)}",
            f"model.num_classes={CLASSES}",
            "augment.crop=random_resized",
            "augment.flip=true",
            *more,
        ],
    )


# --- paths: batches for ever ---


def our_stream(shards: Path, *more: str) -> TrainStream:
    options = (f"batch.global={BATCH}", "method.name=sgd", "data.workers=0", *more)
    settings = main_settings(shards, *options)
    return open_train(settings, split_batch(settings, 1), 0)


def ours(shards: Path, device: str, *more: str) -> Batches:
    for step in our_stream(shards, *more).steps(0, 10**9):
        for batch in step.batches:
            yield NORMALISE.same_layout(batch.to(device).images)


def image_folder(folder: Path, device: str) -> Batches:
    transform = v1.Compose(
        [
            v1.RandomResizedCrop(SIZE),
            v1.RandomHorizontalFlip(),
            v1.ToTensor(),
            v1.Normalize(MEAN, STD),
        ]
    )
    data = ImageFolder(str(folder), transform)
    loader = DataLoader(data, batch_size=BATCH, shuffle=True, drop_last=True)
    while True:
        for images, _ in loader:
            yield images.to(device)


def web_dataset(shards: Path, device: str, our_transform: bool) -> Batches:
    counter = iter(range(10**9))
    whole = TrainTransform(SIZE, crop="random_resized", flip=True)
    decoder = Decoder("auto", 3)
    usual = v2.Compose(
        [
            v2.RandomResizedCrop(SIZE, antialias=True),
            v2.RandomHorizontalFlip(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(MEAN, STD),
        ]
    )

    def image(data: bytes) -> Tensor:
        if our_transform:
            return torch.from_numpy(whole(data, (0, 0, next(counter))))
        transformed: Tensor = usual(from_pixels(decoder.decode(data)).permute(2, 0, 1))
        return transformed

    urls = [str(path) for path in sorted(shards.glob("*.tar"))]
    data = (
        wds.WebDataset(urls, shardshuffle=100, seed=0)
        .shuffle(1000)
        .to_tuple("jpg", "cls")
        .map_tuple(image, int)
        .batched(BATCH, partial=False)
    )
    loader = wds.WebLoader(data, batch_size=None, num_workers=0)
    while True:
        for images, _ in loader:
            if our_transform:
                yield NORMALISE.same_layout(images.to(device).permute(0, 3, 1, 2))
            else:
                yield images.to(device)


def images_per_second(
    makers: dict[str, Callable[[], Batches]], rounds: int, device: str
) -> dict[str, float]:
    """Of one core, by every path; one round warms up."""
    paths = {name: make() for name, make in makers.items()}
    times: dict[str, list[float]] = {name: [] for name in paths}
    for _ in range(rounds + 1):
        for name, batches in paths.items():
            begin = time.process_time()
            images = next(batches)
            if device == "cuda":
                torch.cuda.synchronize()
            times[name].append(time.process_time() - begin)
            assert images.shape == (BATCH, 3, SIZE, SIZE) and images.dtype == torch.float32
            del images
    return {name: BATCH / statistics.median(values[1:]) for name, values in times.items()}


# --- data ---


def make_data(folder: Path, num: int) -> tuple[Path, Path]:
    """The same images as shards and as a folder of files for each class."""
    listing = synthetic_listing(num, WIDTH, HEIGHT, CLASSES, seed=0)
    write_shards(listing, folder / "shards", samples_per_shard=max(num // 8, 1))
    for sample in listing.samples:
        path = folder / "files" / f"{sample.label:04d}" / Path(sample.name).name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(listing.read(sample))
    return folder / "shards", folder / "files"


def make_large(shards: Path, folder: Path) -> None:
    """A manifest and indexes of 1.28 M samples, all of which lie in one real shard."""
    real = next(iter(sorted(shards.glob("*.tar"))))
    entry = next(e for e in Manifest.load(shards).shards if e.name == real.name)
    known = load_index(shards / index_name(real.name))
    random = np.random.default_rng(0)
    folder.mkdir()
    entries: list[ShardEntry] = []
    for number in range(NUM_SHARDS):
        name = f"large-{number:06d}.tar"
        (folder / name).symlink_to(real)
        index = known[random.integers(len(known), size=PER_SHARD)]
        (folder / index_name(name)).write_bytes(index_bytes(index))
        sha256 = hashlib.sha256(index_bytes(index)).hexdigest()
        entries.append(replace(entry, name=name, num_samples=len(index), index_sha256=sha256))
    Manifest(CLASSES, None, tuple(entries)).save(folder)


# --- resuming and planning ---


def first_batch_s(folder: Path, device: str) -> float:
    """From opening the data set to the first batch on the device, at 90 % of an epoch."""
    settings = main_settings(
        folder, f"batch.global={GLOBAL_BATCH}", "batch.per_rank=128", "data.workers=1"
    )
    begin = time.perf_counter()
    stream = open_train(settings, split_batch(settings, RANKS), 3)
    first = int(0.9 * stream.steps_per_epoch)
    steps = stream.steps(first, stream.steps_per_epoch)
    images = next(steps).batches[0].to(device).images
    assert len(NORMALISE.same_layout(images)) == GLOBAL_BATCH // RANKS
    return time.perf_counter() - begin


def replayed_samples(plan: Plan) -> int:
    """Samples of the last tenth of an epoch that its first nine tenths had too."""
    steps = [plan.step(0, index) for index in range(plan.steps_per_epoch)]
    samples = [rows.shards * PER_SHARD + rows.rows for rows in steps]
    resumed = int(0.9 * plan.steps_per_epoch)
    return len(np.intersect1d(np.concatenate(samples[:resumed]), np.concatenate(samples[resumed:])))


def plan_times_s(rounds: int) -> tuple[float, float]:
    """To build a plan, and for one global batch on average over an epoch."""
    counts = np.full(NUM_SHARDS, PER_SHARD)
    builds, batches = [], []
    for seed in range(rounds):
        begin = time.process_time()
        plan = Plan(Everything(counts), GLOBAL_BATCH, 8, 16384, seed)
        plan.selection.line(seed, 0)
        builds.append(time.process_time() - begin)
        begin = time.process_time()
        for index in range(plan.steps_per_epoch):
            plan.step(0, index)
        batches.append((time.process_time() - begin) / plan.steps_per_epoch)
    return statistics.median(builds), statistics.median(batches)


def reuse_memory() -> None:
    """Have freed batches reused, as a device's allocator does, not handed back to the kernel.

    Otherwise clearing 38 MB of fresh pages for every batch takes as long as decoding on some
    machines, for all paths alike.
    """
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_MAX, 0)
        libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def verdict(what: str, figure: str, bar: str, met: bool) -> None:
    click.echo(f"{what:58s} {figure:>10s}   {bar:>10s}   {'met' if met else 'MISSED'}")


def share(value: float, bar: float) -> tuple[str, str, bool]:
    return f"{value:.3f}", f">= {bar}", value >= bar


@click.command(help=__doc__)
@click.option("--images", default=512, help="Different images.")
@click.option("--rounds", default=15)
@click.option("--device", default="cpu")
@click.option("--peers", is_flag=True, help="Also MosaicML streaming and litdata; opening too.")
def main(images: int, rounds: int, device: str, peers: bool) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shards, files = make_data(folder, images)
        make_large(shards, folder / "large")
        resume_s = statistics.median(first_batch_s(folder / "large", device) for _ in range(5))
        reuse_memory()
        paths: dict[str, Callable[[], Batches]] = {
            FOLDER: lambda: image_folder(files, device),
            PLAIN: lambda: web_dataset(shards, device, our_transform=False),
            f"{PLAIN}, our transform": lambda: web_dataset(shards, device, our_transform=True),
            OURS: lambda: ours(shards, device),
            f"{OURS}, interpolation=fast": lambda: ours(shards, device, "data.interpolation=fast"),
        }
        for peer in readers() if peers else ():
            peer.write(files, folder / peer.package)
            paths[peer.name] = partial(peer.batches, folder / peer.package)
        rates = images_per_second(paths, rounds, device)
        near = limits(our_stream(shards), WIDTH, HEIGHT, rounds)
        size = Manifest.load(shards).num_bytes / images / 1000
        click.echo(f"{images} images of 500x375, {size:.0f} KB, one core, to {device}\n")
        click.echo(f"{'path':34s} {'img/s':>7s} {'x ImageFolder':>14s} {'x WebDataset':>13s}")
        for path, rate in rates.items():
            click.echo(
                f"{path:34s} {rate:7.0f} {rate / rates[FOLDER]:14.2f} {rate / rates[PLAIN]:13.2f}"
            )
        for line in (*versions(), *opening(folder / "peers")) if peers else ():
            click.echo(line)
    plan = Plan(Everything(np.full(NUM_SHARDS, PER_SHARD)), GLOBAL_BATCH, 8, 16384, 0)
    replayed = replayed_samples(plan)
    build_s, batch_s = plan_times_s(5)
    by_folder, by_plain = rates[OURS] / rates[FOLDER], rates[OURS] / rates[PLAIN]
    click.echo(f"\n{'':58s} {'measured':>10s}   {'bar':>10s}")
    verdict("per core, against ImageFolder", f"{by_folder:.2f} x", ">= 2.3 x", by_folder >= 2.3)
    verdict("per core, against WebDataset", f"{by_plain:.2f} x", ">= 1.2 x", by_plain >= 1.2)
    verdict("uint8 batches, of the transform's images/s", *share(near.transform, 0.96))
    verdict("uint8 batches, of libjpeg-turbo's crop decode", *share(near.crop, 0.9))
    verdict("bytes with crc32, of pread's", *share(near.pread, 0.6))
    verdict("resume at 90 % of 1.28 M samples", f"{resume_s:.2f} s", "< 1 s", resume_s < 1)
    verdict("samples replayed", str(replayed), "0", replayed == 0)
    verdict("plan of 1,281 shards", f"{1e3 * build_s:.2f} ms", "< 1 ms", build_s < 1e-3)
    verdict("plan, one batch of 1,024", f"{1e6 * batch_s:.0f} µs", "< 100 µs", batch_s < 1e-4)


if __name__ == "__main__":
    main()
