"""What a killed command goes on from: one small record per finished shard.

A shard is finished when its tar has the recorded size and its index the recorded sha256. Records
also are how the tasks of a Slurm job tell each other: whoever finds all of them writes the
manifest, and writing it twice gives the same file.
"""

import hashlib
import json
import posixpath
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rwp_dist.base.errors import DataError
from rwp_dist.base.files import write_bytes
from rwp_dist.data.format.index import IndexedShard, index_bytes, index_name
from rwp_dist.data.format.manifest import (
    MANIFEST_NAME,
    RECORDS_NAME,
    Manifest,
    ShardEntry,
    describe,
)


def recipe_id(**settings: Any) -> str:
    """Sha256 over all that decides the bytes of shards."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Records:
    """Records of the shards in a folder that were made by one recipe."""

    folder: Path
    recipe: str

    def path(self, name: str) -> Path:
        """Where the record of a shard lies."""
        return self.folder / RECORDS_NAME / f"{posixpath.basename(name)}.json"

    def prepare(self, names: Sequence[str], cure: str) -> None:
        """Make the folder, or refuse one that holds shards made otherwise.

        Raises:
            DataError: with ``cure`` as its last words.
        """
        own = {self.path(name).name for name in names}
        for path in sorted((self.folder / RECORDS_NAME).glob("*.json")):
            if path.name not in own or self.has_other(path.stem):
                raise DataError(
                    f"{self.folder}: there are shards of another source or other settings here "
                    f"(such as {path.stem}); {cure}."
                )
        # In this order: another part may make the folder, and only then its shards, meanwhile.
        there = [name for name in names if (self.folder / name).exists()]
        if there and not self.path("").parent.exists():
            raise DataError(f"{self.folder}: {there[0]} is here already; {cure}.")
        self.make_folder()

    def make_folder(self) -> None:
        """Make the folder for shards and records.

        Raises:
            DataError: it cannot be made.
        """
        self.path("").parent.mkdir(parents=True, exist_ok=True)

    def save(self, name: str, indexed: IndexedShard) -> ShardEntry:
        """Record a shard that lies under its name and write its index, in this order."""
        entry = describe(name, indexed)
        record = {
            "recipe": self.recipe,
            "num_classes": indexed.num_classes,
            "entry": asdict(entry),
        }
        write_bytes(self.path(name), json.dumps(record).encode())
        write_bytes(self.folder / index_name(entry.basename), index_bytes(indexed.index))
        return entry

    def finished(self, name: str, num_bytes: int | None) -> tuple[ShardEntry, int] | None:
        """A finished shard and the number of classes its labels need, or None.

        Args:
            num_bytes: the tar's size now; None where nobody knows it.
        """
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
        return entry, int(record["num_classes"])

    def has_other(self, name: str) -> bool:
        """Whether a shard of this name was made by another recipe."""
        path = self.path(name)
        return path.exists() and self._read(path)["recipe"] != self.recipe

    def complete(
        self, found: Sequence[tuple[ShardEntry, int] | None], classes: Sequence[str] | None
    ) -> Manifest | None:
        """Write the manifest, if all shards are finished.

        Args:
            found: what ``finished`` says of each shard, in order.
        """
        done = [shard for shard in found if shard is not None]
        if len(done) < len(found):
            return None
        num_classes = len(classes) if classes is not None else max(count for _, count in done)
        manifest = Manifest(
            num_classes=num_classes,
            classes=None if classes is None else tuple(classes),
            shards=tuple(entry for entry, _ in done),
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
            raise DataError(f"{path}: cannot be read; remove this file and run again.") from error
        return record


def local_size(path: Path) -> int:
    """Bytes of a file; -1 if it is not there."""
    try:
        return path.stat().st_size
    except OSError:
        return -1
