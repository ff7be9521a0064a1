"""The joined index of a data set: ``samples.index``, a file that ranks map instead of reading it.

Four arrays of numpy, one after another as ``np.save`` writes them::

    head       uint8         JSON: {"format": 1, "id": the manifest's, "num_classes": 3,
                             "classes": ["ant", "bee", "cow"] or null}
    shards     SHARD_DTYPE   what the manifest says of each shard
    names      uint8         their names in UTF-8, without anything between them
    samples    INDEX_DTYPE   the indexes of all shards

It repeats what manifest and indexes say, and they prove that it is right: its id is the manifest's,
and the part of each shard has the sha256 that the manifest gives for its index. A data set
without it, or with that of another manifest, is opened from these.
"""

import hashlib
import json
import mmap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, NamedTuple, overload

import numpy as np
from numpy.typing import NDArray

from rwp_dist.base.errors import DataError
from rwp_dist.base.files import atomic_file, open_file, parse_json
from rwp_dist.base.urls import local_path
from rwp_dist.data.format.index import INDEX_DTYPE, Index, index_header, read_array
from rwp_dist.data.format.manifest import JOINED_NAME, Manifest, ShardEntry

FORMAT = 1

SHARD_DTYPE = np.dtype(
    [
        ("num_samples", "<i8"),
        ("num_bytes", "<i8"),
        ("sha256", "u1", 32),
        ("index_sha256", "u1", 32),
        ("name_end", "<i8"),
    ]
)
"""``name_end``: where the name ends among all names, in bytes."""


class Joined(NamedTuple):
    """The content of a joined index."""

    head: dict[str, Any]
    table: NDArray[np.void]
    """``[S]`` of ``SHARD_DTYPE``."""
    names: NDArray[np.uint8]
    samples: Index


class ShardTable(Sequence[ShardEntry]):
    """The shards of a joined index as entries of a manifest, each made when it is asked for."""

    def __init__(self, joined: Joined) -> None:
        self.rows, self.names = joined.table, joined.names

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, number: int) -> ShardEntry: ...
    @overload
    def __getitem__(self, number: slice) -> tuple[ShardEntry, ...]: ...
    def __getitem__(self, number: int | slice) -> ShardEntry | tuple[ShardEntry, ...]:
        if isinstance(number, slice):
            return tuple(map(self._entry, range(*number.indices(len(self)))))
        return self._entry(range(len(self))[number])

    def __iter__(self) -> Iterator[ShardEntry]:
        return map(self._entry, range(len(self)))

    def _entry(self, number: int) -> ShardEntry:
        row = self.rows[number]
        begin = self.rows["name_end"][number - 1] if number else 0
        return ShardEntry(
            self.names[begin : row["name_end"]].tobytes().decode(),
            int(row["num_samples"]),
            int(row["num_bytes"]),
            row["sha256"].tobytes().hex(),
            row["index_sha256"].tobytes().hex(),
        )


@dataclass(frozen=True, eq=False)
class JoinedManifest(Manifest):
    """A manifest and the records of all samples, from a joined index that was checked before."""

    joined: Joined = field(kw_only=True)
    labels: tuple[int, int] = field(kw_only=True)
    """The lowest and the highest of all samples."""
    num_present: int = field(kw_only=True)
    """Classes that have samples."""
    newer: tuple[int, ...] = field(kw_only=True)
    """Local shards whose tar is newer than its index: it may have been replaced."""
    newest_ns: int = field(kw_only=True)
    """The last change of a local tar, in ns (``st_ctime_ns``, which no tool sets back). What is
    newer was changed since the check."""

    def __post_init__(self) -> None:
        """Nothing: what it came from was checked."""

    @property
    def id(self) -> str:
        return str(self.joined.head["id"])

    @property
    def counts(self) -> NDArray[np.int64]:
        return self.joined.table["num_samples"]

    @property
    def num_samples(self) -> int:
        return len(self.joined.samples)

    @property
    def num_bytes(self) -> int:
        return int(self.joined.table["num_bytes"].sum())

    @property
    def is_local(self) -> bool:
        return local_path(self.location) is not None and b"://" not in self.joined.names.tobytes()


def write_joined(folder: Path, manifest: Manifest, indexes: Iterable[Index]) -> None:
    """Write ``samples.index`` of a manifest into a folder, from its shards' indexes in order."""
    with atomic_file(folder / JOINED_NAME) as temporary, temporary.open("wb") as file:
        save_joined(file, manifest, indexes)


def save_joined(file: IO[bytes], manifest: Manifest, indexes: Iterable[Index]) -> None:
    """Write the joined index of a manifest to a file that is open."""
    head = json.dumps(_head(manifest)).encode()
    table, names = _table(manifest.shards)
    for array in (np.frombuffer(head, np.uint8), table, names):
        np.save(file, array, allow_pickle=False)
    file.write(index_header(manifest.num_samples))
    num_samples = 0
    for index in indexes:
        file.write(index.tobytes())
        num_samples += len(index)
    assert num_samples == manifest.num_samples, "the caller has checked every index"


def map_joined(path: Path) -> Joined:
    """A joined index in memory that all processes of a machine share.

    Raises:
        OSError: it cannot be read.
        DataError: it is none.
    """
    with open_file(path) as file:
        try:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except ValueError as error:  # it is empty
            raise _wrong(str(path)) from error
    return read_joined(mapped, str(path))


def read_joined(content: bytes | memoryview | mmap.mmap, name: str) -> Joined:
    """A joined index from its content, which is not copied; errors call it ``name``.

    Raises:
        DataError: it is none.
    """
    try:
        head, at = read_array(content, 0, np.dtype("u1"))
        table, at = read_array(content, at, SHARD_DTYPE)
        names, at = read_array(content, at, np.dtype("u1"))
        samples, at = read_array(content, at, INDEX_DTYPE)
        parsed = parse_json(head.tobytes())
        if at != len(content) or not isinstance(parsed, dict) or parsed["format"] != FORMAT:
            raise _wrong(name)
        if not len(table) or table["num_samples"].sum() != len(samples):
            raise _wrong(name)
        return Joined(parsed, table, names, samples)
    except (ValueError, KeyError) as error:
        raise _wrong(name) from error


def belongs(joined: Joined, manifest: Manifest) -> bool:
    """Whether a joined index is that of a manifest, down to every record."""
    if joined.head != _head(manifest):
        return False
    table, names = _table(manifest.shards)
    if not np.array_equal(joined.table, table) or not np.array_equal(joined.names, names):
        return False
    for part, entry in zip(parts(joined), manifest.shards, strict=True):
        sha256 = hashlib.sha256(index_header(len(part)))
        sha256.update(part.data)
        if sha256.hexdigest() != entry.index_sha256:
            return False
    return True


def parts(joined: Joined) -> Iterator[Index]:
    """The index of each shard."""
    end = 0
    for count in joined.table["num_samples"].tolist():
        begin, end = end, end + count
        yield joined.samples[begin:end]


def _head(manifest: Manifest) -> dict[str, Any]:
    """What a joined index says of the whole data set."""
    classes = None if manifest.classes is None else list(manifest.classes)
    known = {"id": manifest.id, "num_classes": manifest.num_classes, "classes": classes}
    return {"format": FORMAT} | known


def _table(shards: Iterable[ShardEntry]) -> tuple[NDArray[np.void], NDArray[np.uint8]]:
    """The shards of a manifest and their names as arrays."""
    names = [shard.name.encode() for shard in shards]
    rows = [
        (
            shard.num_samples,
            shard.num_bytes,
            np.frombuffer(bytes.fromhex(shard.sha256 or ""), np.uint8),
            np.frombuffer(bytes.fromhex(shard.index_sha256 or ""), np.uint8),
            end,
        )
        for shard, end in zip(shards, np.cumsum([len(name) for name in names]), strict=True)
    ]
    return np.array(rows, SHARD_DTYPE), np.frombuffer(b"".join(names), np.uint8)


def _wrong(name: str) -> DataError:
    return DataError(
        f"{name}: this is no joined index", cure="make it again with `rwp-dist shards index`"
    )
