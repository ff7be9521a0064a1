"""Synthetic JPEGs that cost a decoder as much as photographs do, for benchmarks and tests.

White noise would compress far worse than photographs, flat colours far better. These images have
the amplitude spectrum of photographs, 1/f, and some edges. At 500x375 and quality 91 they take
about 110 kB.
"""

from functools import lru_cache, partial

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from rwp_dist.shards.samples import Samples, Source
from rwp_dist.shards.sources import Listing, encode

QUALITY = 91
NUM_BASES = 4
"""Large images from which all others are cut; a cut costs far less."""


def synthetic_listing(num: int, width: int, height: int, num_classes: int, seed: int) -> Listing:
    """A source of ``num`` images, sorted by class, that are made when they are read."""
    samples = Samples(
        Source(f"synthetic/{row:07d}.jpg", "jpg", row * num_classes // num, "", row)
        for row in range(num)
    )
    classes = tuple(f"class-{number:04d}" for number in range(num_classes))
    return Listing(samples, classes, partial(make_jpeg, width=width, height=height, seed=seed))


def make_jpeg(sample: Source, width: int, height: int, seed: int) -> bytes:
    """A piece of a base image, mirrored or not, lighter or darker; ``sample.offset`` is its key."""
    rng = np.random.default_rng((seed, sample.offset))
    base = _base(int(rng.integers(NUM_BASES)), width, height, seed)
    top = rng.integers(base.shape[0] - height + 1)
    left = rng.integers(base.shape[1] - width + 1)
    piece = base[top : top + height, left : left + width]
    if rng.integers(2):
        piece = piece[:, ::-1]
    # A table of all 256 values is the fastest way to change the light of uint8 pixels.
    gain, shift = rng.uniform(0.85, 1.05), rng.uniform(-15, 15)
    table = np.clip((np.arange(256) - 128) * gain + 128 + shift, 0, 255).astype(np.uint8)
    return encode(Image.fromarray(table[piece]), "jpeg", quality=QUALITY)


@lru_cache(maxsize=NUM_BASES)
def _base(number: int, width: int, height: int, seed: int) -> NDArray[np.uint8]:
    """``[1.5 height, 1.5 width, 3]``: noise with a 1/f spectrum, and patches with sharp edges."""
    rng = np.random.default_rng((seed, 1 << 40, number))
    rows, columns = height * 3 // 2, width * 3 // 2
    grey = _pink(rng, rows, columns)
    y, x = np.mgrid[:rows, :columns]
    for _ in range(12):
        angle, radius = rng.uniform(0, np.pi), rng.uniform(0.05, 0.3) * rows
        dx, dy = x - rng.uniform(0, columns), y - rng.uniform(0, rows)
        along = dx * np.cos(angle) + dy * np.sin(angle)
        across = dy * np.cos(angle) - dx * np.sin(angle)
        inside = (np.abs(along) < radius) & (np.abs(across) < radius * rng.uniform(0.2, 1))
        grey[inside] = grey[inside] * rng.uniform(0.3, 1) + rng.normal(0, 0.8)
    # The channels of a photograph differ little from each other.
    tint = 0.35 * _pink(rng, rows, columns)
    colour = np.stack([grey + np.roll(tint, 97 * c, axis=(0, 1)) for c in range(3)], axis=-1)
    return np.clip(128 + 52 * colour, 0, 255).astype(np.uint8)


def _pink(rng: np.random.Generator, rows: int, columns: int) -> NDArray[np.float64]:
    """``[rows, columns]`` of mean 0 and deviation 1 whose amplitude falls as 1/frequency."""
    frequency = np.hypot(np.fft.fftfreq(rows)[:, None], np.fft.rfftfreq(columns)[None])
    frequency[0, 0] = np.inf
    spectrum = np.fft.rfft2(rng.standard_normal((rows, columns))) / frequency
    field = np.fft.irfft2(spectrum, s=(rows, columns))
    return field / field.std()
