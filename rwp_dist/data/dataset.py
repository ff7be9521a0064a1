"""The shards of a data set as one table of samples: where each lies, its checksum and label."""

import hashlib
import os
import posixpath
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import overload

import numpy as np
from numpy.typing import NDArray

from rwp_dist.base import disk
from rwp_dist.base.errors import ConfigError, DataError
from rwp_dist.base.files import MOST_JSON_BYTES
from rwp_dist.base.urls import joined, local_path, parent, shown
from rwp_dist.data.checked import checked, find_checked
from rwp_dist.data.classes import Classes
from rwp_dist.data.format.index import INDEX_DTYPE, Index
from rwp_dist.data.format.joined import JoinedManifest
from rwp_dist.data.format.manifest import (
    MANIFEST_NAME,
    Manifest,
    ShardEntry,
    cure_of_missing,
    state_of,
)
from rwp_dist.data.format.sample import IMAGE_TYPES, Fields, read_samples
from rwp_dist.data.lazy_indexes import LazyIndexes
from rwp_dist.data.reader import open_local
from rwp_dist.data.remote import Attempts, NodeCache, Patience, Shard, read_url


class Shards(Sequence[Shard]):
    """The shards of manifests, one after another. Each is made when it is asked for."""

    def __init__(self, manifests: Sequence[Manifest]) -> None:
        self._manifests = manifests
        self._ends = np.cumsum([len(manifest.shards) for manifest in manifests])

    def __len__(self) -> int:
        return int(self._ends[-1])

    @overload
    def __getitem__(self, number: int) -> Shard: ...
    @overload
    def __getitem__(self, number: slice) -> tuple[Shard, ...]: ...
    def __getitem__(self, number: int | slice) -> Shard | tuple[Shard, ...]:
        if isinstance(number, slice):
            return tuple(self[one] for one in range(*number.indices(len(self))))
        number = range(len(self))[number]
        part = int(np.searchsorted(self._ends, number, side="right"))
        manifest = self._manifests[part]
        entry = manifest.shards[number - int(self._ends[part])]  # counted from its end
        return Shard(manifest.shard_location(entry), entry.num_bytes, entry.sha256)


@dataclass(frozen=True)
class Dataset:
    """Samples of one or of several manifests, shard after shard."""

    manifests: tuple[Manifest, ...]
    """With their joined index, unless their shards are adopted."""
    records: tuple[Index, ...]
    """Of each manifest, one for each sample. Those of a shard without an index are zeros until
    ``rows_of``."""
    classes: Classes
    """What the labels mean."""
    lazy: Mapping[int, LazyIndexes] = field(default_factory=dict)
    """Of each manifest whose shards are adopted: makes an index when a shard is first read."""

    @cached_property
    def shards(self) -> Shards:
        """Where each shard is, its size and its sha256."""
        return Shards(self.manifests)

    @cached_property
    def counts(self) -> NDArray[np.int64]:
        """Samples of each shard."""
        return np.concatenate([manifest.counts for manifest in self.manifests])

    @cached_property
    def source(self) -> NDArray[np.int64]:
        """Which of the manifests each shard belongs to."""
        lengths = [len(manifest.shards) for manifest in self.manifests]
        return np.repeat(np.arange(len(lengths)), lengths)

    @property
    def id(self) -> str:
        """Changes with any byte of any shard."""
        return joined_id(self.manifests)

    @property
    def newer(self) -> list[int]:
        """Local shards whose tar is newer than its index: it may have been replaced."""
        firsts = np.searchsorted(self.source, np.arange(len(self.manifests))).tolist()
        return [
            first + number
            for manifest, first in zip(self.manifests, firsts, strict=True)
            if isinstance(manifest, JoinedManifest)
            for number in manifest.newer
        ]

    @property
    def num_samples(self) -> int:
        """All samples."""
        return int(self._begins[-1])

    @cached_property
    def firsts(self) -> NDArray[np.int64]:
        """Number of each shard's first sample."""
        return self.counts.cumsum() - self.counts

    @cached_property
    def _begins(self) -> NDArray[np.int64]:
        """Number of each manifest's first sample, and that after the last."""
        return np.cumsum([0, *map(len, self.records)])

    @cached_property
    def _unread(self) -> NDArray[np.bool_]:
        """Which shards this process has not asked ``rows_of`` for."""
        return np.ones(len(self.counts), np.bool_)

    @property
    def index(self) -> Index:
        """The records of all samples; a copy if there are several manifests."""
        return self.records[0] if len(self.records) == 1 else np.concatenate(self.records)

    @property
    def labels(self) -> NDArray[np.int32]:
        """Label of each sample, of a data set that is not lazy."""
        assert not self.lazy, "the caller refuses adopted shards"
        return self.index["label"]

    def labels_of(self, samples: NDArray[np.int64]) -> NDArray[np.int64]:
        """Labels of some samples, whose shards ``rows_of`` was called for."""
        found = np.empty(len(samples), np.int64)
        numbers = np.searchsorted(self._begins, samples, side="right") - 1
        for number in np.unique(numbers):
            own = numbers == number
            found[own] = self.records[number]["label"][samples[own] - self._begins[number]]
        return found

    def locate(self, samples: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Shard and row in it of samples by their number."""
        shards = np.searchsorted(self.firsts, samples, side="right") - 1
        return shards, samples - self.firsts[shards]

    def rows_of(self, shard: int) -> Index:
        """The records of a shard.

        Raises:
            DataError: it has no index, and none can be made; it has other samples than its
                collection says; or its labels were replaced since the data set was checked.
        """
        number = int(self.source[shard])
        first = self.firsts[shard] - self._begins[number]
        rows = self.records[number][first : first + self.counts[shard]]
        if self._unread[shard]:
            if number in self.lazy:
                rows[:] = self.lazy[number].index_of(self.shards[shard], len(rows))
            else:
                manifest = self.manifests[number]
                if isinstance(manifest, JoinedManifest):
                    _check_if_changed(self.shards[shard], rows, manifest.newest_ns)
            self._unread[shard] = False
        return rows

    def name(self, shard: int, row: int) -> str:
        """What messages call a sample."""
        return f"{posixpath.basename(shown(self.shards[shard].url))}, sample {row}"


def load_dataset(
    manifests: Sequence[Manifest],
    num_classes: int,
    cache: NodeCache | None,
    folder: Path | None = None,
) -> Dataset:
    """The shards and indexes that manifests name.

    Args:
        manifests: of one or of several data sets.
        num_classes: labels must be below.
        cache: keeps remote shards and their index files; needed if there are such.
        folder: of the node, where it notes what was checked and keeps indexes of adopted shards;
            needed if there are such.

    Raises:
        DataError: something is missing, does not fit together, or a label is negative or means
            different classes.
        ConfigError: there are more labels than ``num_classes``.
    """
    classes = Classes.of(manifests)
    parts = [_checked(manifest, folder, cache) for manifest in manifests]
    lazy = {
        number: LazyIndexes(folder, part.fields, num_classes, part.num_classes, cache)
        for number, part in enumerate(parts)
        if part.fields is not None and folder is not None
    }
    records = [
        part.joined.samples
        if isinstance(part, JoinedManifest)
        else np.zeros(part.num_samples, INDEX_DTYPE)  # memory for what is written to it alone
        for part in parts
    ]
    dataset = Dataset(tuple(parts), tuple(records), classes, lazy)
    labels = [label for part in parts if isinstance(part, JoinedManifest) for label in part.labels]
    if labels and not 0 <= min(labels) <= max(labels) < num_classes:
        _refuse_labels(dataset, num_classes)
    return dataset


def _checked(manifest: Manifest, folder: Path | None, cache: NodeCache | None) -> Manifest:
    """The manifest with its joined index; without, if its shards are adopted."""
    if manifest.fields is None:
        return checked(manifest, folder, cache)
    for entry in manifest.shards:
        _check_presence(manifest, entry)
    return manifest


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
        _check_labels_of(dataset.shards[number], dataset.rows_of(number))


def _check_labels_of(shard: Shard, rows: Index) -> None:
    """Compare the labels in a local shard with those of its index.

    Raises:
        DataError: they were replaced.
    """
    path = local_path(shard.url)
    assert path is not None, "it is local"
    labels = list[int]()
    with suppress(DataError), path.open("rb") as file:  # its images are found to be bad
        labels = [s.label() for s in read_samples(file, str(path), Fields(), images=False)]
    known = rows["label"].tolist()
    if len(labels) == len(known) and labels != known:
        raise DataError(
            f"{path}: its labels are not those of its index, because it was replaced",
            cure=f"index it again with `rwp-dist shards index {path.parent}`",
        )


def _check_if_changed(shard: Shard, rows: Index, newest_ns: int) -> None:
    """The same of a shard that was changed since, by its time."""
    path = local_path(shard.url)
    with suppress(OSError):  # reading it says what is wrong
        if path is not None and path.stat().st_ctime_ns > newest_ns:
            _check_labels_of(shard, rows)


def load_manifest(
    source: str,
    patience: Patience | None = None,
    opener: str | None = None,
    *,
    key: str = "data.train",
    folder: Path | None = None,
) -> Manifest:
    """The manifest of a folder, of a ``manifest.json``, or of a URL of either.

    Args:
        source: the folder, file or URL.
        patience: with a server.
        opener: ``module:function`` that opens URLs, as ``data.opener``.
        key: the setting that names the source.
        folder: of the node. If it notes that the data set was checked, nothing is read but its
            joined index.

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
        return _fetch_manifest(url, Attempts(url, patience or Patience()), opener, folder)
    try:
        if path.is_file() or (path / MANIFEST_NAME).exists():
            file = path if path.is_file() else path / MANIFEST_NAME
            found = None
            if folder is not None:
                found = find_checked(str(file.parent), state_of(file), folder)
            return found or Manifest.load(path)
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


def _fetch_manifest(
    url: str, attempts: Attempts, opener: str | None, folder: Path | None
) -> Manifest:
    """The id in the manifest tells whether it is whole; content that comes twice is final."""
    before = None
    while True:
        data = read_url(url, attempts=attempts, opener=opener, most_bytes=MOST_JSON_BYTES)
        state = hashlib.sha256(data).hexdigest()[:16]
        if folder is not None and (found := find_checked(parent(url), state, folder)):
            return found
        try:
            return Manifest.from_json(data, parent(url), state)
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


def _check_presence(manifest: Manifest, entry: ShardEntry) -> None:
    """Find a local shard that is missing or cut before training, not in the middle of it."""
    shard = local_path(manifest.shard_location(entry))
    if shard is not None:
        open_local(shard, entry.num_bytes).close()


def _refuse_labels(dataset: Dataset, num_classes: int) -> None:
    labels = dataset.index["label"]
    wrong = np.flatnonzero((labels < 0) | (labels >= num_classes))
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
