"""A manifest for shards of others from the counts that are known: no shard is read for it."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from rwp_dist.base.errors import DataError
from rwp_dist.base.urls import local_path, shown
from rwp_dist.data.format.manifest import (
    MANIFEST_NAME,
    RECORDS_NAME,
    Manifest,
    ShardEntry,
    cure_of_missing,
)
from rwp_dist.data.format.sample import Fields
from rwp_dist.shards.collection import REQUESTS, CountedShard, counted, read_collection
from rwp_dist.shards.location import name_in_manifest, shard_size
from rwp_dist.shards.records import refuse_lost_shards


def adopt_shards(
    urls: Sequence[str],
    out: Path | None = None,
    *,
    split: str | None = None,
    samples_per_shard: int | None = None,
    classes: Sequence[str] | None = None,
    fields: Fields | None = None,
    opener: str | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[Manifest, str]:
    """Write a manifest of counts; training indexes each shard when it first reads it.

    Args:
        urls: a folder, a file with counts, or patterns of shards; local or remote.
        out: folder of the manifest; None: that of local shards.
        split: see ``read_collection``.
        samples_per_shard: see ``counted``; None: the collection says its counts.
        classes: names of the labels; None: those of the collection, if it has them.
        fields: which files of a sample are its image and its label.
        opener: ``module:function`` that opens remote shards, as ``data.opener``.
        progress: called with the numbers of shards whose size is known, and of all shards.

    Returns:
        The manifest, and what the counts were read from.

    Raises:
        ConfigError: the collection has several splits, and none of them is named.
        DataError: no counts are known, a shard is missing, or the folder has indexed shards.
    """
    fields = fields or Fields()
    if samples_per_shard is None:
        collection = read_collection(urls, split, opener)
    else:
        collection = counted(urls, samples_per_shard, fields, opener)
    folder = _folder(collection.shards, out)
    known = _adopted(folder)
    labels = classes or collection.classes
    refuse_lost_shards(known, [name_in_manifest(s.location, folder) for s in collection.shards])
    entries = []
    with ThreadPoolExecutor(REQUESTS) as pool:
        for entry in pool.map(partial(_entry, folder, opener), collection.shards):
            entries.append(entry)
            progress(len(entries), len(collection.shards))
    manifest = Manifest(
        num_classes=len(labels or ()),
        classes=None if labels is None else tuple(labels),
        shards=tuple(entries),
        location=str(folder),
        fields=fields,
    )
    folder.mkdir(parents=True, exist_ok=True)
    manifest.save(folder)
    return manifest, collection.source


def _folder(shards: Sequence[CountedShard], out: Path | None) -> Path:
    """Where the manifest goes."""
    if out is not None:
        return out
    folders = {path.parent for shard in shards if (path := local_path(shard.location))}
    if len(folders) != 1:
        raise DataError(
            f"{shown(shards[0].location)}: the shards do not all lie in one local folder",
            cure="say where their manifest goes by --out",
        )
    return folders.pop()


def _adopted(folder: Path) -> Manifest | None:
    """The manifest of adopted shards that is there; other shards are refused."""
    if not (folder / MANIFEST_NAME).exists():
        if (folder / RECORDS_NAME).is_dir():
            raise DataError(f"{folder}: not all shards are here", cure=cure_of_missing(folder))
        return None
    known = Manifest.load(folder)
    if known.fields is None:
        raise DataError(
            f"{folder}: there is a manifest of indexed shards here, which need not be adopted",
            cure="train from this folder, or give another --out",
        )
    return known


def _entry(folder: Path, opener: str | None, shard: CountedShard) -> ShardEntry:
    num_bytes = shard.num_bytes
    if num_bytes is None or local_path(shard.location) is not None:
        num_bytes = shard_size(shard.location, opener)
        if shard.num_bytes not in (None, num_bytes):
            raise DataError(
                f"{shown(shard.location)}: has {num_bytes:,} bytes where its collection says "
                f"{shard.num_bytes:,}",
                cure="fetch it again",
            )
    return ShardEntry(name_in_manifest(shard.location, folder), shard.num_samples, num_bytes)
