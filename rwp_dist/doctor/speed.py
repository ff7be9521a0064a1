"""How many images a second this machine can read, decode and augment."""

import multiprocessing
import os
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from rwp_dist.base.errors import DataError
from rwp_dist.base.urls import shown
from rwp_dist.config import Settings
from rwp_dist.data.image import TrainTransform, UndecodableImage
from rwp_dist.data.open import open_dataset, transform_of
from rwp_dist.data.reader import BadSample, ShardFiles

MEASURED_S = 2.0

Read = Callable[[int], bytes]
"""From a row to an encoded image."""


def images_per_second(settings: Settings, seconds: float = MEASURED_S) -> dict[str, Any]:
    """Read and augment one shard of the training data, with one core and then with all.

    All cores are measured together, because they share memory and, as hyper-threads, each other.
    Each of the two measurements takes ``seconds``.

    Returns:
        ``shard``, its ``images`` and how many of them are ``bad``, the mean ``bytes_per_image``,
        the ``decoder``, ``images_per_s_core``, ``cores`` and ``images_per_s`` of all cores.

    Raises:
        DataError: the data cannot be read, or no image of the shard can.
    """
    cache, dataset = open_dataset(settings, "data.train")
    shard, rows = dataset.shards[0], dataset.rows_of(0)
    files, transform = ShardFiles(1, cache), transform_of(settings)
    read = partial(files.sample, shard, rows)
    good = [row for row in range(len(rows)) if _is_good(read, transform, row)]
    if not good:
        raise DataError(
            f"{shown(shard.url)}: no image of this shard can be read",
            cure="see why: `rwp-dist shards verify`",
        )
    work = partial(_work, read, transform, good, seconds)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    cores = cores or 1
    count, cpu_s = work(0)
    with multiprocessing.get_context("fork").Pool(cores) as pool:
        counts = [done for done, _ in pool.map(work, range(cores), chunksize=1)]
    files.close()
    return {
        "shard": shard.url,
        "images": len(rows),
        "bad": len(rows) - len(good),
        "bytes_per_image": int(rows["size"].mean()),
        "decoder": transform.decoder.tier,
        "images_per_s_core": count / cpu_s,
        "cores": cores,
        "images_per_s": sum(counts) / seconds,
    }


def _is_good(read: Read, transform: TrainTransform, row: int) -> bool:
    try:
        transform(read(row), (0, 0, row))
    except (BadSample, UndecodableImage):
        return False
    return True


def _work(
    read: Read, transform: TrainTransform, rows: list[int], seconds: float, seed: int
) -> tuple[int, float]:
    """Go through the images for ``seconds``: number of images done, CPU seconds taken."""
    torch.set_num_threads(1)
    count, begin, cpu = 0, time.perf_counter(), time.process_time()
    while time.perf_counter() - begin < seconds:
        row = rows[count % len(rows)]
        transform(read(row), (seed, count, row))
        count += 1
    return count, max(time.process_time() - cpu, 1e-9)
