"""What a folder of shards holds: a table of figures, and a picture of random samples."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont, ImageOps

from rwp_dist.base.files import atomic_file
from rwp_dist.base.text import size as size_text
from rwp_dist.data.dataset import Dataset
from rwp_dist.data.format.manifest import Manifest
from rwp_dist.data.image import UndecodableImage, converted, open_image, orientation
from rwp_dist.data.reader import BadSample, ShardFiles

TILE = 160
"""Pixels of a tile's side; images keep their shape."""
_TEXT, _GAP, _COLUMNS = 22, 10, 8
_PAPER, _INK, _FRAME = (255, 255, 255), (30, 30, 30), (225, 225, 225)


@dataclass(frozen=True)
class DrawnSample:
    """A random sample."""

    label: int
    image: bytes
    """Content of its file."""


def draw_samples(dataset: Dataset, count: int, seed: int = 0) -> list[DrawnSample]:
    """Random samples of local shards, each at most once; the bytes of a damaged one are empty.

    Raises:
        DataError: a shard cannot be opened.
    """
    rng = np.random.default_rng(seed)
    samples = rng.choice(dataset.num_samples, min(count, dataset.num_samples), replace=False)
    files = ShardFiles()
    drawn = []
    for label, shard, row in zip(
        dataset.labels_of(samples).tolist(), *dataset.locate(samples), strict=True
    ):
        try:
            image = files.sample(dataset.shards[shard], dataset.rows_of(shard), row)
        except BadSample:
            image = b""
        drawn.append(DrawnSample(label, image))
    files.close()
    return drawn


def describe_shards(manifest: Manifest, dataset: Dataset, drawn: Sequence[DrawnSample]) -> str:
    """A table of counts, classes and sizes; pixel sizes are those of the drawn samples."""
    sizes = dataset.index["size"]
    # Not by bincount: a single label may be two billion.
    per_class = np.unique(dataset.index["label"], return_counts=True)[1]
    empty = manifest.num_classes - len(per_class)
    num_bytes, image_bytes = size_text(manifest.num_bytes), size_text(int(sizes.sum()))
    rows = [
        ("shards", f"{len(dataset.shards):,} with {_spread(dataset.counts)} samples"),
        ("samples", f"{dataset.num_samples:,}"),
        ("bytes", f"{num_bytes} in tars, {image_bytes} of images"),
        ("classes", f"{manifest.num_classes:,}" + (f", {empty:,} of them empty" if empty else "")),
        ("per class", _spread(per_class) + (" of those with samples" if empty else "")),
        ("image bytes", _spread(sizes)),
    ]
    pixels = _pixels(drawn)
    if len(pixels) < len(drawn):
        bad = len(drawn) - len(pixels)
        rows.append(("no images", f"{bad:,} of {len(drawn):,}; see `shards verify --level decode`"))
    if len(pixels):
        rows += [
            ("short side", f"{_spread(pixels.min(axis=1))} pixels of {len(pixels)} random images"),
            ("long side", f"{_spread(pixels.max(axis=1))} pixels"),
        ]
    if unoriented := sum(orientation(sample.image) != 1 for sample in drawn):
        cure = "not applied; `shards write --orient` turns such images"
        rows.append(("EXIF turned", f"{unoriented:,} of {len(drawn):,} random images, {cure}"))
    rows.append(("id", manifest.id))
    return "\n".join(f"{name:<12}{value}" for name, value in rows)


def _pixels(drawn: Sequence[DrawnSample]) -> NDArray[np.int64]:
    """``[N, 2]``: width and height of the samples that are good images."""
    sizes = []
    for sample in drawn:
        with suppress(UndecodableImage):
            sizes.append(converted(open_image(sample.image), "RGB").size)
    return np.array(sizes, dtype=np.int64).reshape(-1, 2)


def _spread(values: NDArray[np.integer]) -> str:
    low, middle, high = np.min(values), np.median(values), np.max(values)
    if low == high:
        return f"{low:,}"
    return f"{low:,} / {middle:,.0f} / {high:,} (least / median / most)"


def contact_sheet(drawn: Sequence[DrawnSample], classes: Sequence[str] | None, out: Path) -> None:
    """Write a PNG of samples in rows of 8, sorted by label, each above its label.

    An empty frame is an image that cannot be decoded.
    """
    drawn = sorted(drawn, key=lambda sample: sample.label)
    columns = min(_COLUMNS, len(drawn))
    num_rows = -(-len(drawn) // columns)
    width, height = TILE + _GAP, TILE + _TEXT + _GAP
    sheet = Image.new("RGB", (columns * width + _GAP, num_rows * height + _GAP), _PAPER)
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.truetype(_font_file(), 13)
    for number, sample in enumerate(drawn):
        left = _GAP + number % columns * width
        top = _GAP + number // columns * height
        image = _fit(sample)
        place = (left + (TILE - image.width) // 2, top + (TILE - image.height) // 2)
        draw.rectangle((left - 1, top - 1, left + TILE, top + TILE), outline=_FRAME)
        sheet.paste(image, place)
        text = _shorten(_caption(sample.label, classes), draw, font)
        draw.text((left + TILE // 2, top + TILE + 4), text, _INK, font, anchor="ma")
    with atomic_file(out) as temporary:
        sheet.save(temporary, format="png")


def _font_file() -> Path:
    """DejaVu Sans, a part of matplotlib: Pillow's own font has no é."""
    import matplotlib

    return Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")


def _fit(sample: DrawnSample) -> Image.Image:
    try:
        image = converted(open_image(sample.image), "RGB")
    except UndecodableImage:
        return Image.new("RGB", (TILE, TILE), _PAPER)
    # The pixels of tiny images, such as 8x8 digits, stay visible.
    small = max(image.size) * 2 <= TILE
    method = Image.Resampling.NEAREST if small else Image.Resampling.LANCZOS
    return ImageOps.contain(image, (TILE, TILE), method)


def _caption(label: int, classes: Sequence[str] | None) -> str:
    name = str(label) if classes is None else classes[label]
    return name if name == str(label) else f"{label}: {name}"


def _shorten(text: str, draw: ImageDraw.ImageDraw, font: ImageFont.FreeTypeFont) -> str:
    whole = text
    while draw.textlength(text, font) > TILE and len(whole) > 1:
        whole = whole[:-1]
        text = f"{whole}…"
    return text
