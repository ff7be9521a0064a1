"""One shard, packed by one process: written by webdataset, indexed, renamed, recorded."""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from rwp_dist.base.files import atomic_file, remove_leftovers
from rwp_dist.data.format.index import IndexedShard, index_tar
from rwp_dist.data.format.manifest import ShardEntry
from rwp_dist.shards.encode import shrink
from rwp_dist.shards.records import Records
from rwp_dist.shards.sources import Source

_KEY_LENGTH = 90  # webdataset writes USTAR, whose names end at 100 bytes


class Packed(NamedTuple):
    """A sample as it goes into a tar."""

    key: str
    """Unique in the shard, without a dot."""
    kind: str
    """Extension of the image."""
    image: bytes
    label: int


@dataclass(frozen=True)
class Shrink:
    """How images are made smaller; see ``encode.shrink``."""

    short_side: int
    """Pixels."""
    quality: int


@dataclass(frozen=True)
class ShardJob:
    """What one shard is made from."""

    records: Records
    name: str
    rows: Sequence[int]
    """Places of the samples in the whole source; they make keys unique."""
    samples: Sequence[Source]
    read: Callable[[Source], bytes]
    shrink: Shrink | None


def pack_shard(job: ShardJob) -> ShardEntry:
    """Write, index and record one shard.

    Raises:
        DataError: a sample cannot be read or re-encoded.
    """
    indexed = write_tar(
        job.records.folder / job.name,
        (_pack(job, row, sample) for row, sample in zip(job.rows, job.samples, strict=True)),
    )
    return job.records.save(job.name, indexed)


def write_tar(path: Path, samples: Iterable[Packed]) -> IndexedShard:
    """Write a tar atomically; the same samples give the same bytes.

    What was written is read back from the file for its index and checksums.
    """
    import webdataset as wds  # brings torch along, which takes seconds: only where it is needed

    remove_leftovers(path.parent, path.name)
    with atomic_file(path) as temporary:
        with temporary.open("wb") as file, wds.TarWriter(file, mtime=0, encoder=False) as tar:
            for sample in samples:
                tar.write(
                    {
                        "__key__": sample.key,
                        sample.kind: sample.image,
                        "cls": b"%d" % sample.label,
                    }
                )
        with temporary.open("rb") as written:
            return index_tar(written, str(path))


def _pack(job: ShardJob, row: int, sample: Source) -> Packed:
    data, kind = job.read(sample), sample.kind
    if job.shrink is not None:
        data = shrink(data, job.shrink.short_side, job.shrink.quality, sample.name)
        kind = "jpg"
    return Packed(_key(row, sample.name), kind, data, sample.label)


def _key(row: int, name: str) -> str:
    """Row and file name, so that a bad sample leads to its file: ``0012345_n01440764_10026``."""
    stem = re.sub(r"^\d{7,}_", "", Path(name).name)
    if Path(stem).suffix:
        stem = Path(stem).stem
    return f"{row:07d}_{re.sub(r'[^A-Za-z0-9_-]', '_', stem)}"[:_KEY_LENGTH]
