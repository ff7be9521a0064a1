"""What a folder of shards holds, in figures."""

import io
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from rwp_dist.base.errors import DataError
from rwp_dist.data.format.index import Index, load_index
from rwp_dist.data.format.manifest import Manifest
from rwp_dist.shards.opening import is_remote


@dataclass(frozen=True)
class Drawn:
    """A random sample."""

    name: str
    """``shard row``, as ``shards verify`` calls it."""
    label: int
    image: bytes


class ShardSet:
    """A manifest with all its indexes.

    Raises:
        DataError: manifest or an index is missing or damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.manifest = Manifest.load(folder)
        self.indexes: list[Index] = [
            load_index(self.manifest.index_location(shard)) for shard in self.manifest.shards
        ]

    @property
    def is_local(self) -> bool:
        """Whether all shards are files here."""
        return not any(map(is_remote, map(self.manifest.shard_location, self.manifest.shards)))

    def draw(self, count: int, seed: int = 0) -> list[Drawn]:
        """Read random samples, each at most once.

        Raises:
            DataError: a shard is remote or cannot be read.
        """
        starts = np.cumsum([0] + [len(index) for index in self.indexes])
        rng = np.random.default_rng(seed)
        rows = rng.choice(starts[-1], size=min(count, int(starts[-1])), replace=False)
        drawn = []
        for row in rows:
            number = int(np.searchsorted(starts, row, side="right")) - 1
            drawn.append(self._read(number, int(row - starts[number])))
        return drawn

    def _read(self, number: int, row: int) -> Drawn:
        shard = self.manifest.shards[number]
        location = self.manifest.shard_location(shard)
        offset, size, _, label = self.indexes[number][row].item()
        if is_remote(location):
            raise DataError(
                f"{location}: images of remote shards are not looked at; leave out --contact-sheet."
            )
        try:
            with Path(location).open("rb") as file:
                file.seek(offset)
                return Drawn(f"{shard.basename} {row}", label, file.read(size))
        except OSError as error:
            raise DataError(
                f"{location}: cannot be read ({error.strerror}); "
                "check with `rwp-dist shards verify`."
            ) from error


def describe_shards(shards: ShardSet, drawn: Sequence[Drawn]) -> str:
    """A table of counts, classes and sizes; pixel sizes are those of the drawn samples."""
    manifest = shards.manifest
    sizes = np.concatenate([index["size"] for index in shards.indexes])
    labels = np.concatenate([index["label"] for index in shards.indexes])
    per_class = np.bincount(labels, minlength=manifest.num_classes)
    empty = int((per_class == 0).sum())
    rows = [
        ("shards", f"{len(manifest.shards):,} of {_spread([len(i) for i in shards.indexes])}"),
        ("samples", f"{manifest.num_samples:,}"),
        ("bytes", f"{_bytes(manifest.num_bytes)} in tars, {_bytes(int(sizes.sum()))} of images"),
        ("classes", f"{manifest.num_classes:,}" + (f", {empty:,} of them empty" if empty else "")),
        ("per class", _spread(per_class)),
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
    rows.append(("id", manifest.id))
    return "\n".join(f"{name:<12}{value}" for name, value in rows)


def _pixels(drawn: Sequence[Drawn]) -> NDArray[np.int64]:
    """``[N, 2]``: width and height of those that are images; only headers are parsed."""
    found = []
    for sample in drawn:
        with suppress(OSError):
            found.append(Image.open(io.BytesIO(sample.image)).size)
    return np.array(found, dtype=np.int64).reshape(-1, 2)


def _spread(values: Sequence[int] | NDArray[np.integer]) -> str:
    low, middle, high = np.min(values), np.median(values), np.max(values)
    if low == high:
        return f"{low:,}"
    return f"{low:,} / {middle:,.0f} / {high:,} (least / median / most)"


def _bytes(count: int) -> str:
    value, unit = float(count), "B"
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if value < 1000 or unit == "TB":
            break
        value /= 1000
    return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
