"""Small data sets that are held in memory, as shards."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from rwp_dist.base.files import remove_leftovers, write_bytes
from rwp_dist.data.checked import save_manifest
from rwp_dist.data.format.index import index_bytes, index_name
from rwp_dist.data.format.manifest import MANIFEST_NAME, Manifest, ShardEntry, describe
from rwp_dist.shards.sources import encode
from rwp_dist.shards.tar import Packed, write_tar

NUM_SHARDS = 4
"""In each folder."""


@dataclass(frozen=True)
class LabelledImages:
    """Grey images in memory."""

    images: NDArray[np.uint8]
    """``[N, H, W]``."""
    labels: NDArray[np.int64]
    """``[N]``."""
    keys: list[str]
    """Names of the samples."""

    def take(self, rows: NDArray[np.int64]) -> "LabelledImages":
        """The images in these rows."""
        return LabelledImages(self.images[rows], self.labels[rows], [self.keys[i] for i in rows])


def write_arrays(folder: Path, name: str, part: LabelledImages, classes: Sequence[str]) -> None:
    """Write ``folder/<name>-<folder>-000000.tar`` and so on, with indexes and a manifest.

    The same images give the same bytes. Shards of an earlier call are replaced. ``classes`` are the
    names of the classes, in the order of their labels.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # Until all shards are written, there is no manifest.
    (folder / MANIFEST_NAME).unlink(missing_ok=True)
    stem = f"{name}-{folder.name}"
    remove_leftovers(folder, f"{stem}-*")
    paths = [folder / f"{stem}-{i:06d}.tar" for i in range(NUM_SHARDS)]
    # Old shards that this version would not write, with another seed's test images.
    for old in set(folder.glob(f"{stem}-*.tar")).difference(paths):
        old.unlink()
        old.with_name(index_name(old.name)).unlink(missing_ok=True)
    rows = np.array_split(np.arange(len(part.keys)), NUM_SHARDS)
    shards = [_write_shard(path, part.take(own)) for path, own in zip(paths, rows, strict=True)]
    manifest = Manifest(len(classes), tuple(classes), tuple(shards), str(folder))
    save_manifest(manifest)


def _write_shard(path: Path, part: LabelledImages) -> ShardEntry:
    samples = (
        Packed(key, "png", encode(Image.fromarray(image), "png"), int(label))
        for key, image, label in zip(part.keys, part.images, part.labels, strict=True)
    )
    indexed = write_tar(path, samples)
    write_bytes(path.with_name(index_name(path.name)), index_bytes(indexed.index))
    return describe(path.name, indexed)
