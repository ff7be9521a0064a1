"""The shards of a data set as one table of samples: where each lies, its checksum and label."""

import hashlib
import os
import posixpath
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rwp_dist.base import disk
from rwp_dist.base.errors import ConfigError, DataError
from rwp_dist.base.files import MOST_JSON_BYTES
from rwp_dist.base.urls import joined, local_path, parent, shown
from rwp_dist.data.classes import Classes
from rwp_dist.data.format.index import (
    INDEX_DTYPE,
    MOST_INDEX_BYTES,
    Index,
    check_places,
    load_index,
    read_index,
)
from rwp_dist.data.format.manifest import MANIFEST_NAME, Manifest, ShardEntry, cure_of_missing
from rwp_dist.data.format.sample import IMAGE_TYPES, Fields, read_samples
from rwp_dist.data.lazy_indexes import LazyIndexes
from rwp_dist.data.reader import open_local
from rwp_dist.data.remote import Attempts, NodeCache, Patience, Shard, read_url

_MAKE_BOTH_AGAIN = "make both again with `rwp-dist shards index`"
INDEX_REQUESTS = 16
"""Index files of a remote data set that are downloaded at the same time."""


@dataclass(frozen=True)
class Dataset:
    """Samples of one or of several manifests, shard after shard."""

    shards: tuple[Shard, ...]
    """Where each shard is, its size and its sha256."""
    counts: NDArray[np.int64]
    """Samples of each shard."""
    source: NDArray[np.int64]
    """Which of the manifests each shard belongs to."""
    index: Index
    """One record for each sample. Those of a shard without an index are zeros until ``rows_of``."""
    id: str
    """Changes with any byte of any shard."""
    classes: Classes
    """What the labels mean."""
    newer: tuple[int, ...] = ()
    """Local shards whose tar is newer than its index: it may have been replaced."""
    lazy: Mapping[int, LazyIndexes] = field(default_factory=dict)
    """Of each manifest whose shards are adopted: makes an index when a shard is first read."""

    @property
    def num_samples(self) -> int:
        """All samples."""
        return len(self.index)

    @cached_property
    def firsts(self) -> NDArray[np.int64]:
        """Number of each shard's first sample."""
        return self.counts.cumsum() - self.counts

    @cached_property
    def unindexed(self) -> NDArray[np.bool_]:
        """Which shards have no index yet, as far as this process knows."""
        return np.isin(self.source, list(self.lazy))

    @property
    def labels(self) -> NDArray[np.int64]:
        """Label of each sample, of a data set that is not lazy."""
        assert not self.lazy, "the caller refuses adopted shards"
        return self.index["label"].astype(np.int64)

    def labels_of(self, samples: NDArray[np.int64]) -> NDArray[np.int64]:
        """Labels of some samples, whose shards ``rows_of`` was called for."""
        return self.index["label"][samples].astype(np.int64)

    def locate(self, samples: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Shard and row in it of samples by their number."""
        shards = np.searchsorted(self.firsts, samples, side="right") - 1
        return shards, samples - self.firsts[shards]

    def rows_of(self, shard: int) -> Index:
        """The records of a shard.

        Raises:
            DataError: it has no index, and none can be made; or it has other samples than its
                collection says.
        """
        first = self.firsts[shard]
        rows = self.index[first : first + self.counts[shard]]
        if self.lazy and self.unindexed[shard]:
            rows[:] = self.lazy[int(self.source[shard])].index_of(self.shards[shard], len(rows))
            self.unindexed[shard] = False
        return rows

    def name(self, shard: int, row: int) -> str:
        """What messages call a sample."""
        return f"{posixpath.basename(shown(self.shards[shard].url))}, sample {row}"


def load_dataset(
    manifests: Sequence[Manifest],
    num_classes: int,
    cache: NodeCache | None,
    indexes_folder: Path | None = None,
) -> Dataset:
    """The shards and indexes that manifests name.

    Args:
        manifests: of one or of several data sets.
        num_classes: labels must be below.
        cache: keeps remote shards and their index files; needed if there are such.
        indexes_folder: keeps indexes of adopted shards; needed if there are such.

    Raises:
        DataError: something is missing, does not fit together, or a label is negative or means
            different classes.
        ConfigError: there are more labels than ``num_classes``.
    """
    classes = Classes.of(manifests)
    shards = [
        Shard(manifest.shard_location(entry), entry.num_bytes, entry.sha256)
        for manifest in manifests
        for entry in manifest.shards
    ]
    lazy = {
        number: LazyIndexes(
            indexes_folder, manifest.fields, num_classes, manifest.num_classes, cache
        )
        for number, manifest in enumerate(manifests)
        if manifest.fields is not None and indexes_folder is not None
    }
    counts = np.array([s.num_samples for m in manifests for s in m.shards], dtype=np.int64)
    index = np.zeros(counts.sum(), INDEX_DTYPE)  # memory for what is written to it alone
    first = 0
    for manifest in manifests:
        for entry in manifest.shards:
            _check_presence(manifest, entry)
        if manifest.fields is None:
            indexes = _load_indexes(manifest, cache)
            np.concatenate(indexes, out=index[first : first + manifest.num_samples])
        first += manifest.num_samples
    places = (
        [m.shard_location(s) for m in manifests for s in m.shards],
        [m.index_location(s) for m in manifests for s in m.shards],
    )
    dataset = Dataset(
        tuple(shards),
        counts,
        np.repeat(np.arange(len(manifests)), [len(manifest.shards) for manifest in manifests]),
        index,
        joined_id(manifests),
        classes,
        tuple(number for number, is_newer in enumerate(map(_is_newer, *places)) if is_newer),
        lazy,
    )
    _check_labels(dataset, num_classes)
    return dataset


def joined_id(manifests: Sequence[Manifest]) -> str:
    """One id for the data sets of some manifests, hexadecimal."""
    return hashlib.sha256("\n".join(manifest.id for manifest in manifests).encode()).hexdigest()


def check_labels_again(dataset: Dataset, part: int, parts: int) -> None:
    """Compare the labels in shards that are newer than their index with those of the index.

    Images have a crc32 each, labels do not. Of parts of all such shards, it checks one. Labels in
    ``.json`` are left out, because the manifest does not say their field.

    Raises:
        DataError: the labels of a shard were replaced.
    """
    for number in dataset.newer[part::parts]:
        path = local_path(dataset.shards[number].url)
        assert path is not None, "it is local"
        labels = list[int]()
        with suppress(DataError), path.open("rb") as file:  # its images are found to be bad
            labels = [s.label() for s in read_samples(file, str(path), Fields(), images=False)]
        known = dataset.rows_of(number)["label"].tolist()
        if len(labels) == len(known) and labels != known:
            raise DataError(
                f"{path}: its labels are not those of its index, because it was replaced",
                cure=f"index it again with `rwp-dist shards index {path.parent}`",
            )


def _is_newer(shard: str, index: str) -> bool:
    tar, other = local_path(shard), local_path(index)
    if tar is None or other is None or not other.exists():
        return False
    return tar.stat().st_mtime_ns > other.stat().st_mtime_ns


def load_manifest(
    source: str,
    patience: Patience | None = None,
    opener: str | None = None,
    *,
    key: str = "data.train",
) -> Manifest:
    """The manifest of a folder, of a ``manifest.json``, or of a URL of either.

    ``key`` is the setting that names it.

    Raises:
        DataError: there is none, it is not whole, or the folder cannot be read.
    """
    path = local_path(source)
    if "{" in source and not (path is not None and path.exists()):
        raise DataError(
            f"{shown(source)}: this is a pattern of shards, and not the folder of their manifest",
            key=key,
            cure="make one with `rwp-dist shards index 'PATTERN' --out FOLDER` (or `adopt`), and "
            f"set {key} to FOLDER",
        )
    if path is None:
        url = source if shown(source).endswith(".json") else joined(source, MANIFEST_NAME)
        return _fetch_manifest(url, Attempts(url, patience or Patience()), opener)
    try:
        if path.is_file() or (path / MANIFEST_NAME).exists():
            return Manifest.load(path)
        there = path.exists() or path.is_symlink()
        names = [entry.name for entry in path.iterdir()] if there else []
    except OSError as error:
        raise DataError(
            f"{source}: this folder cannot be read ({error.strerror})",
            key=key,
            cure=disk.cure_of(error, f"set {key} to"),
        ) from None
    if any(name.endswith(".tar") for name in names):
        raise DataError(f"{source}: there are shards but no manifest", cure=cure_of_missing(path))
    cure = f"{_command_for(path)}, or set {key} to where they are"
    raise DataError(f"{source}: there are no shards here", key=key, cure=cure)


def is_local(manifest: Manifest) -> bool:
    """Whether manifest and shards all lie on disks."""
    locations = [manifest.location, *map(manifest.shard_location, manifest.shards)]
    return all(local_path(location) is not None for location in locations)


def _fetch_manifest(url: str, attempts: Attempts, opener: str | None) -> Manifest:
    """The id in the manifest tells whether it is whole; content that comes twice is final."""
    before = None
    while True:
        data = read_url(url, attempts=attempts, opener=opener, most_bytes=MOST_JSON_BYTES)
        try:
            return Manifest.from_json(data, parent(url))
        except DataError as error:
            if data == before:
                raise
            before = data
            attempts.failed(error.problem)


def _command_for(path: Path) -> str:
    """How to write the shards that a path should have, perhaps of the images that it has."""
    if _has_images(path):
        return f"write its images as such with `rwp-dist shards write {path} --out {path}-shards`"
    for folder in (path, *path.parents):
        for known in ("digits", "mnist"):
            if folder.name.startswith(known):
                return f"write them with `rwp-dist shards {known} --out {folder}`"
    return f"write them with `rwp-dist shards write IMAGES --out {path}`"


def _has_images(path: Path) -> bool:
    """Whether there are images among the first files of a folder or of the folders in it."""

    def first(folder: str | Path) -> list[os.DirEntry[str]]:
        try:
            with os.scandir(folder) as entries:
                return list(islice(entries, 20))
        except OSError:
            return []

    there = first(path)
    there += [inner for entry in there if entry.is_dir() for inner in first(entry.path)]
    return any(Path(entry.name).suffix[1:].lower() in IMAGE_TYPES for entry in there)


def _load_indexes(manifest: Manifest, cache: NodeCache | None) -> list[Index]:
    def fetch(entry: ShardEntry) -> bytes:
        location = manifest.index_location(entry)
        path = local_path(location)
        if path is not None:
            return read_index(path)
        assert cache is not None, f"{location}: remote shards need a cache"
        with cache.open(Shard(location, None, entry.index_sha256, MOST_INDEX_BYTES)) as file:
            return file.readall()

    # Threads only wait for files and servers: Python computes with one of them at a time.
    with ThreadPoolExecutor(INDEX_REQUESTS) as pool:
        contents = pool.map(fetch, manifest.shards)
        return [
            _parse(manifest, entry, data)
            for entry, data in zip(manifest.shards, contents, strict=True)
        ]


def _check_presence(manifest: Manifest, entry: ShardEntry) -> None:
    """Find a local shard that is missing or cut before training, not in the middle of it."""
    shard = local_path(manifest.shard_location(entry))
    if shard is not None:
        open_local(shard, entry.num_bytes).close()


def _parse(manifest: Manifest, entry: ShardEntry, data: bytes) -> Index:
    location = manifest.index_location(entry)
    if hashlib.sha256(data).hexdigest() != entry.index_sha256:
        raise DataError(
            f"{location}: does not belong to the manifest beside it", cure=_MAKE_BOTH_AGAIN
        )
    index = load_index(data, location)
    if len(index) != entry.num_samples:
        raise DataError(
            f"{location}: has {len(index)} samples and the manifest says {entry.num_samples}",
            cure=_MAKE_BOTH_AGAIN,
        )
    if len(check_places(index, entry.num_bytes or 0)):
        raise DataError(f"{location}: leads beyond the end of the shard", cure=_MAKE_BOTH_AGAIN)
    if not len(index):
        raise DataError(
            f"{manifest.shard_location(entry)}: this shard holds 0 samples",
            cure="remove it and run `rwp-dist shards index` again",
        )
    return index


def _check_labels(dataset: Dataset, num_classes: int) -> None:
    labels = dataset.index["label"]
    wrong = np.flatnonzero((labels < 0) | (labels >= num_classes))
    if not len(wrong):
        return
    shards, rows = dataset.locate(wrong[:1])
    label = int(labels[wrong[0]])
    problem = (
        f"{dataset.name(int(shards[0]), int(rows[0]))}: its label {label} is not one of "
        f"0..{num_classes - 1} ({len(wrong):,} samples in all)"
    )
    if label < 0:
        raise DataError(problem, cure="write the shards again with labels from 0 on")
    needed = int(labels.max()) + 1
    raise ConfigError(
        problem, key="model.num_classes", cure=f"set model.num_classes to {needed} or more"
    )
