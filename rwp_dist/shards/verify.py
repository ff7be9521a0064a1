"""Check shards against their manifest, and list every fault."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple

from rwp_dist.base import checksum
from rwp_dist.base.errors import DataError
from rwp_dist.base.files import write_text
from rwp_dist.base.urls import shown
from rwp_dist.data.checked import own_joined
from rwp_dist.data.format.index import Index, check_places, load_index, read_index
from rwp_dist.data.format.manifest import JOINED_NAME, MANIFEST_NAME, Manifest, ShardEntry
from rwp_dist.data.format.tar import BLOCK_BYTES, Stream
from rwp_dist.data.image import orientation, why_undecodable
from rwp_dist.shards.location import open_shard, shard_size, tars_in
from rwp_dist.shards.parallel import prepare_workers, run_jobs

LEVELS = ("size", "sha256", "decode")
UNDECODABLE = "the image cannot be decoded"
_NAME_BYTES = 100
"""A tar header begins with the file's name."""
_CHUNK_BYTES = 1 << 20

BATCHES = 4
"""Of each worker, if the shards suffice: so all end at about the same time."""
BATCH_SHARDS, BATCH_BYTES = 64, 32 << 20
"""Most shards that a worker checks at a time, and bytes from which on no shard is added."""


class Fault(NamedTuple):
    """A difference from the manifest."""

    shard: str
    sample: int
    """Its row in the shard's index, from 0; -1: the shard as a whole."""
    label: int
    """-1: none."""
    what: str


@dataclass
class ShardCheck:
    """What was found in one shard."""

    name: str
    num_samples: int = 0
    num_bytes: int = 0
    """Read so far."""
    num_unoriented: int = 0
    """Images with an orientation tag that is not applied, if they are decoded."""
    faults: list[Fault] = field(default_factory=list)

    def add(self, what: str, sample: int = -1, label: int = -1) -> None:
        """Note a fault."""
        self.faults.append(Fault(self.name, sample, label, what))


def verify_shards(
    folder: Path,
    level: str = "sha256",
    workers: int = 1,
    opener: str | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Iterator[ShardCheck]:
    """Check every shard of a manifest; yield each as soon as it is done.

    Args:
        folder: of the manifest.
        level: what is checked. ``size``: sizes and indexes, which finds shards that are missing or
            cut short. ``sha256``: also every byte, which finds changes and names the samples.
            ``decode``: also every image, which finds images that never were any.
        workers: number of processes.
        opener: ``module:function`` that opens remote shards, as ``data.opener``.
        progress: called with the numbers of checked shards and of all shards.

    Raises:
        DataError: there is no manifest, or it is damaged.
    """
    assert level in LEVELS, level
    if workers > 1:
        prepare_workers(__name__)
    manifest = Manifest.load(folder)
    manifest.need_indexes()
    done, total = 0, len(manifest.shards)
    progress(done, total)
    yield from _unlisted(manifest)
    yield from _joined(manifest)
    check = partial(_check_batch, manifest.num_classes, level, opener)
    for checks in run_jobs(check, _batches(manifest, workers), workers):
        yield from checks
        done += len(checks)
        progress(done, total)


def _joined(manifest: Manifest) -> Iterator[ShardCheck]:
    """A joined index that is not this manifest's; training does not use it."""
    path = Path(manifest.location) / JOINED_NAME
    if path.exists() and own_joined(manifest) is None:
        check = ShardCheck(JOINED_NAME)
        check.add("it does not belong to the manifest, so training does not use it")
        yield check


class _Place(NamedTuple):
    """A shard, and where it and its index are."""

    shard: ShardEntry
    location: str
    index_path: str


def _batches(manifest: Manifest, workers: int) -> Iterator[list[_Place]]:
    """The shards, in batches that take a worker longer than sending them takes."""
    batch, num_bytes = list[_Place](), 0
    most_shards = min(len(manifest.shards) // (BATCHES * workers) + 1, BATCH_SHARDS)
    for shard in manifest.shards:
        batch.append(_Place(shard, manifest.shard_location(shard), manifest.index_location(shard)))
        num_bytes += shard.num_bytes or 0
        if len(batch) == most_shards or num_bytes >= BATCH_BYTES:
            yield batch
            batch, num_bytes = [], 0
    if batch:
        yield batch


def _check_batch(
    num_classes: int, level: str, opener: str | None, batch: Sequence[_Place]
) -> list[ShardCheck]:
    return [_check(place, num_classes, level, opener) for place in batch]


def _unlisted(manifest: Manifest) -> Iterator[ShardCheck]:
    """Tars beside the manifest that it does not name."""
    known = {shard.name for shard in manifest.shards}
    for path in tars_in(Path(manifest.location)):
        if path.name not in known and str(path.resolve()) not in known:
            check = ShardCheck(path.name)
            check.add(f"it is not in {MANIFEST_NAME}, but other readers would read it")
            yield check


def _check(place: _Place, num_classes: int, level: str, opener: str | None) -> ShardCheck:
    shard, location = place.shard, place.location
    check = ShardCheck(shard.name, shard.num_samples)
    index = _check_index(place, num_classes, check)
    try:
        size = shard_size(location, opener)
        if size not in (None, shard.num_bytes):
            check.add(f"it has {size:,} bytes and should have {shard.num_bytes:,}")
        if level != "size":
            with open_shard(location, opener) as stream:
                _check_bytes(stream, shard, index, check, decode=level == "decode")
    except DataError as error:
        check.add(str(error))
    return check


def _check_index(place: _Place, num_classes: int, check: ShardCheck) -> Index | None:
    """The shard's index, if it is the one of the manifest."""
    shard = place.shard
    try:
        data = read_index(Path(place.index_path))
        index = load_index(data, place.index_path)
    except DataError as error:
        check.add(str(error))
        return None
    if hashlib.sha256(data).hexdigest() != shard.index_sha256:
        check.add("its index is not the one of the manifest (other sha256)")
        return None
    if len(index) != shard.num_samples:
        check.add(f"its index has {len(index)} samples and should have {shard.num_samples}")
    label = index["label"]
    for row in ((label < 0) | (label >= num_classes)).nonzero()[0]:
        check.add(f"the label is not one of 0..{num_classes - 1}", int(row), int(label[row]))
    outside = check_places(index, shard.num_bytes or 0)
    for row in outside:
        check.add("the image's place is beyond the end of the tar", int(row))
    return None if len(outside) else index


def _check_bytes(
    stream: Stream, shard: ShardEntry, index: Index | None, check: ShardCheck, *, decode: bool
) -> None:
    """Read every byte once and in order, so that remote shards are checked as local ones."""
    sha256 = hashlib.sha256()
    num_faults = len(check.faults)

    def take(size: int) -> bytes:
        pieces = []
        while size > 0 and (piece := stream.read(min(size, _CHUNK_BYTES))):
            sha256.update(piece)
            check.num_bytes += len(piece)
            size -= len(piece)
            pieces.append(piece)
        return b"".join(pieces)

    rows = [] if index is None else index["offset"].argsort(kind="stable").tolist()
    known, header, image = -1, b"", b""
    for row in rows:
        offset, size, crc32, label = index[row].tolist()  # type: ignore[index]
        if offset != known:  # else a hard link to the file before
            header = take(offset - check.num_bytes)[-BLOCK_BYTES:]
            known, image = offset, take(size)
        if len(image) < size:
            check.add("the image is missing or cut short", row, label)
        elif checksum.crc32(image) != crc32:
            check.add("the image's bytes have changed (other crc32)", row, label)
        elif decode and (cause := why_undecodable(image)):
            name = header[:_NAME_BYTES].split(b"\0")[0].decode(errors="replace")
            check.add(f"{name}: {UNDECODABLE} ({cause})", row, label)
        elif decode:
            check.num_unoriented += orientation(image) != 1
    while take(_CHUNK_BYTES):
        pass
    if sha256.hexdigest() != shard.sha256:
        intact = len(check.faults) == num_faults and check.num_bytes == shard.num_bytes
        where = ": a tar header, a label or padding, as every image is intact" if intact else ""
        check.add(f"its bytes have changed (other sha256){where}")


def write_report(faults: Sequence[Fault], path: Path) -> None:
    """Write faults as tab-separated lines with a heading."""
    lines = ["shard\tsample\tlabel\tfault"]
    lines += [
        f"{shown(f.shard)}\t{f.sample}\t{f.label}\t{' '.join(f.what.split())}" for f in faults
    ]
    write_text(path, "\n".join(lines) + "\n")
