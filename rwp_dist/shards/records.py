"""Records of finished shards, from which a command that was killed continues.

::

    FOLDER/.written/train-000000.tar.json    {"recipe": "...", "num_classes": 3, "entry": {...},
                                              "left_out": {".txt of no sample": 1},
                                              "made_from": {...}}    of ``write``: see ``MadeFrom``

A shard is finished if it has a record, its tar has the recorded size and its index the recorded
sha256. The tasks of a Slurm job learn from the records what the others have finished: the task that
finds all shards finished writes the manifest. Two tasks may write it; they write the same content.
"""

import hashlib
import json
import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from rwp_dist.base.errors import DataError
from rwp_dist.base.files import write_bytes, write_text
from rwp_dist.data.format.index import IndexedShard, index_bytes, index_name
from rwp_dist.data.format.manifest import (
    MANIFEST_NAME,
    RECORDS_NAME,
    Manifest,
    ShardEntry,
    describe,
)
from rwp_dist.shards.location import tars_in


class MadeFrom(NamedTuple):
    """What a shard was written from, so that a change of its source is noticed."""

    stat: str
    """Sha256 over sizes, times and numbers of the files; while it is the same, nothing changed."""
    sha256: str
    """Over the contents of the images' files."""
    checked: bool = False
    """Whether every image was decoded."""
    bad: Sequence[Sequence[str]] = ()
    """Name of each image that was left out, and why."""


class FinishedShard(NamedTuple):
    """What the manifest needs to know of a shard."""

    entry: ShardEntry
    num_classes: int
    """One more than its largest label."""
    left_out: Mapping[str, int] | None
    """How many files of the tar are in no sample, by kind; None: an earlier version indexed it."""
    made_from: MadeFrom | None = None
    """None: it was indexed, or written by version 0.1."""


def recipe_id(**settings: Any) -> str:
    """Sha256 over everything that decides the bytes of shards."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


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
        return path.exists() and self._read(path)["recipe"] != self.recipe

    def save(
        self, name: str, indexed: IndexedShard, made_from: MadeFrom | None = None
    ) -> ShardEntry:
        """Record a shard whose tar is complete, then write its index."""
        entry = describe(name, indexed)
        record = {
            "recipe": self.recipe,
            "num_classes": indexed.num_classes,
            "entry": asdict(entry),
            "left_out": dict(indexed.left_out),
        }
        if made_from is not None:
            record["made_from"] = made_from._asdict()
        write_text(self.path(name), json.dumps(record))
        write_bytes(self.folder / index_name(entry.basename), index_bytes(indexed.index))
        return entry

    def finished(self, name: str, num_bytes: int | None) -> FinishedShard | None:
        """A shard, if it is finished; ``num_bytes`` is the size of its tar now (None: unknown)."""
        path = self.path(name)
        if not path.exists():
            return None
        record = self._read(path)
        entry = ShardEntry(**record["entry"])
        if record["recipe"] != self.recipe or num_bytes not in (None, entry.num_bytes):
            return None
        try:
            index = (self.folder / index_name(entry.basename)).read_bytes()
        except OSError:
            return None
        if hashlib.sha256(index).hexdigest() != entry.index_sha256:
            return None
        known = record.get("made_from")
        made_from = None if known is None else MadeFrom(**known)
        return FinishedShard(entry, int(record["num_classes"]), record.get("left_out"), made_from)

    def now_made_from(self, name: str, made_from: MadeFrom) -> None:
        """Note that a finished shard's source is new files with the same content."""
        record = self._read(self.path(name)) | {"made_from": made_from._asdict()}
        write_text(self.path(name), json.dumps(record))

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
        """Write the manifest of all shards in their order, unless it is there."""
        num_classes = max(shard.num_classes for shard in shards)
        manifest = Manifest(
            num_classes=num_classes if classes is None else len(classes),
            classes=None if classes is None else tuple(classes),
            shards=tuple(shard.entry for shard in shards),
            location=str(self.folder),
        )
        path = self.folder / MANIFEST_NAME
        if not path.exists() or path.read_text(encoding="utf-8") != manifest.to_json():
            manifest.save(self.folder)
        return manifest

    @staticmethod
    def _read(path: Path) -> dict[str, Any]:
        try:
            record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise DataError(
                f"{path}: cannot be read", cure="remove this file and run again"
            ) from error
        return record
