"""The manifest of a data set: ``manifest.json`` names its shards, with an id over the content.

::

    {"format": 1,
     "id": "...",                      sha256 of all other entries; another id means other data
     "num_samples": 24, "num_bytes": 71680,
     "num_classes": 3, "classes": ["ant", "bee", "cow"],   or null: the names are not known
     "shards": [{"name": "train-000000.tar",               or an absolute path, or a URL
                 "num_samples": 8, "num_bytes": 20480, "sha256": "...", "index_sha256": "..."},
                ...]}

A manifest may come from anybody, so what it says is checked before it is used. It names files
beside itself. One on a disk may also name absolute paths and URLs, as `rwp-dist shards index URLS
--out FOLDER` writes them; one that comes from a URL leads to no other host and to no local file.

Format 2 is what `rwp-dist shards adopt` writes: the shards have no indexes yet, so it has counts
alone (``num_bytes`` is null where nobody says; ``num_classes`` is 0 where the names are not known),
and says which files of a sample are its image and its label::

    {"format": 2, ..., "label_key": null, "image_key": null,
     "shards": [{"name": "train-000000.tar", "num_samples": 8, "num_bytes": 20480}, ...]}
"""

import hashlib
import json
import posixpath
import re
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, astuple, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rwp_dist.base.errors import DataError
from rwp_dist.base.files import MOST_JSON_BYTES, parse_json, read_file, write_text
from rwp_dist.base.text import is_utf8
from rwp_dist.base.urls import joined, local_path, same_host, scheme_of, shown, with_login_of
from rwp_dist.data.format.index import IndexedShard, index_bytes, index_name
from rwp_dist.data.format.sample import Fields
from rwp_dist.data.format.tar import BLOCK_BYTES

MANIFEST_NAME = "manifest.json"
JOINED_NAME = "samples.index"
"""Beside the manifest: the indexes of all shards in one file (see ``joined``)."""
RECORDS_NAME = ".written"
"""Folder beside the manifest with a record of each finished shard (see ``shards.records``)."""
FORMAT = 1
ADOPTED_FORMAT = 2
MOST_SAMPLES = 10_000_000
"""Of an adopted shard whose size is not known."""
MOST_CLASSES = 2**31
_MAKE = "make it with `rwp-dist shards index`"
_MOST_NAME = 4096
_SHA256 = re.compile("[0-9a-f]{64}")
_CONTROLS = re.compile("[\x00-\x1f\x7f]")
_SCHEME = re.compile("[A-Za-z][A-Za-z0-9+.-]*:(?!//)")
_LOCAL_SCHEMES = frozenset({"file", "local"})


@dataclass(frozen=True)
class ShardEntry:
    """What the manifest says of one shard."""

    name: str
    """Relative to the manifest, or an absolute path or URL."""
    num_samples: int
    num_bytes: int | None = None
    """Of the tar; None: an adopted shard whose size nobody says."""
    sha256: str | None = None
    """Of the tar, hexadecimal; None: the shard is adopted."""
    index_sha256: str | None = None
    """Of the index file, hexadecimal; None: the shard is adopted."""

    @property
    def basename(self) -> str:
        """The last part of the name, from which the names of its index and record are made."""
        return posixpath.basename(self.name)

    def fault(self, *, adopted: bool) -> str:
        """What cannot be true of any shard; empty for a good entry. Numbers may have any type."""
        most_bytes = self.num_bytes
        if most_bytes is None:
            most_bytes = MOST_SAMPLES * BLOCK_BYTES if adopted else -1
        for number in (self.num_samples, most_bytes):
            if type(number) is not int or not 0 <= number < 2**63:
                return f"it has {number!r:.40} as a number of {self.name}"
        if self.num_samples > most_bytes // BLOCK_BYTES:  # each has a header of its own
            return f"it has {self.num_samples} samples in {self.num_bytes} bytes of {self.name}"
        if adopted:
            return "" if self.num_samples else f"it has no samples in {self.name}"
        for sha256 in (self.sha256, self.index_sha256):
            if not isinstance(sha256, str) or not _SHA256.fullmatch(sha256):
                return f"it has {sha256!r:.80} as a sha256 of {self.name}"
        return ""


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
        DataError: there are no shards, two of them would share an index file, an entry or the
            classes cannot be true, or one from a URL leads to another host.
    """

    num_classes: int
    """0: not known, because the shards are adopted."""
    classes: tuple[str, ...] | None
    """Names of the labels; None: not known."""
    shards: Sequence[ShardEntry]
    location: str = ""
    """The folder or URL of the manifest; not part of its content."""
    fields: Fields | None = None
    """Of adopted shards, which are indexed when they are first read. None: all have an index."""
    state: str = ""
    """Changes with what is there, as far as that can be seen without reading shards or indexes:
    see ``state_of`` of local data. Empty: not known. Not part of its content."""

    def __post_init__(self) -> None:
        adopted = self.fields is not None
        if not self.shards:
            raise self._wrong("it names no shards")
        check_names([shard.name for shard in self.shards], self._path)
        if fault := next(filter(None, (s.fault(adopted=adopted) for s in self.shards)), ""):
            raise self._wrong(fault)
        if foreign := next(filter(self._is_foreign, self.shards), None):
            raise self._wrong(
                f"it leads away from its own place, to {shown(foreign.name)}",
                "index those shards yourself, `rwp-dist shards index URLS --out FOLDER`, and name "
                "that folder",
            )
        if type(self.num_classes) is not int or not 0 <= self.num_classes <= MOST_CLASSES:
            raise self._wrong(f"it has {self.num_classes!r:.40} classes")
        if not self.num_classes and not adopted:
            raise self._wrong(f"it has {self.num_classes!r:.40} classes")
        if self.classes is not None:
            self._check_names_of(self.classes)
        for key in astuple(self.fields) if self.fields is not None else ():
            if key is not None and not isinstance(key, str):
                raise self._wrong(f"it has {key!r:.40} as a name of a field", "adopt it again")

    def _check_names_of(self, classes: Sequence[object]) -> None:
        for name in classes:
            if not isinstance(name, str) or not is_utf8(name):
                raise self._wrong(
                    f"the class name {name!r:.80} is no text",
                    "give it a name in UTF-8 and make the manifest again",
                )
        if len(classes) != self.num_classes:
            raise self._wrong(f"{len(classes)} class names for {self.num_classes} classes")

    def _wrong(self, problem: str, cure: str = _MAKE) -> DataError:
        return DataError(f"{self._path}: {problem}", cure=cure)

    @property
    def counts(self) -> NDArray[np.int64]:
        """Samples of each shard."""
        return np.array([shard.num_samples for shard in self.shards], np.int64)

    @property
    def num_samples(self) -> int:
        """Of all shards."""
        return sum(shard.num_samples for shard in self.shards)

    @property
    def num_bytes(self) -> int:
        """Of all tars whose size is known."""
        return sum(shard.num_bytes or 0 for shard in self.shards)

    @property
    def is_local(self) -> bool:
        """Whether manifest and shards all lie on disks."""
        locations = [self.location, *map(self.shard_location, self.shards)]
        return all(local_path(location) is not None for location in locations)

    def need_indexes(self) -> None:
        """Refuse adopted shards where every index is needed.

        Raises:
            DataError: the shards are adopted.
        """
        if self.fields is not None:
            raise DataError(
                f"{shown(self.location)}: these shards are adopted, so their labels and checksums "
                "are not known yet",
                cure=f"index all of them with `rwp-dist shards index {shown(self.location)}`",
            )

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

    def shard_locations(self) -> list[str]:
        """Paths or URLs of all shards."""
        return [self.shard_location(shard) for shard in self.shards]

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
        state = state_of(path)  # before its content, which may change in between
        try:
            text = read_file(path, MOST_JSON_BYTES)
        except OSError as error:
            cure = "check the path"
            if path.name == MANIFEST_NAME and path.parent.is_dir():
                cure = cure_of_missing(path.parent)
            raise DataError(f"{path}: cannot be read ({error.strerror})", cure=cure) from error
        return cls.from_json(text, str(path.parent), state)

    @classmethod
    def from_json(cls, text: str | bytes, location: str, state: str = "") -> "Manifest":
        """A manifest from the content of its file; ``location`` is the folder or URL of the file.

        Raises:
            DataError: it is no JSON, has another format, or its id does not fit its content.
        """
        path = joined(location, MANIFEST_NAME)
        try:
            content = parse_json(text)
            adopted = content["format"] == ADOPTED_FORMAT
            if not adopted and content["format"] != FORMAT:
                raise DataError(
                    f"{path}: its format is {content['format']!r:.40}, this version reads {FORMAT} "
                    f"and {ADOPTED_FORMAT}",
                    cure=_MAKE,
                )
            classes = content["classes"]
            fields = Fields(content["label_key"], content["image_key"]) if adopted else None
            manifest = cls(
                num_classes=content["num_classes"],
                classes=None if classes is None else tuple(classes),
                shards=tuple(ShardEntry(**shard) for shard in content["shards"]),
                location=location,
                fields=fields,
                state=state,
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

    def _is_foreign(self, shard: ShardEntry) -> bool:
        """Whether a manifest from a URL leads to another host, or to this machine's files."""
        is_remote = bool(scheme_of(self.location)) and scheme_of(self.location) != "file"
        return is_remote and is_absolute(shard.name) and not same_host(shard.name, self.location)

    def _content(self) -> dict[str, Any]:
        content = {
            "format": FORMAT,
            "num_samples": self.num_samples,
            "num_bytes": self.num_bytes,
            "num_classes": self.num_classes,
            "classes": None if self.classes is None else list(self.classes),
            "shards": [dict(vars(shard)) for shard in self.shards],
        }
        if self.fields is None:
            return content
        counts = [
            {"name": s.name, "num_samples": s.num_samples, "num_bytes": s.num_bytes}
            for s in self.shards
        ]
        return content | asdict(self.fields) | {"format": ADOPTED_FORMAT, "shards": counts}


def state_of(path: Path) -> str:
    """A digest that changes with a local manifest, its joined index, and the names in its folder.

    It looks at sizes and times alone; the time of change cannot be set back.
    """
    kept = []
    for place in (path, path.with_name(JOINED_NAME), path.parent):
        with suppress(OSError, ValueError):
            found = place.stat()
            kept.append((found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino))
    return hashlib.sha256(repr((path.name, kept)).encode()).hexdigest()[:16]


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


def is_name(name: object) -> bool:
    """Whether a manifest may call a shard so: a file beside it, an absolute path, or a URL."""
    if not isinstance(name, str) or len(name) > _MOST_NAME or not is_utf8(name):
        return False
    scheme = scheme_of(name)
    if scheme in _LOCAL_SCHEMES or "::" in name or _SCHEME.match(name) or _CONTROLS.search(name):
        return False  # a local file by another name, fsspec's chains, and such as `pipe:`
    *folders, base = name.partition("://")[2].split("/") if scheme else name.split("/")
    return base not in ("", ".", "..") and (bool(scheme) or ".." not in folders)


def check_names(names: Sequence[str], place: str) -> None:
    """Refuse names that no shard may have, and shards that would share an index file.

    Errors begin with ``place``.

    Raises:
        DataError: a name leads elsewhere, two are equal, or the last parts of two absolute ones.
    """
    for name in names:
        if not is_name(name):
            raise DataError(
                f"{place}: {name!r:.80} cannot be the name of a shard",
                cure="name files beside the manifest, absolute paths or URLs",
            )
    seen = Counter(posixpath.basename(name) if is_absolute(name) else name for name in names)
    name, count = seen.most_common(1)[0] if seen else ("", 0)
    if count > 1:
        same = [full for full in names if full == name or full.endswith(f"/{name}")]
        raise DataError(
            f"{place}: {name}: {count} shards have this name ({', '.join(same[:2])}), and their "
            "indexes would overwrite each other",
            cure="rename one, or index them into folders of their own",
        )
