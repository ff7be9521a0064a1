"""The shards of a data set as one table of samples: where each lies, its checksum and label."""

import hashlib
import posixpath
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rwp_dist.base.errors import DataError
from rwp_dist.base.urls import joined, local_path, parent, shown
from rwp_dist.data.classes import Classes
from rwp_dist.data.format.index import Index, check_places, load_index, read_index
from rwp_dist.data.format.manifest import MANIFEST_NAME, Manifest, ShardEntry, cure_of_missing
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
    """One record for each sample."""
    id: str
    """Changes with any byte of any shard."""
    classes: Classes
    """What the labels mean."""

    @property
    def num_samples(self) -> int:
        """All samples."""
        return len(self.index)

    @cached_property
    def firsts(self) -> NDArray[np.int64]:
        """Number of each shard's first sample."""
        return self.counts.cumsum() - self.counts

    @property
    def labels(self) -> NDArray[np.int64]:
        """Label of each sample."""
        return self.index["label"].astype(np.int64)

    def labels_of(self, samples: NDArray[np.int64]) -> NDArray[np.int64]:
        """Labels of some samples."""
        return self.index["label"][samples].astype(np.int64)

    def locate(self, samples: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Shard and row in it of samples by their number."""
        shards = np.searchsorted(self.firsts, samples, side="right") - 1
        return shards, samples - self.firsts[shards]

    def rows_of(self, shard: int) -> Index:
        """The records of a shard."""
        first = self.firsts[shard]
        return self.index[first : first + self.counts[shard]]

    def name(self, shard: int, row: int) -> str:
        """What messages call a sample."""
        return f"{posixpath.basename(shown(self.shards[shard].url))}, sample {row}"


def load_dataset(
    manifests: Sequence[Manifest], num_classes: int, cache: NodeCache | None
) -> Dataset:
    """The shards and indexes that manifests name.

    Args:
        manifests: of one or of several data sets.
        num_classes: labels must be below.
        cache: keeps the index files of remote shards; needed if there are such.

    Raises:
        DataError: something is missing, does not fit together, or a label is out of range or
            means different classes.
    """
    classes = Classes.of(manifests)
    shards = [
        Shard(manifest.shard_location(entry), entry.num_bytes, entry.sha256)
        for manifest in manifests
        for entry in manifest.shards
    ]
    indexes = [index for manifest in manifests for index in _load_indexes(manifest, cache)]
    ids = "\n".join(manifest.id for manifest in manifests)
    dataset = Dataset(
        tuple(shards),
        np.array([len(index) for index in indexes], dtype=np.int64),
        np.repeat(np.arange(len(manifests)), [len(manifest.shards) for manifest in manifests]),
        np.concatenate(indexes),
        hashlib.sha256(ids.encode()).hexdigest(),
        classes,
    )
    _check_labels(dataset, num_classes)
    return dataset


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
    if path is None:
        url = source if shown(source).endswith(".json") else joined(source, MANIFEST_NAME)
        return _fetch_manifest(url, Attempts(url, patience or Patience()), opener)
    try:
        if path.is_file() or (path / MANIFEST_NAME).exists():
            return Manifest.load(path)
        names = [entry.name for entry in path.iterdir()] if path.exists() else []
    except OSError as error:
        raise DataError(
            f"{source}: this folder cannot be read ({error.strerror})",
            key=key,
            cure=f"check its permissions, or set {key} to another folder",
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
        data = read_url(url, attempts=attempts, opener=opener)
        try:
            return Manifest.from_json(data.decode(errors="replace"), parent(url))
        except DataError as error:
            if data == before:
                raise
            before = data
            attempts.failed(str(error))


def _command_for(path: Path) -> str:
    """How to write the shards that a path should have."""
    for folder in (path, *path.parents):
        if folder.name.startswith("digits"):
            return f"write them with `rwp-dist shards digits --out {folder}`"
    return f"write them with `rwp-dist shards write IMAGES --out {path}`"


def _load_indexes(manifest: Manifest, cache: NodeCache | None) -> list[Index]:
    def fetch(entry: ShardEntry) -> bytes:
        shard = local_path(manifest.shard_location(entry))
        if shard is not None:  # missing or cut is found before training, not in the middle of it
            open_local(shard, entry.num_bytes).close()
        location = manifest.index_location(entry)
        path = local_path(location)
        if path is not None:
            return read_index(path)
        assert cache is not None, f"{location}: remote shards need a cache"
        with cache.open(Shard(location, None, entry.index_sha256)) as file:
            return file.readall()

    # Threads only wait for files and servers: Python computes with one of them at a time.
    with ThreadPoolExecutor(INDEX_REQUESTS) as pool:
        contents = pool.map(fetch, manifest.shards)
        return [
            _parse(manifest, entry, data)
            for entry, data in zip(manifest.shards, contents, strict=True)
        ]


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
    if len(check_places(index, entry.num_bytes)):
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
    raise DataError(
        problem, key="model.num_classes", cure=f"set model.num_classes to {needed} or more"
    )
