"""Records of finished shards, from which a command that was killed continues.

::

    FOLDER/.written/train-000000.tar.json    {"recipe": "...", "num_classes": 3, "entry": {...},
                                              "left_out": {".txt of no sample": 1},
                                              "made_from": {...}}    see ``MadeFrom``

A shard is finished if it has a record, its tar has the recorded size and its index the recorded
sha256. The tasks of a Slurm job learn from the records what the others have finished: the task that
finds all shards finished writes the manifest. Two tasks may write it; they write the same content.
"""

import hashlib
import json
import os
import posixpath
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from rwp_dist.base.errors import DataError
from rwp_dist.base.files import read_json, write_bytes, write_text
from rwp_dist.base.urls import local_path, shown
from rwp_dist.data.checked import save_manifest
from rwp_dist.data.format.index import IndexedShard, index_bytes, index_name, read_index
from rwp_dist.data.format.manifest import (
    MANIFEST_NAME,
    RECORDS_NAME,
    Manifest,
    ShardEntry,
    describe,
)
from rwp_dist.shards.location import tars_in


class MadeFrom(NamedTuple):
    """What a shard was written from, or which tar was indexed, so that a change is noticed."""

    stat: str
    """See ``stat_id``; while it is the same, nothing changed."""
    sha256: str | None
    """Over the contents of the images' files, or of the tar that was indexed; None: the tar holds
    the images' files as they were."""
    checked: bool = False
    """Whether every image was decoded."""
    bad: Sequence[Sequence[str]] = ()
    """Name of each image that was left out, and why."""
    num_unoriented: int = 0
    """Images with an orientation tag that is not applied."""


class FinishedShard(NamedTuple):
    """What the manifest needs to know of a shard."""

    entry: ShardEntry
    num_classes: int
    """One more than its largest label."""
    left_out: Mapping[str, int] | None
    """How many files of the tar are in no sample, by kind; None: an earlier version indexed it."""
    made_from: MadeFrom | None = None
    """None: an earlier version made it, or the tar is remote."""


class _Record(NamedTuple):
    """What a file here holds."""

    recipe: str
    shard: FinishedShard

    def to_json(self) -> str:
        shard = self.shard
        content = {
            "recipe": self.recipe,
            "num_classes": shard.num_classes,
            "entry": asdict(shard.entry),
            "left_out": shard.left_out,
            "made_from": None if shard.made_from is None else shard.made_from._asdict(),
        }
        return json.dumps(content)

    @classmethod
    def of(cls, content: Any) -> "_Record":
        """Raises ValueError, KeyError or TypeError if it is no record."""
        entry, num_classes = ShardEntry(**content["entry"]), content["num_classes"]
        left_out, made_from = content.get("left_out"), content.get("made_from")
        if (
            entry.fault(adopted=False)
            or type(num_classes) is not int
            or not isinstance(content["recipe"], str)
        ):
            raise ValueError
        if left_out is not None:
            left_out = {str(kind): int(count) for kind, count in dict(left_out).items()}
        if made_from is not None:
            bad = [(str(name), str(why)) for name, why in made_from.get("bad", ())]
            made_from = MadeFrom(**made_from | {"bad": bad})
        return cls(content["recipe"], FinishedShard(entry, num_classes, left_out, made_from))


def stats_of(paths: Iterable[str | Path]) -> list[os.stat_result]:
    """The state of files, of those that are there."""
    found = []
    for path in paths:
        with suppress(OSError, ValueError):
            found.append(os.stat(path))  # noqa: PTH116  a Path costs as much as the call
    return found


def stat_id(paths: Iterable[str | Path]) -> str:
    """Sha256 over sizes, times and numbers of files: another one after every change.

    The time of change cannot be set back, as the one of modification can.
    """
    kept = [(s.st_size, s.st_mtime_ns, s.st_ctime_ns, s.st_ino) for s in stats_of(paths)]
    return hashlib.sha256(repr(kept).encode()).hexdigest()


def recipe_id(**settings: Any) -> str:
    """Sha256 over everything that decides the bytes of shards."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def manifest_in(folder: Path) -> Manifest | None:
    """The manifest of a folder; None: there is none, or a broken one."""
    with suppress(DataError):
        return Manifest.load(folder) if (folder / MANIFEST_NAME).exists() else None
    return None


def refuse_lost_shards(known: Manifest | None, names: Sequence[str]) -> None:
    """Refuse to replace a folder's manifest by one that lacks shards which are still there.

    Raises:
        DataError: it names other shards than ``names``.
    """
    if known is None:
        return
    own = set(names)
    for shard in known.shards:
        if shard.name in own:
            continue
        path = local_path(known.shard_location(shard))
        if path is None or path.exists():
            raise DataError(
                f"{known.location}: the manifest here names other shards (such as "
                f"{shown(shard.name)})",
                cure="give this one a folder of its own by --out, or name all shards",
            )


@dataclass(frozen=True)
class Records:
    """The records in a folder, as seen by a command that makes shards by one recipe."""

    folder: Path
    recipe: str
    """See ``recipe_id``."""

    @property
    def records_folder(self) -> Path:
        """The folder of the records."""
        return self.folder / RECORDS_NAME

    def path(self, name: str) -> Path:
        """The record of a shard."""
        return self.records_folder / f"{posixpath.basename(name)}.json"

    def make_folder(self) -> None:
        """Make the folder for shards and records."""
        self.records_folder.mkdir(parents=True, exist_ok=True)

    def finished_of(self, names: Sequence[str], cure: str) -> dict[str, FinishedShard]:
        """The finished shards of a command that makes ``names``; a folder with others is refused.

        Raises:
            DataError: there are shards of another recipe, other shards, or shards without records.
        """
        own = set(names)
        there = tars_in(self.folder)
        for tar in there:  # whoever reads *.tar would read them too
            if tar.name not in own:
                raise DataError(
                    f"{self.folder}: there are other shards here (such as {tar.name})", cure=cure
                )
        # In this order, because another task may just be making first the folder, then its shards.
        if there and not self.records_folder.exists():
            raise DataError(f"{self.folder}: {there[0].name} is here already", cure=cure)
        found = {}
        for path in sorted(self.records_folder.glob("*.json")):
            record = None
            if path.stem in own:
                try:
                    record = self._read(path)
                except DataError:
                    if not path.exists():  # another task has just found its shard to be stale
                        continue
                    raise
            if record is None or record.recipe != self.recipe:
                raise DataError(
                    f"{self.folder}: there are shards of another source or other settings here "
                    f"(such as {path.stem})",
                    cure=cure,
                )
            if shard := self._finished(path.stem, record, self._num_bytes(path.stem)):
                found[path.stem] = shard
        return found

    def has_other(self, name: str) -> bool:
        """Whether another recipe made the shard of this name."""
        path = self.path(name)
        return path.exists() and self._read(path).recipe != self.recipe

    def save(
        self, name: str, indexed: IndexedShard, made_from: MadeFrom | None = None
    ) -> FinishedShard:
        """Record a shard whose tar is complete, then write its index."""
        entry = describe(name, indexed)
        shard = FinishedShard(entry, indexed.num_classes, dict(indexed.left_out), made_from)
        self.save_record(shard)
        write_bytes(self.folder / index_name(entry.basename), index_bytes(indexed.index))
        return shard

    def save_record(self, shard: FinishedShard) -> None:
        """Write the record of a shard."""
        write_text(self.path(shard.entry.name), _Record(self.recipe, shard).to_json())

    def finished(self, name: str, num_bytes: int | None) -> FinishedShard | None:
        """A shard, if it is finished; ``num_bytes`` is the size of its tar now (None: unknown)."""
        path = self.path(name)
        return self._finished(name, self._read(path), num_bytes) if path.exists() else None

    def finished_here(self, name: str) -> FinishedShard | None:
        """A shard whose tar lies in this folder, if it is finished."""
        num_bytes = self._num_bytes(name)
        return None if num_bytes < 0 else self.finished(name, num_bytes)

    def forget(self, name: str) -> None:
        """Let a shard, and the manifest that names it, be made anew."""
        (self.folder / MANIFEST_NAME).unlink(missing_ok=True)
        self.path(name).unlink(missing_ok=True)

    def write_manifest(
        self, shards: Sequence[FinishedShard], classes: Sequence[str] | None
    ) -> Manifest:
        """Write the manifest of all shards in their order, and their joined index.

        What is there already stays.
        """
        num_classes = max(shard.num_classes for shard in shards)
        manifest = Manifest(
            num_classes=num_classes if classes is None else len(classes),
            classes=None if classes is None else tuple(classes),
            shards=tuple(shard.entry for shard in shards),
            location=str(self.folder),
        )
        save_manifest(manifest)
        return manifest

    def _finished(self, name: str, record: _Record, num_bytes: int | None) -> FinishedShard | None:
        entry = record.shard.entry
        if record.recipe != self.recipe or entry.name != name:
            return None
        if num_bytes not in (None, entry.num_bytes):
            return None
        try:
            index = read_index(self.folder / index_name(entry.basename))
        except DataError:
            return None
        return record.shard if hashlib.sha256(index).hexdigest() == entry.index_sha256 else None

    def _num_bytes(self, name: str) -> int:
        """Of a tar in this folder; -1: it is not there."""
        try:
            return (self.folder / name).stat().st_size
        except FileNotFoundError:
            return -1

    @staticmethod
    def _read(path: Path) -> _Record:
        try:
            return _Record.of(read_json(path))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(
                f"{path}: cannot be read", cure="remove this file and run again"
            ) from error
