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
from rwp_dist.base.files import MOST_JSON_BYTES, read_file, read_json, write_bytes, write_text
from rwp_dist.base.urls import local_path, shown
from rwp_dist.data.checked import load_indexes, own_joined
from rwp_dist.data.format.index import IndexedShard, index_bytes, index_name, read_index
from rwp_dist.data.format.joined import write_joined
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
    sha256: str
    """Over the contents of the images' files; or of the tar."""
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
            found.append(Path(path).stat())
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


def refuse_lost_shards(folder: Path, names: Sequence[str]) -> None:
    """Refuse to replace the manifest of a folder by one that lacks shards which are still there.

    Raises:
        DataError: it names other shards than ``names``.
    """
    try:
        known = Manifest.load(folder)
    except DataError:  # there is none, or a broken one
        return
    for shard in known.shards:
        path = local_path(known.shard_location(shard))
        if shard.name not in names and (path is None or path.exists()):
            raise DataError(
                f"{folder}: the manifest here names other shards (such as {shown(shard.name)})",
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

    def refuse_others(self, names: Sequence[str], cure: str) -> None:
        """Refuse a folder with other shards than those that this command makes.

        Raises:
            DataError: there are shards of another recipe, other shards, or shards without records.
        """
        for tar in tars_in(self.folder):  # whoever reads *.tar would read them too
            if tar.name not in names:
                raise DataError(
                    f"{self.folder}: there are other shards here (such as {tar.name})", cure=cure
                )
        own = {self.path(name).name for name in names}
        for path in sorted(self.records_folder.glob("*.json")):
            if path.name not in own or self.has_other(path.stem):
                raise DataError(
                    f"{self.folder}: there are shards of another source or other settings here "
                    f"(such as {path.stem})",
                    cure=cure,
                )
        # In this order, because another task may just be making first the folder, then its shards.
        there = [name for name in names if (self.folder / name).exists()]
        if there and not self.records_folder.exists():
            raise DataError(f"{self.folder}: {there[0]} is here already", cure=cure)

    def has_other(self, name: str) -> bool:
        """Whether another recipe made the shard of this name."""
        path = self.path(name)
        return path.exists() and self._read(path).recipe != self.recipe

    def save(
        self, name: str, indexed: IndexedShard, made_from: MadeFrom | None = None
    ) -> ShardEntry:
        """Record a shard whose tar is complete, then write its index."""
        entry = describe(name, indexed)
        shard = FinishedShard(entry, indexed.num_classes, dict(indexed.left_out), made_from)
        write_text(self.path(name), _Record(self.recipe, shard).to_json())
        write_bytes(self.folder / index_name(entry.basename), index_bytes(indexed.index))
        return entry

    def finished(self, name: str, num_bytes: int | None) -> FinishedShard | None:
        """A shard, if it is finished; ``num_bytes`` is the size of its tar now (None: unknown)."""
        path = self.path(name)
        if not path.exists():
            return None
        record = self._read(path)
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

    def now_made_from(self, name: str, made_from: MadeFrom) -> None:
        """Note that a finished shard's source is new files with the same content."""
        record = self._read(self.path(name))
        shard = record.shard._replace(made_from=made_from)
        write_text(self.path(name), record._replace(shard=shard).to_json())

    def finished_here(self, name: str) -> FinishedShard | None:
        """A shard whose tar lies in this folder, if it is finished."""
        try:
            return self.finished(name, (self.folder / name).stat().st_size)
        except FileNotFoundError:
            return None

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
        there = None
        with suppress(OSError):
            there = read_file(self.folder / MANIFEST_NAME, MOST_JSON_BYTES)
        if there != manifest.to_json().encode():
            manifest.save(self.folder)
        if own_joined(manifest) is None:
            write_joined(self.folder, manifest, load_indexes(manifest))
        return manifest

    @staticmethod
    def _read(path: Path) -> _Record:
        try:
            return _Record.of(read_json(path))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(
                f"{path}: cannot be read", cure="remove this file and run again"
            ) from error
