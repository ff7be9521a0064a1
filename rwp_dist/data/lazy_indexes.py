"""Indexes of adopted shards, which are made when a shard is first read.

An index is kept beside its shard, where that is local and its folder can be written; else in a
folder of the node's cache. So each shard is read from start to end once on a node, or once at all.
"""

import hashlib
from contextlib import suppress
from dataclasses import astuple, dataclass
from pathlib import Path

import numpy as np

from rwp_dist.base.errors import DataError
from rwp_dist.base.files import write_bytes
from rwp_dist.base.urls import local_path, shown
from rwp_dist.data.format.index import (
    Index,
    check_places,
    index_bytes,
    index_name,
    index_tar,
    load_index,
)
from rwp_dist.data.format.sample import Fields
from rwp_dist.data.reader import open_shard
from rwp_dist.data.remote import NodeCache, Shard, file_name, locked

WAIT_FOR_OTHERS_S = 600.0
"""How long to wait for another process that indexes the same shard, before doing it as well."""


@dataclass(frozen=True)
class LazyIndexes:
    """Makes and keeps the indexes of one adopted data set. It may be forked and pickled."""

    folder: Path
    """Keeps the indexes that cannot lie beside their shards."""
    fields: Fields
    """Which files of a sample are its image and its label."""
    num_classes: int
    """Labels must be below."""
    num_named: int
    """And below this; 0: no class has a name."""
    cache: NodeCache | None
    """For remote shards."""

    def index_of(self, shard: Shard, num_samples: int) -> Index:
        """The index of a shard that should have ``num_samples``; found, or made and kept.

        Raises:
            DataError: the shard cannot be read, is damaged, or has another number of samples; or a
                label is out of range.
        """
        index = self._find(shard, num_samples)
        if index is None:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                lock = self.folder / f"{file_name(shard)}.lock"
                with locked(lock, WAIT_FOR_OTHERS_S):  # another may make it just now
                    index = self._find(shard, num_samples)
                    if index is None:
                        index = self._make(shard, num_samples)
                        self._keep(shard, index)
            except OSError as error:
                raise DataError(
                    f"{self.folder}: indexes cannot be kept here ({error.strerror})",
                    key="data.cache_dir",
                    cure="make room, or set data.cache_dir",
                ) from error
        self._check_labels(shard, index)
        return index

    def _places(self, shard: Shard) -> list[Path]:
        """Where the index may be, the preferred place first."""
        # Other fields find other labels in the same tar.
        fields = _digest(astuple(self.fields))
        path = local_path(shard.url)
        if path is None:
            return [self.folder / index_name(f"{file_name(shard)}.{fields}")]
        # The folder's disk may have another clock than the tar's, so names there say of which tar.
        kept = index_name(f"{file_name(shard)}.{fields}.{_digest(_state(path))}")
        return [path.with_name(index_name(f"{path.name}.{fields}")), self.folder / kept]

    def _find(self, shard: Shard, num_samples: int) -> Index | None:
        """An index that was made before from what the shard is now."""
        tar = local_path(shard.url)
        for place in self._places(shard):
            with suppress(OSError, DataError):
                if tar and place.parent == tar.parent and _changed(place) < _changed(tar):
                    continue  # the shard was replaced
                index = load_index(place)
                if len(index) == num_samples:
                    return index
        return None

    def _make(self, shard: Shard, num_samples: int) -> Index:
        name = shown(shard.url)
        with open_shard(shard, self.cache) as file:
            try:
                indexed = index_tar(file, name, self.fields)
            except OSError as error:
                raise DataError(
                    f"{name}: cannot be read ({error.strerror})", cure="check its disk"
                ) from error
            except DataError as error:
                if self.cache is not None:
                    self.cache.forget(shard)  # so that a damaged download is not found again
                raise DataError(
                    error.problem, cure=f"{error.cure}; then adopt the shards again"
                ) from error
        if len(indexed.index) != num_samples:
            raise DataError(
                f"{name}: holds {len(indexed.index):,} samples where its collection says "
                f"{num_samples:,}",
                cure="adopt it again with the right counts, or count them with `rwp-dist shards "
                "index`",
            )
        assert not len(check_places(indexed.index, indexed.num_bytes)), "it was just read"
        return indexed.index

    def _keep(self, shard: Shard, index: Index) -> None:
        places = self._places(shard)
        for place in places:
            try:
                write_bytes(place, index_bytes(index))
                return
            except OSError:
                if place == places[-1]:
                    raise

    def _check_labels(self, shard: Shard, index: Index) -> None:
        unnamed = np.flatnonzero(index["label"] >= (self.num_named or self.num_classes))
        if self.num_named and len(unnamed):
            raise DataError(
                f"{shown(shard.url)}, sample {unnamed[0]}: its label "
                f"{index['label'][unnamed[0]]} has no name, because {self.num_named} are named",
                cure="adopt the shards again with the names of all classes (--classes FILE)",
            )
        wrong = np.flatnonzero(index["label"] >= self.num_classes)
        if len(wrong):
            label = int(index["label"][wrong[0]])
            raise DataError(
                f"{shown(shard.url)}, sample {wrong[0]}: its label {label} is not one of "
                f"0..{self.num_classes - 1}",
                key="model.num_classes",
                cure=f"set model.num_classes to {int(index['label'].max()) + 1} or more, or adopt "
                "the shards with another --label-key",
            )


def _changed(path: Path) -> int:
    """When a file was last changed, by its disk's clock."""
    return max(_state(path)[1:])


def _state(path: Path) -> tuple[int, int, int]:
    """Size and times of a file, none if it is missing. The second time cannot be set back."""
    try:
        stat = path.stat()
    except OSError:
        return 0, 0, 0
    return stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


def _digest(value: tuple[object, ...]) -> str:
    return hashlib.sha256(repr(value).encode()).hexdigest()[:8]
