"""Shards checked against their manifest, with every fault listed."""

import hashlib
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from rwp_dist.base import checksum
from rwp_dist.base.errors import DataError
from rwp_dist.base.files import write_text
from rwp_dist.data.format.index import Index, load_index
from rwp_dist.data.format.manifest import MANIFEST_NAME, Manifest, ShardEntry
from rwp_dist.data.format.tar import Stream
from rwp_dist.shards.opening import open_shard, shard_size
from rwp_dist.shards.parallel import run_jobs

LEVELS = ("size", "sha256", "decode")
HEADER_BYTES, NAME_BYTES = 512, 100
"""Of a tar's members: a header, and the name that it begins with."""
UNDECODABLE = "the image cannot be decoded"
_CHUNK_BYTES = 1 << 20


class Fault(NamedTuple):
    """Something that is not as the manifest says."""

    shard: str
    sample: int
    """Its row in the shard's index, from 0; -1: the shard as a whole."""
    label: int
    """-1 where there is none."""
    what: str


@dataclass
class ShardCheck:
    """What was found in one shard."""

    name: str
    num_samples: int = 0
    num_bytes: int = 0
    """Read."""
    faults: list[Fault] = field(default_factory=list)

    def add(self, what: str, sample: int = -1, label: int = -1) -> None:
        """Note a fault."""
        self.faults.append(Fault(self.name, sample, label, what))


def verify_shards(
    folder: Path, level: str = "sha256", workers: int = 1, opener: str | None = None
) -> Iterator[ShardCheck]:
    """Check every shard of a manifest; yield them as they are done.

    ``size`` compares sizes and indexes: it finds shards that are missing or cut short. ``sha256``
    reads every byte: it also finds those that changed, and names the samples that they belong to.
    ``decode`` also decodes every image: it finds those that were bad from the start. ``opener``
    opens remote shards, as ``data.opener`` does.

    Raises:
        DataError: there is no manifest, or it is damaged.
    """
    assert level in LEVELS, level
    manifest = Manifest.load(folder)
    known = {shard.name for shard in manifest.shards}
    extra = ShardCheck("")
    for path in sorted(Path(manifest.location).glob("*.tar")):
        if path.name not in known and str(path.resolve()) not in known:
            what = f"it is not in {MANIFEST_NAME}, but other readers would read it"
            extra.faults.append(Fault(path.name, -1, -1, what))
    if extra.faults:
        yield extra
    yield from run_jobs(partial(_check, manifest, level, opener), manifest.shards, workers)


def _check(manifest: Manifest, level: str, opener: str | None, shard: ShardEntry) -> ShardCheck:
    check = ShardCheck(shard.name, shard.num_samples)
    index = _index(manifest, shard, check)
    try:
        location = manifest.shard_location(shard)
        size = shard_size(location, opener)
        if size not in (None, shard.num_bytes):
            check.add(f"it has {size:,} bytes and should have {shard.num_bytes:,}")
        if level != "size":
            with open_shard(location, opener) as stream:
                _read(stream, shard, index, check, decode=level == "decode")
    except DataError as error:
        check.add(str(error))
    return check


def _index(manifest: Manifest, shard: ShardEntry, check: ShardCheck) -> Index | None:
    """The shard's index, if it is the one that the manifest means."""
    path = Path(manifest.index_location(shard))
    try:
        index = load_index(path)
    except DataError as error:
        check.add(str(error))
        return None
    if hashlib.sha256(path.read_bytes()).hexdigest() != shard.index_sha256:
        check.add("its index is not the one that the manifest means (other sha256)")
        return None
    if len(index) != shard.num_samples:
        check.add(f"its index has {len(index)} samples and should have {shard.num_samples}")
    for row in (index["label"] >= manifest.num_classes).nonzero()[0]:
        label = int(index["label"][row])
        check.add(f"the label is not one of 0..{manifest.num_classes - 1}", int(row), label)
    return index


def _read(
    stream: Stream, shard: ShardEntry, index: Index | None, check: ShardCheck, *, decode: bool
) -> None:
    """Every byte once, in order: a remote shard is read as a local one."""
    sha256 = hashlib.sha256()
    before = len(check.faults)

    def take(size: int) -> bytes:
        pieces = []
        while size > 0 and (piece := stream.read(min(size, _CHUNK_BYTES))):
            sha256.update(piece)
            check.num_bytes += len(piece)
            size -= len(piece)
            pieces.append(piece)
        return b"".join(pieces)

    for row in range(0 if index is None else len(index)):
        assert index is not None
        offset, size, crc32, label = index[row].item()
        header = take(offset - check.num_bytes)[-HEADER_BYTES:]
        image = take(size)
        if len(image) < size:
            check.add("the image is missing or cut short", row, label)
        elif checksum.crc32(image) != crc32:
            check.add("the image's bytes have changed (other crc32)", row, label)
        elif decode and (cause := _undecodable(image)):
            name = header[:NAME_BYTES].split(b"\0")[0].decode(errors="replace")
            check.add(f"{name}: {UNDECODABLE} ({cause})", row, label)
    while take(_CHUNK_BYTES):
        pass
    if sha256.hexdigest() != shard.sha256:
        intact = len(check.faults) == before and check.num_bytes == shard.num_bytes
        where = ": a tar header, a label or padding, as every image is intact" if intact else ""
        check.add(f"its bytes have changed (other sha256){where}")


def _undecodable(image: bytes) -> str:
    """Why an image cannot be decoded; nothing if it can."""
    try:
        Image.open(io.BytesIO(image)).convert("RGB")
    except Exception as error:  # decoders raise a dozen kinds on damaged files
        # Pillow names the buffer in memory that it read from.
        return str(error).partition(" <_io")[0] or type(error).__name__
    return ""


def write_report(faults: Sequence[Fault], path: Path) -> None:
    """Write faults as tab-separated lines with a heading.

    Raises:
        DataError: the file cannot be written.
    """
    lines = ["shard\tsample\tlabel\tfault"]
    lines += [f"{f.shard}\t{f.sample}\t{f.label}\t{' '.join(f.what.split())}" for f in faults]
    write_text(path, "\n".join(lines) + "\n")
