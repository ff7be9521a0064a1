"""The manifest of a data set: ``manifest.json`` names its shards, with an id over the content.

::

    {"format": 1,
     "id": "...",                      sha256 of all other entries; another id means other data
     "num_samples": 24, "num_bytes": 71680,
     "num_classes": 3, "classes": ["ant", "bee", "cow"],   or null: the names are not known
     "shards": [{"name": "train-000000.tar",               or an absolute path, or a URL
                 "num_samples": 8, "num_bytes": 20480, "sha256": "...", "index_sha256": "..."},
                ...]}
"""

import hashlib
import json
import posixpath
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from rwp_dist.base.errors import DataError
from rwp_dist.base.files import write_text
from rwp_dist.base.urls import joined, scheme_of, with_login_of
from rwp_dist.data.format.index import IndexedShard, index_bytes, index_name

MANIFEST_NAME = "manifest.json"
RECORDS_NAME = ".written"
"""Folder beside the manifest with a record of each finished shard (see ``shards.records``)."""
FORMAT = 1
_MAKE = "make it with `rwp-dist shards index`"


@dataclass(frozen=True)
class ShardEntry:
    """What the manifest says of one shard."""

    name: str
    """Relative to the manifest, or an absolute path or URL."""
    num_samples: int
    num_bytes: int
    """Of the tar."""
    sha256: str
    """Of the tar, hexadecimal."""
    index_sha256: str
    """Of the index file, hexadecimal."""

    @property
    def basename(self) -> str:
        """The last part of the name, from which the names of its index and record are made."""
        return posixpath.basename(self.name)


def describe(name: str, indexed: IndexedShard) -> ShardEntry:
    """The entry of an indexed shard."""
    return ShardEntry(
        name=name,
        num_samples=len(indexed.index),
        num_bytes=indexed.num_bytes,
        sha256=indexed.sha256,
        index_sha256=hashlib.sha256(index_bytes(indexed.index)).hexdigest(),
    )


@dataclass(frozen=True)
class Manifest:
    """All shards, in order.

    Raises:
        DataError: there are no shards, two of them would share an index file, or the number of
            class names is wrong.
    """

    num_classes: int
    classes: tuple[str, ...] | None
    """Names of the labels; None: not known."""
    shards: tuple[ShardEntry, ...]
    location: str = ""
    """The folder or URL of the manifest; not part of its content."""

    def __post_init__(self) -> None:
        if not self.shards:
            raise DataError(f"{self._path}: it names no shards", cure=_MAKE)
        if self.classes is not None and len(self.classes) != self.num_classes:
            raise DataError(
                f"{self._path}: {len(self.classes)} class names for {self.num_classes} classes",
                cure=_MAKE,
            )
        check_names([shard.name for shard in self.shards])

    @property
    def num_samples(self) -> int:
        """Of all shards."""
        return sum(shard.num_samples for shard in self.shards)

    @property
    def num_bytes(self) -> int:
        """Of all tars."""
        return sum(shard.num_bytes for shard in self.shards)

    @cached_property
    def id(self) -> str:
        """Sha256 over all other entries, hexadecimal."""
        text = json.dumps(self._content(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    def shard_location(self, shard: ShardEntry) -> str:
        """Path or URL of a shard."""
        if is_absolute(shard.name):
            return with_login_of(shard.name, self.location)
        return joined(self.location, shard.name)

    def index_location(self, shard: ShardEntry) -> str:
        """Path or URL of an index: beside a relative shard, else beside the manifest."""
        name = shard.basename if is_absolute(shard.name) else shard.name
        return joined(self.location, index_name(name))

    def to_json(self) -> str:
        """The content of the file."""
        content = self._content()
        head = {"format": content.pop("format"), "id": self.id}
        return json.dumps(head | content, indent=1) + "\n"

    def save(self, folder: str | Path) -> Path:
        """Write ``manifest.json`` into a folder, and return its path."""
        path = Path(folder) / MANIFEST_NAME
        write_text(path, self.to_json())
        return path

    @classmethod
    def load(cls, path_or_folder: str | Path) -> "Manifest":
        """Load a manifest from its file, or from its folder.

        Raises:
            DataError: it is missing, damaged or changed.
        """
        path = Path(path_or_folder)
        path = path / MANIFEST_NAME if path.is_dir() else path
        try:
            text = path.read_text(encoding="utf-8", errors="replace")
        except OSError as error:
            cure = "check the path"
            if path.name == MANIFEST_NAME and path.parent.is_dir():
                cure = cure_of_missing(path.parent)
            raise DataError(f"{path}: cannot be read ({error.strerror})", cure=cure) from error
        return cls.from_json(text, str(path.parent))

    @classmethod
    def from_json(cls, text: str, location: str) -> "Manifest":
        """A manifest from the content of its file; ``location`` is the folder or URL of the file.

        Raises:
            DataError: it is no JSON, has another format, or its id does not fit its content.
        """
        path = joined(location, MANIFEST_NAME)
        try:
            content = json.loads(text)
            if content["format"] != FORMAT:
                raise DataError(
                    f"{path}: its format is {content['format']!r}, this version reads {FORMAT}",
                    cure=_MAKE,
                )
            classes = content["classes"]
            manifest = cls(
                num_classes=int(content["num_classes"]),
                classes=None if classes is None else tuple(str(name) for name in classes),
                shards=tuple(ShardEntry(**shard) for shard in content["shards"]),
                location=location,
            )
            same = {key: value for key, value in content.items() if key != "id"}
            unchanged = content["id"] == manifest.id and same == manifest._content()
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path}: this is no manifest of shards", cure=_MAKE) from error
        if not unchanged:
            raise DataError(
                f"{path}: it was changed or cut (its id belongs to other content)", cure=_MAKE
            )
        return manifest

    @property
    def _path(self) -> str:
        return joined(self.location, MANIFEST_NAME)

    def _content(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "num_samples": self.num_samples,
            "num_bytes": self.num_bytes,
            "num_classes": self.num_classes,
            "classes": None if self.classes is None else list(self.classes),
            "shards": [asdict(shard) for shard in self.shards],
        }


def cure_of_missing(folder: Path) -> str:
    """What to do about a folder without a manifest.

    If writing was interrupted, it has to be finished: an index of the shards that are there would
    make a part of the data set look like all of it.
    """
    if (folder / RECORDS_NAME).is_dir():
        return "start the command that was making these shards again: it has not finished"
    return f"make it with `rwp-dist shards index {folder}`"


def is_absolute(name: str) -> bool:
    """Whether a shard's name does not depend on the place of the manifest."""
    return bool(scheme_of(name)) or name.startswith("/")


def check_names(names: Sequence[str]) -> None:
    """Refuse shards that would share an index file.

    Raises:
        DataError: two names are equal, or the last parts of two absolute ones.
    """
    seen = Counter(posixpath.basename(name) if is_absolute(name) else name for name in names)
    name, count = seen.most_common(1)[0] if seen else ("", 0)
    if count > 1:
        same = [full for full in names if full == name or full.endswith(f"/{name}")]
        raise DataError(
            f"{name}: {count} shards have this name ({', '.join(same[:2])}), and their indexes "
            "would overwrite each other",
            cure="rename one, or index them into folders of their own",
        )
