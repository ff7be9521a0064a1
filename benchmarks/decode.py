"""Images per second and core: decode, RandomResizedCrop(224), flip, to uint8; peers in one run.

    OMP_NUM_THREADS=1 python benchmarks/decode.py

The images are made on the spot: 500x375 JPEGs of about 110 KB whose spectrum falls with frequency
as natural images' does, and the same shrunk to 341x256 as ``shards write --short-side 256
--quality 90`` does. Paths take turns, so that a shared or throttled machine slows all of them;
CPU time counts, and the median over the rounds.

``entropy`` is the limit of any path that parses the whole scan with libjpeg-turbo: simplejpeg at
scale 1/8, which is all of the Huffman decoding, plus inverse DCT and colours of 1/64 of the pixels
(a few percent). ``huffman.c`` goes beyond it.
"""

import io
import statistics
import time
from collections.abc import Callable

import click
import numpy as np
import torch
import torchvision.transforms as v1
from numpy.typing import NDArray
from PIL import Image
from torchvision.io import ImageReadMode, decode_jpeg
from torchvision.transforms import v2

from rwp_dist.data.image import (
    Decoder,
    Keyed,
    Tier,
    TrainTransform,
    optional_module,
    random_resized_crop,
    resize,
)

cv2 = optional_module("cv2")
simplejpeg = optional_module("simplejpeg")

Path = Callable[[bytes], object]
SIZE = 224
PEER = "PIL + torchvision v1"


def synthetic(seed: int, width: int = 500, height: int = 375) -> Image.Image:
    """Coloured noise whose amplitude falls as 1 / frequency^1.08, mostly grey."""
    rng = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    frequency[0, 0] = np.inf

    def field() -> NDArray[np.float64]:
        phase = rng.normal(size=frequency.shape) + 1j * rng.normal(size=frequency.shape)
        values = np.fft.irfft2(phase / frequency**1.08, s=(height, width))
        return values / values.std()

    light, red, blue = field(), field(), field()
    pixels = np.stack([light + 0.3 * red, light - 0.2 * red - 0.1 * blue, light + 0.4 * blue], -1)
    return Image.fromarray(np.clip(120 + 50 * pixels, 0, 255).astype(np.uint8))


def encoded(image: Image.Image, quality: int, **options: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "jpeg", quality=quality, **options)
    return buffer.getvalue()


def pil_v1() -> Path:
    """What the authors' scripts do."""
    transform = v1.Compose([v1.RandomResizedCrop(SIZE), v1.RandomHorizontalFlip()])
    return lambda data: np.asarray(transform(Image.open(io.BytesIO(data)).convert("RGB")))


def torchvision_v2() -> Path:
    transform = v2.Compose([v2.RandomResizedCrop(SIZE), v2.RandomHorizontalFlip()])

    def run(data: bytes) -> object:
        tensor = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        return transform(decode_jpeg(tensor, mode=ImageReadMode.RGB))

    return run


def opencv(interpolation: int) -> Path:
    counter = iter(range(10**9))

    def run(data: bytes) -> object:
        draw = Keyed(0, 0, next(counter))
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
        left, top, width, height = random_resized_crop(
            image.shape[1], image.shape[0], (0.08, 1.0), (3 / 4, 4 / 3), draw
        )
        image = image[top : top + height, left : left + width]
        image = cv2.resize(image, (SIZE, SIZE), interpolation=interpolation)
        return cv2.flip(image, 1) if draw.uniform() < 0.5 else image

    return run


def ours(tier: Tier, fast: bool) -> Path:
    transform = TrainTransform(
        SIZE,
        crop="random_resized",
        flip=True,
        decoder=Decoder(tier),
        interpolation="fast" if fast else "antialias",
    )
    counter = iter(range(10**9))
    return lambda data: transform(data, (0, 0, next(counter)))


def paths() -> dict[str, Path]:
    whole = {tier: Decoder(tier) for tier in ("pil", "torchvision", "simplejpeg")}
    return {
        PEER: pil_v1(),
        "torchvision + v2": torchvision_v2(),
        "OpenCV linear": opencv(cv2.INTER_LINEAR),
        "OpenCV area": opencv(cv2.INTER_AREA),
        "ours pil antialias": ours("pil", fast=False),
        "ours torchvision antialias": ours("torchvision", fast=False),
        "ours torchvision fast": ours("torchvision", fast=True),
        "ours simplejpeg antialias": ours("simplejpeg", fast=False),
        "ours simplejpeg fast": ours("simplejpeg", fast=True),
        "ours libjpeg antialias": ours("libjpeg", fast=False),
        "ours libjpeg fast": ours("libjpeg", fast=True),
        "decode alone: pil": whole["pil"].decode,
        "decode alone: torchvision": whole["torchvision"].decode,
        "decode alone: simplejpeg": whole["simplejpeg"].decode,
        "entropy": lambda data: simplejpeg.decode_jpeg(
            data, min_width=1, min_height=1, min_factor=8
        ),
    }


def seconds(images: list[bytes], rounds: int) -> dict[str, float]:
    """CPU seconds per image of every path; one round warms up."""
    times: dict[str, list[float]] = {name: [] for name in paths()}
    runs = paths()
    for _ in range(rounds + 1):
        for name, run in runs.items():
            start = time.process_time()
            for data in images:
                run(data)
            times[name].append((time.process_time() - start) / len(images))
    return {name: statistics.median(values[1:]) for name, values in times.items()}


def report(title: str, images: list[bytes], rounds: int) -> None:
    size = sum(map(len, images)) / len(images) / 1000
    result = seconds(images, rounds)
    click.echo(
        f"\n{title}, {size:.0f} KB\n{'path':30s} {'img/s':>7s} {'x PIL':>6s} {'of entropy':>11s}"
    )
    for name, value in result.items():
        share = result["entropy"] / value
        click.echo(f"{name:30s} {1 / value:7.0f} {result[PEER] / value:6.2f} {share:11.2f}")


def draws(samples: int = 20_000) -> float:
    """CPU seconds a sample for its keyed generator, its crop and its flip."""
    start = time.process_time()
    for sample in range(samples):
        draw = Keyed(0, 0, sample)
        random_resized_crop(500, 375, (0.08, 1.0), (3 / 4, 4 / 3), draw)
        draw.uniform()
    return (time.process_time() - start) / samples


@click.command(help=__doc__)
@click.option("--images", default=16, help="Different images.")
@click.option("--rounds", default=15)
def main(images: int, rounds: int) -> None:
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    originals = [synthetic(seed) for seed in range(images)]
    small = [Image.fromarray(resize(np.array(image), 256, 341)) for image in originals]
    report("500x375", [encoded(image, 91) for image in originals], rounds)
    report("341x256, re-encoded", [encoded(image, 90) for image in small], rounds)
    click.echo(f"\nkeyed draws of a sample: {draws() * 1e6:.1f} µs")


if __name__ == "__main__":
    main()
