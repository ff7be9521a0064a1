"""Rows of ``rwp-dist shards``: two workers verify against one, and writing against ``tar``."""

import os
import shutil
import statistics
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from growing.command import Spent, command, program
from growing.data_sets import make_data_set
from growing.process import alone, cpu_s, peak_bytes, reset_peak
from growing.row import Row
from rwp_dist.shards import synthetic_listing

PER_SHARD = 100
"""Samples of a shard to verify, 0.25 MB."""
PHOTOS = 64
"""Different images of 110 KB; the others are more names of their files."""
CLASSES = 100
TAR = ("tar", "--hard-dereference")
"""Without it, tar would write the content of each photo once."""
ROUNDS = 3


def verify(small: Path, folder: Path, workers: int) -> Spent:
    """``shards verify`` as a program, less the same of a small data set."""
    least, spent = (
        program("shards", "verify", place, "--workers", workers) for place in (small, folder)
    )
    return Spent(spent.cpu_s - least.cpu_s, spent.wall_s - least.wall_s)


def make_images(folder: Path, num: int, width: int, height: int) -> Path:
    """A folder for each class, with ``num`` images in all, of which ``PHOTOS`` are different."""
    photos = synthetic_listing(PHOTOS, width, height, CLASSES, seed=0)
    files = list[Path]()
    for sample in photos.samples:
        files.append(folder.with_name(f"{folder.name}-{len(files)}.jpg"))
        files[-1].write_bytes(photos.read(sample))
    for number in range(CLASSES):
        (folder / f"n{number:08d}").mkdir(parents=True)
    for number in range(num):
        name = f"n{number % CLASSES:08d}"
        os.link(files[number % PHOTOS], folder / name / f"{name}_{number:07d}.jpg")
    return folder


class Written(NamedTuple):
    """What writing a folder of images took."""

    ratio: float
    """CPU seconds over those of ``tar``, median of rounds that take turns."""
    cpu_s: float


def write(small: Path, images: Path, out: Path) -> Written:
    """``shards write`` against ``tar``."""
    pairs = []
    command("shards", "write", small, "--out", out)
    shutil.rmtree(out)
    for _ in range(ROUNDS):
        begin = cpu_s()
        subprocess.run([*TAR, "-cf", out.with_suffix(".tar"), "-C", images, "."], check=True)
        between = cpu_s()
        command("shards", "write", images, "--out", out)
        pairs.append((between - begin, cpu_s() - between))
        out.with_suffix(".tar").unlink()
        shutil.rmtree(out)
    ratio = statistics.median(ours / tar for tar, ours in pairs)
    return Written(ratio, statistics.median(ours for _, ours in pairs))


def held_bytes(small: Path, images: Path, out: Path) -> int:
    """The peak of memory of ``shards write``, above what it had before."""
    command("shards", "write", small, "--out", out)
    shutil.rmtree(out)
    before = reset_peak()
    command("shards", "write", images, "--out", out)
    shutil.rmtree(out)
    return peak_bytes() - before


def verify_rows(folder: Path, sizes: Sequence[int]) -> Iterator[Row]:
    """Rows of data sets of these numbers of shards."""
    small = make_data_set(folder / "few", 8 * PER_SHARD, PER_SHARD)
    one, two = dict[int, Spent](), dict[int, Spent]()
    for size in sizes:
        place = make_data_set(folder / f"shards-{size}", size * PER_SHARD, PER_SHARD)
        one[size] = alone(verify, small, place, 1)
        two[size] = alone(verify, small, place, 2)
    yield Row("shards verify, 1 worker", "CPU s", {n: spent.cpu_s for n, spent in one.items()})
    cpu = {n: spent.cpu_s for n, spent in two.items()}
    yield Row("shards verify, 2 workers", "CPU s", cpu, most_exponent=1.05)
    ratio = {n: two[n].wall_s / one[n].wall_s for n in sizes}
    yield Row("2 workers x 1, by the clock", "", ratio, 0.6)


def write_rows(folder: Path, sizes: Sequence[int]) -> Iterator[Row]:
    """Rows of folders of these numbers of photographs of 110 KB."""
    small = make_images(folder / "few-images", 2 * CLASSES, 16, 16)
    found = {}
    for size in sizes:
        images = make_images(folder / f"images-{size}", size, 500, 375)
        found[size] = alone(write, small, images, folder / "written")
        shutil.rmtree(images)
    yield Row("shards write", "CPU s", {n: written.cpu_s for n, written in found.items()})
    yield Row("shards write x tar", "", {n: w.ratio for n, w in found.items()}, 1.6)


def held_rows(folder: Path, sizes: Sequence[int]) -> Iterator[Row]:
    """The row of bytes that each sample more makes ``shards write`` hold."""
    small = make_images(folder / "few-tiny", 2 * CLASSES, 16, 16)
    peaks = {}
    for size in sizes:
        images = make_images(folder / f"tiny-{size}", size, 16, 16)
        peaks[size] = alone(held_bytes, small, images, folder / "written")
        shutil.rmtree(images)
    least, most = min(sizes), max(sizes)
    yield Row("shards write, memory", "MB", {n: peak / 1e6 for n, peak in peaks.items()})
    a_sample = (peaks[most] - peaks[least]) / (most - least)
    yield Row("shards write, held for a sample", "bytes", {most: a_sample}, 60)
