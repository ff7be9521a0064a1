"""The manifest: what a folder of shards holds, under an id that covers all of it."""

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
from rwp_dist.base.files import write_bytes
from rwp_dist.data.format.index import IndexedShard, index_bytes, index_name

MANIFEST_NAME = "manifest.json"
RECORDS_NAME = ".written"
"""Folder beside the manifest with a record of each finished shard; see ``records``."""
FORMAT = 1
_MAKE = "make it with `rwp-dist shards index`"


@dataclass(frozen=True)
class ShardEntry:
    """One shard."""

    name: str
    """Relative to the manifest, or an absolute path or URL."""
    num_samples: int
    num_bytes: int
    """Of the tar."""
    sha256: str
    """Of the tar, hexadecimal."""
    index_sha256: str

    @property
    def basename(self) -> str:
        """The last part of the name; files made for this shard bear it."""
        return posixpath.basename(self.name)


def describe(name: str, indexed: IndexedShard) -> ShardEntry:
    """A shard's entry, once it is indexed."""
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
        DataError: there are no shards, or their index files would overwrite each other.
    """

    num_classes: int
    classes: tuple[str, ...] | None
    """Names of the labels, or None where nobody knows them."""
    shards: tuple[ShardEntry, ...]
    location: str = ""
    """The folder or URL that the manifest lies in; no part of its content."""

    def __post_init__(self) -> None:
        if not self.shards:
            raise DataError(f"{self._called}: it names no shards; {_MAKE}.")
        if self.classes is not None and len(self.classes) != self.num_classes:
            raise DataError(
                f"{self._called}: {len(self.classes)} class names for {self.num_classes} classes; "
                f"{_MAKE}."
            )
        check_basenames([shard.name for shard in self.shards])

    @property
    def num_samples(self) -> int:
        """Samples of all shards."""
        return sum(shard.num_samples for shard in self.shards)

    @property
    def num_bytes(self) -> int:
        """Bytes of all tars."""
        return sum(shard.num_bytes for shard in self.shards)

    @cached_property
    def id(self) -> str:
        """Sha256 over everything else, hexadecimal: another id means other data."""
        text = json.dumps(self._content(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    def shard_location(self, shard: ShardEntry) -> str:
        """Path or URL of a shard."""
        return shard.name if is_absolute(shard.name) else posixpath.join(self.location, shard.name)

    def index_location(self, shard: ShardEntry) -> str:
        """Path or URL of a shard's index: beside a relative shard, else beside the manifest."""
        name = shard.basename if is_absolute(shard.name) else shard.name
        return posixpath.join(self.location, index_name(name))

    def to_json(self) -> str:
        """The file's content."""
        content = self._content()
        head = {"format": content.pop("format"), "id": self.id}
        return json.dumps(head | content, indent=1) + "\n"

    def save(self, folder: str | Path) -> Path:
        """Write ``manifest.json`` into a folder, atomically, and return its path."""
        path = Path(folder) / MANIFEST_NAME
        write_bytes(path, self.to_json().encode())
        return path

    @classmethod
    def load(cls, path_or_folder: str | Path) -> "Manifest":
        """Load a manifest from its file, or from the folder that it lies in.

        Raises:
            DataError: it is missing or not whole.
        """
        path = Path(path_or_folder)
        path = path / MANIFEST_NAME if path.is_dir() else path
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            cause = getattr(error, "strerror", None) or "no text"
            cure = _MAKE
            if isinstance(error, FileNotFoundError):
                there = path.name == MANIFEST_NAME and path.parent.is_dir()
                cure = cure_of_missing(path.parent) if there else "check the path"
            raise DataError(f"{path}: cannot be read ({cause}); {cure}.") from error
        return cls.from_json(text, str(path.parent))

    @classmethod
    def from_json(cls, text: str, location: str) -> "Manifest":
        """A manifest from its text; ``location`` is the folder or URL that it lies in.

        Raises:
            DataError: it is not whole: no JSON, another format, or its id belongs to other content.
        """
        called = posixpath.join(location, MANIFEST_NAME)
        try:
            content = json.loads(text)
            if content["format"] != FORMAT:
                raise DataError(
                    f"{called}: its format is {content['format']!r}, this version reads {FORMAT}; "
                    f"{_MAKE}."
                )
            classes = content["classes"]
            manifest = cls(
                num_classes=int(content["num_classes"]),
                classes=None if classes is None else tuple(str(name) for name in classes),
                shards=tuple(ShardEntry(**shard) for shard in content["shards"]),
                location=location,
            )
            same = {key: value for key, value in content.items() if key != "id"}
            whole = content["id"] == manifest.id and same == manifest._content()
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{called}: this is no manifest of shards; {_MAKE}.") from error
        if not whole:
            raise DataError(
                f"{called}: it was changed or cut (its id belongs to other content); {_MAKE}."
            )
        return manifest

    @property
    def _called(self) -> str:
        return posixpath.join(self.location, MANIFEST_NAME)

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

    Half of a data set must not be taken for all of it: where writing was broken off, it is to be
    ended, not what is there to be indexed.
    """
    if (folder / RECORDS_NAME).is_dir():
        return "the command that was making these shards has not ended: start it again"
    return f"make it with `rwp-dist shards index {folder}`"


def is_absolute(name: str) -> bool:
    """Whether a shard's name says where it is, wherever the manifest lies."""
    return "://" in name or name.startswith(("/", "pipe:"))


def check_basenames(names: Sequence[str]) -> None:
    """Refuse shards whose index files would lie at one place.

    Raises:
        DataError: two names are equal, or two absolute ones end alike.
    """
    seen = Counter(posixpath.basename(name) if is_absolute(name) else name for name in names)
    name, count = seen.most_common(1)[0] if seen else ("", 0)
    if count > 1:
        twice = [full for full in names if full == name or full.endswith(f"/{name}")]
        raise DataError(
            f"{name}: {count} shards have this name ({', '.join(twice[:2])}), and their indexes "
            "would overwrite each other; rename one, or index them into folders of their own."
        )
