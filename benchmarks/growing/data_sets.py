"""Data sets of any size from four real shards: hard links under many names, and one manifest."""

import os
from dataclasses import replace
from pathlib import Path

from rwp_dist.config import Settings, load_settings
from rwp_dist.data import save_manifest
from rwp_dist.data.format import Manifest, index_name
from rwp_dist.shards import synthetic_listing, write_shards

CLASSES, REAL_SHARDS, PIXELS = 1000, 4, 16
RANKS, BATCH = 8, 1024


def make_data_set(folder: Path, num_samples: int, per_shard: int = 1000) -> Path:
    """A data set of tiny images in shards of ``per_shard`` samples, as any command would leave it.

    The real shards lie beside it and are made once. A file system lets a file have some ten
    thousand names (ext4 65,000), enough for 260 M samples.
    """
    real = folder.with_name(f"real-{per_shard}")
    if not real.exists():
        listing = synthetic_listing(REAL_SHARDS * per_shard, PIXELS, PIXELS, CLASSES, seed=0)
        write_shards(listing, real, samples_per_shard=per_shard)
    known = Manifest.load(real)
    folder.mkdir()
    entries = []
    for number in range(num_samples // per_shard):
        entry = known.shards[number % REAL_SHARDS]
        name = f"train-{number:06d}.tar"
        os.link(real / entry.name, folder / name)
        os.link(real / index_name(entry.name), folder / index_name(name))
        entries.append(replace(entry, name=name))
    save_manifest(Manifest(CLASSES, known.classes, tuple(entries), str(folder)))
    return folder


def settings_of(folder: Path, cache: Path, *more: str) -> Settings:
    """Of a run on a data set; ``cache`` is the node's."""
    return load_settings(
        None,
        [
            f"data.train={folder}",
            f"data.cache_dir={cache}",
            "data.workers=0",
            f"data.image_size={PIXELS}",
            "data.channels=3",
            "data.mean=[0.5,0.5,0.5]",
            "data.std=[0.5,0.5,0.5]",
            f"model.num_classes={CLASSES}",
            f"batch.global={BATCH}",
            f"batch.per_rank={BATCH // RANKS}",
            "method.name=sgd",
            *more,
        ],
    )
