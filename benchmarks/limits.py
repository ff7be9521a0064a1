"""How near the pipeline comes to what limits it; ``streaming.py`` prints it.

Five paths take turns on one core without workers. Each follows the plan of a run. Every other round
goes backwards, because who reads first finds the page cache cold for the processor; two rounds
count as one.

- ``batches``: shards to a uint8 batch.
- ``transform``: the same transform, of bytes in memory, into a batch in memory.
- ``crop``: libjpeg-turbo decodes the same crops with ``crop.c``, and does nothing else.
- ``bytes``: as ``batches``, without the transform: bytes are read, compared with their crc32, and
  that is all.
- ``pread``: ``os.pread`` of the same places.
"""

import ctypes
import os
import statistics
import subprocess
import tempfile
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rwp_dist.data import TrainStream
from rwp_dist.data.image import Keyed, TrainTransform, random_resized_crop

RATIO = (3 / 4, 4 / 3)
STEPS = {"batches": 2, "transform": 2, "crop": 2, "bytes": 8, "pread": 8}
"""Of each path in a turn: long enough that to begin costs nothing."""

Region = tuple[int, int, int, int]
Crop = Callable[[bytes, Region], None]
Key = tuple[int, ...]


class Limits(NamedTuple):
    """Images per second of the pipeline over those of what limits it: medians of ratios."""

    transform: float
    crop: float
    pread: float


class Sample(NamedTuple):
    """One that a step takes."""

    data: bytes
    key: Key
    """Of its augmentation."""
    file: int
    offset: int


class Nothing(TrainTransform):
    """Leaves bytes undecoded."""

    def __call__(self, data: Any, key: Key, out: Any = None) -> Any:
        return out


def limits(stream: TrainStream, width: int, height: int, rounds: int) -> Limits:
    """Measure in turns, there and back; the first two rounds warm up.

    Args:
        stream: of JPEGs in local shards, with random resized crops.
        width: of all images, in pixels.
        height: of all images.
        rounds: pairs of turns of each path.
    """
    samples = samples_of(stream)
    crop, transform = crop_of(width * height * 3), stream.transform
    whole = stream.steps(0, 10**9)
    read = replace(stream, transform=Nothing(transform.size, "none", flip=False)).steps(0, 10**9)
    rows = np.empty((stream.micro_batch_size, transform.size, transform.size, 3), np.uint8)

    def regions_of(step: list[Sample]) -> list[tuple[bytes, Region]]:
        draws = [Keyed(*sample.key) for sample in step]
        regions = [random_resized_crop(width, height, transform.scale, RATIO, d) for d in draws]
        return list(zip([sample.data for sample in step], regions, strict=True))

    def turn(name: str, number: int) -> Callable[[], object]:
        count = STEPS[name]
        if name in ("batches", "bytes"):
            items = whole if name == "batches" else read
            return lambda: deque(islice(items, count), maxlen=0)
        steps = [samples(number * count + step) for step in range(count)]
        if name == "transform":
            pairs = [pair for step in steps for pair in zip(step, rows, strict=True)]
            return lambda: [transform(one.data, one.key, row) for one, row in pairs]
        if name == "crop":
            crops = [one for step in steps for one in regions_of(step)]
            return lambda: [crop(*one) for one in crops]
        places = [(one.file, len(one.data), one.offset) for step in steps for one in step]

        def preads() -> None:
            for place in places:
                os.pread(*place)

        return preads

    times: dict[str, list[float]] = {name: [] for name in STEPS}
    for number in range(2 * rounds + 2):
        for name in sorted(STEPS, reverse=number % 2 == 1):
            run = turn(name, number)
            begin = time.process_time()
            run()
            times[name].append((time.process_time() - begin) / STEPS[name])

    def ratio(limit: str, path: str) -> float:
        pairs = (zip(times[name][2::2], times[name][3::2], strict=True) for name in (limit, path))
        return statistics.median(sum(least) / sum(own) for least, own in zip(*pairs, strict=True))

    return Limits(ratio("transform", "batches"), ratio("crop", "batches"), ratio("pread", "bytes"))


def samples_of(stream: TrainStream) -> Callable[[int], list[Sample]]:
    """From a step to its samples in the order in which they are read; all bytes are in memory."""
    dataset = stream.dataset
    files = [os.open(shard.url, os.O_RDONLY) for shard in dataset.shards]
    known = {
        (shard, row): (os.pread(file, int(record["size"]), int(record["offset"])), record["offset"])
        for shard, file in enumerate(files)
        for row, record in enumerate(dataset.rows_of(shard))
    }

    def samples(step: int) -> list[Sample]:
        request = stream.request(step)
        order = np.lexsort((request.rows, request.shards)).tolist()
        places = [(int(request.shards[at]), int(request.rows[at])) for at in order]
        return [
            Sample(known[place][0], request.keys[at], files[place[0]], int(known[place][1]))
            for at, place in zip(order, places, strict=True)
        ]

    return samples


def crop_of(most_bytes: int) -> Crop:
    """``crop.c``, compiled; crops have at most so many bytes."""
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "crop.so"
        source = Path(__file__).with_name("crop.c")
        command = ["cc", "-O2", "-shared", "-fPIC", str(source), "-o", str(library), "-ljpeg"]
        subprocess.run(command, check=True)
        function = ctypes.CDLL(str(library)).crop
    number = ctypes.c_uint
    function.argtypes = [ctypes.c_char_p, ctypes.c_size_t, *[number] * 4, ctypes.c_void_p]
    out = np.empty(most_bytes, np.uint8)
    address = out.ctypes.data

    def crop(data: bytes, region: Region) -> None:
        assert len(out), "it lives as long as the function"
        function(data, len(data), *region, address)

    return crop
