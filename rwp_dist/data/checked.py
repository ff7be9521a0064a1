"""Data sets are checked once on a node; after that, every process only maps their joined index.

::

    folder/
        PLACE-STATE.json       what the check of a data set found
        PLACE-STATE.samples    the joined index of a data set that has none of its own, or has it on
                           another machine, where it may be replaced
        PLACE.lock             held by the process that checks

PLACE is a digest of the node and of where the data set is, STATE is ``Manifest.state``. The node is
in it because the folder may lie on a disk that nodes share: what one of them has mapped, no other
may replace or remove.
"""

import hashlib
import io
import os
import shutil
import stat
import sys
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from rwp_dist.base.disk import NETWORK, file_system
from rwp_dist.base.errors import DataError
from rwp_dist.base.files import (
    MOST_JSON_BYTES,
    atomic_file,
    read_file,
    read_json,
    remove_leftovers,
    write_json,
)
from rwp_dist.base.urls import joined as address
from rwp_dist.base.urls import local_path, shown
from rwp_dist.data.format.index import (
    MOST_INDEX_BYTES,
    Index,
    check_places,
    load_index,
    read_index,
)
from rwp_dist.data.format.joined import (
    Joined,
    JoinedManifest,
    ShardTable,
    belongs,
    map_joined,
    parts,
    read_joined,
    save_joined,
    write_joined,
)
from rwp_dist.data.format.manifest import JOINED_NAME, MANIFEST_NAME, Manifest, ShardEntry
from rwp_dist.data.reader import open_local
from rwp_dist.data.remote import Attempts, NodeCache, Patience, Shard, download, locked

WAIT_FOR_OTHERS_S = 600.0
"""How long to wait for another process that checks the same data set, before doing it as well."""
INDEX_REQUESTS = 16
"""Index files of a data set that are read, or downloaded, at the same time."""
KEPT_NOTES = 4
"""Of one folder."""
_MAKE_BOTH_AGAIN = "make both again with `rwp-dist shards index`"


def save_manifest(manifest: Manifest) -> None:
    """Write a manifest and its joined index into its folder, which has the index of each shard.

    What is there already stays.

    Raises:
        DataError: an index is missing, or is not what the manifest says.
    """
    folder, there = Path(manifest.location), None
    with suppress(OSError):
        there = read_file(folder / MANIFEST_NAME, MOST_JSON_BYTES)
    if there != manifest.to_json().encode():
        manifest.save(folder)
    if own_joined(manifest) is None:
        write_joined(folder, manifest, load_indexes(manifest))


def find_checked(location: str, state: str, folder: Path) -> JoinedManifest | None:
    """The data set of a manifest in this state, if this node has checked it.

    Args:
        location: the folder or URL of the manifest.
        state: see ``Manifest.state``.
        folder: of the node, where checks are noted.
    """
    try:
        found = read_json(_note(location, state, folder))
        joined = map_joined(Path(found["samples"]))
        others = {place: _folder_state(Path(place)) for place in found["folders"]}
        if joined.head["id"] != found["id"] or others != found["folders"]:
            return None
        return _manifest(joined, location, state, found)
    except (OSError, ValueError, KeyError, TypeError, DataError):
        return None


def checked(manifest: Manifest, folder: Path | None, cache: NodeCache | None) -> JoinedManifest:
    """Check a data set, and note it for other processes of this node.

    Args:
        manifest: not of adopted shards.
        folder: see ``find_checked``. None, or one that cannot be written: nothing is noted.
        cache: keeps remote index files; needed if there are such.

    Raises:
        DataError: an index or a local shard is missing, or is not what the manifest says.
    """
    if isinstance(manifest, JoinedManifest):
        return manifest
    if folder is None or folder.parts[0] == "~" or not manifest.state:
        return _check(manifest, None, cache)
    location, state = manifest.location, manifest.state
    note = _note(location, state, folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder / f"{_digest(location)}.lock", WAIT_FOR_OTHERS_S):
            found = find_checked(location, state, folder)  # another may have checked it just now
            if found is None:
                remove_leftovers(folder, f"{_digest(location)}-*")
                found = _check(manifest, note, cache)
                # Several: a folder may have a manifest for training and one for validation.
                notes = sorted(folder.glob(f"{_digest(location)}-*.json"), key=_changed_ns)
                for old in notes[:-KEPT_NOTES]:
                    old.unlink()
                    old.with_suffix(".samples").unlink(missing_ok=True)
                # Mapped anew, so that this process has not all of it in its memory.
                found = find_checked(location, state, folder) or found
            return found
    except OSError as error:
        why = f"{folder} cannot be written ({error.strerror})"
        print(f"Each process checks the data by itself: {why}.", file=sys.stderr, flush=True)
        return _check(manifest, None, cache)


def _check(manifest: Manifest, note: Path | None, cache: NodeCache | None) -> JoinedManifest:
    newer, newest_ns, folders = _look_at_shards(manifest)
    path, joined = _near(own_joined(manifest), note) or _join(manifest, note, cache)
    for entry, index in zip(manifest.shards, parts(joined), strict=True):
        if not len(index):
            raise DataError(
                f"{manifest.shard_location(entry)}: this shard holds 0 samples",
                cure="remove it and run `rwp-dist shards index` again",
            )
        if len(check_places(index, entry.num_bytes or 0)):
            raise DataError(
                f"{manifest.index_location(entry)}: leads beyond the end of the shard",
                cure=_MAKE_BOTH_AGAIN,
            )
    labels = joined.samples["label"]
    found = {
        "place": shown(manifest.location),
        "id": manifest.id,
        "samples": str(path),
        "labels": [int(labels.min()), int(labels.max())],
        "num_present": len(np.unique(labels)),
        "newer": newer,
        "newest_ns": newest_ns,
        "folders": folders,
    }
    if note is not None:
        write_json(note, found)
    return _manifest(joined, manifest.location, manifest.state, found)


def _manifest(joined: Joined, location: str, state: str, found: dict[str, Any]) -> JoinedManifest:
    classes = joined.head["classes"]
    lowest, highest = found["labels"]
    return JoinedManifest(
        joined.head["num_classes"],
        None if classes is None else tuple(classes),
        ShardTable(joined),
        location,
        state=state,
        joined=joined,
        labels=(lowest, highest),
        num_present=found["num_present"],
        newer=tuple(found["newer"]),
        newest_ns=found["newest_ns"],
    )


def _near(
    found: tuple[Path, Joined] | None, note: Path | None
) -> tuple[Path | None, Joined] | None:
    """A joined index, copied beside ``note`` if it lies on another machine.

    A file that is replaced there is gone, also for processes that have mapped it.
    """
    if found is None or note is None or file_system(found[0]) not in NETWORK:
        return found
    copy = note.with_suffix(".samples")
    with atomic_file(copy) as temporary:
        shutil.copyfile(found[0], temporary)
    joined = map_joined(copy)
    return (copy, joined) if joined.head == found[1].head else None


def _look_at_shards(manifest: Manifest) -> tuple[list[int], int, dict[str, list[int]]]:
    """Local shards that are newer than their index; when the newest was changed, in ns; and the
    states of the folders that they lie in, besides the manifest's.

    Raises:
        DataError: one is missing, cut, or cannot be read, which is found here before training.
    """
    newer, newest_ns, folders = list[int](), 0, dict[str, list[int]]()
    own = local_path(manifest.location)
    for number, entry in enumerate(manifest.shards):
        shard = local_path(manifest.shard_location(entry))
        if shard is None:
            continue
        try:
            found = shard.stat()
            good = stat.S_ISREG(found.st_mode) and os.access(shard, os.R_OK)
        except (OSError, ValueError):
            good = False
        if not good or found.st_size != entry.num_bytes:
            open_local(shard, entry.num_bytes).close()  # raises what is wrong
            continue
        newest_ns = max(newest_ns, found.st_ctime_ns)
        if shard.parent != own and str(shard.parent) not in folders:
            folders[str(shard.parent)] = _folder_state(shard.parent)
        index = local_path(manifest.index_location(entry))
        with suppress(OSError):
            if index is not None and found.st_mtime_ns > index.stat().st_mtime_ns:
                newer.append(number)
    return newer, newest_ns, folders


def _folder_state(folder: Path) -> list[int]:
    """It changes with the names in a folder; empty: there is none."""
    try:
        found = folder.stat()
    except OSError:
        return []
    return [found.st_mtime_ns, found.st_ctime_ns]


def own_joined(manifest: Manifest) -> tuple[Path, Joined] | None:
    """The joined index beside a local manifest, if it is this manifest's."""
    folder = local_path(manifest.location)
    if folder is None:
        return None
    path = folder.resolve() / JOINED_NAME
    with suppress(OSError, DataError):
        joined = map_joined(path)
        if belongs(joined, manifest):
            return path, joined
    return None


def _join(
    manifest: Manifest, note: Path | None, cache: NodeCache | None
) -> tuple[Path | None, Joined]:
    """The indexes of all shards as a joined index: beside ``note``, or in memory without it."""
    if note is None:
        content = io.BytesIO()
        save_joined(content, manifest, load_indexes(manifest, cache))
        return None, read_joined(content.getbuffer(), manifest.location)
    path = note.with_suffix(".samples")
    if cache is not None and (joined := _downloaded(manifest, path, cache)):
        return path, joined
    with atomic_file(path) as temporary, temporary.open("wb") as file:
        save_joined(file, manifest, load_indexes(manifest, cache))
    return path, map_joined(path)


def _downloaded(manifest: Manifest, path: Path, cache: NodeCache) -> Joined | None:
    """The joined index beside a remote manifest, kept as ``path``, if it is this manifest's."""
    if local_path(manifest.location) is not None:
        return None
    url = address(manifest.location, JOINED_NAME)
    # It may not be there, which some stores do not say so that one could tell.
    few = Attempts(url, Patience(retries=1, stall_s=cache.patience.stall_s))
    with suppress(DataError):
        with atomic_file(path) as temporary, temporary.open("w+b") as file:
            download(url, file, attempts=few, opener=cache.opener)
        joined = map_joined(path)
        return joined if belongs(joined, manifest) else None
    return None


def load_indexes(manifest: Manifest, cache: NodeCache | None = None) -> Iterator[Index]:
    """The index of each shard, from its own file.

    Raises:
        DataError: one is missing, or does not belong to the manifest.
    """

    def read(entry: ShardEntry) -> bytes:
        location = manifest.index_location(entry)
        path = local_path(location)
        if path is not None:
            return read_index(path)
        assert cache is not None, f"{location}: remote shards need a cache"
        with cache.open(Shard(location, None, entry.index_sha256, MOST_INDEX_BYTES)) as file:
            return file.readall()

    # Threads only wait for files and servers. Python computes with one of them at a time, and in
    # some versions parses literals, of which numpy's headers are, in one thread alone.
    with ThreadPoolExecutor(INDEX_REQUESTS) as pool:
        coming = deque[tuple[ShardEntry, Future[bytes]]]()  # so few are in memory at once
        for entry in manifest.shards:
            coming.append((entry, pool.submit(read, entry)))
            if len(coming) == INDEX_REQUESTS:
                yield _parse(manifest, *_first(coming))
        while coming:
            yield _parse(manifest, *_first(coming))


def _first(coming: deque[tuple[ShardEntry, Future[bytes]]]) -> tuple[ShardEntry, bytes]:
    entry, future = coming.popleft()
    return entry, future.result()


def _parse(manifest: Manifest, entry: ShardEntry, data: bytes) -> Index:
    location = manifest.index_location(entry)
    if hashlib.sha256(data).hexdigest() != entry.index_sha256:
        raise DataError(
            f"{location}: does not belong to the manifest beside it", cure=_MAKE_BOTH_AGAIN
        )
    index = load_index(data, location)
    if len(index) != entry.num_samples:
        raise DataError(
            f"{location}: has {len(index)} samples and the manifest says {entry.num_samples}",
            cure=_MAKE_BOTH_AGAIN,
        )
    return index


def _note(location: str, state: str, folder: Path) -> Path:
    return folder / f"{_digest(location)}-{state}.json"


def _digest(location: str) -> str:
    path = local_path(location)
    place = shown(location) if path is None else str(path.resolve())
    text = f"{os.uname().nodename}\n{place}"
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:16]


def _changed_ns(path: Path) -> int:
    return path.stat().st_mtime_ns
