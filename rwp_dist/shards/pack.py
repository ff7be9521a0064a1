"""One shard, made by one process: samples are read, shrunk if asked for, and put into a tar."""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from rwp_dist.base.errors import DataError
from rwp_dist.base.files import atomic_file, remove_leftovers
from rwp_dist.data.format.index import IndexedShard, index_tar
from rwp_dist.data.format.manifest import ShardEntry
from rwp_dist.data.image import GREY, converted, open_image
from rwp_dist.shards.records import Records
from rwp_dist.shards.sources import Source, encode

_KEY_LENGTH = 90  # names in a plain tar header end at 100 bytes


class Packed(NamedTuple):
    """A sample as it goes into a tar."""

    key: str
    """Unique in the shard, without a dot."""
    kind: str
    """Extension of the image."""
    image: bytes
    """Content of its file."""
    label: int


@dataclass(frozen=True)
class Shrink:
    """Make images smaller, once, so that every epoch decodes less."""

    short_side: int
    """Pixels."""
    quality: int
    """Of the JPEG, 1 to 100."""

    def __call__(self, data: bytes, name: str) -> bytes:
        """A JPEG whose short side has ``short_side`` pixels; a JPEG that is no larger is returned.

        Grey images stay grey, of 8 bits; others become RGB. EXIF data is dropped and not applied:
        training sees the pixels that it would see in the original file. Errors call the image
        ``name``.

        Raises:
            DataError: the image cannot be decoded.
        """
        try:
            source = open_image(data)
            ratio = self.short_side / min(source.size)
            keep = ratio >= 1 and source.format == "JPEG" and source.mode in ("L", "RGB")
            size, is_grey = source.size, source.mode in GREY
            if ratio < 1:
                size = (round(size[0] * ratio), round(size[1] * ratio))
                # libjpeg halves large images while it decodes; the rest is done with antialiasing.
                source.draft(None, (2 * size[0], 2 * size[1]))
            image = converted(source, "L" if is_grey else "RGB")
            if keep:
                return data
            if image.size != size:
                image = image.resize(size, Image.Resampling.LANCZOS)
            return encode(image, "jpeg", quality=self.quality)
        except Exception as error:  # also what no JPEG can hold: a side of more than 65,500
            raise DataError(
                f"{name}: this is no readable image ({error})", cure="replace it or leave it out"
            ) from error


@dataclass(frozen=True)
class ShardJob:
    """What one shard is made from."""

    records: Records
    name: str
    """Of the shard."""
    rows: Sequence[int]
    """Places of the samples in the whole source; they make keys unique."""
    samples: Sequence[Source]
    read: Callable[[Source], bytes]
    shrink: Shrink | None


def pack_shard(job: ShardJob) -> ShardEntry:
    """Write, index and record one shard.

    Raises:
        DataError: a sample cannot be read or decoded.
    """
    rows = zip(job.rows, job.samples, strict=True)
    path = job.records.folder / job.name
    indexed = write_tar(path, (_pack(job, row, sample) for row, sample in rows))
    return job.records.save(job.name, indexed)


def write_tar(path: Path, samples: Iterable[Packed]) -> IndexedShard:
    """Write a tar atomically; the same samples give the same bytes.

    The index and the checksums come from reading the file back.
    """
    import webdataset as wds  # imports torch, which takes seconds

    remove_leftovers(path.parent, path.name)
    with atomic_file(path) as temporary:
        with temporary.open("wb") as file, wds.TarWriter(file, mtime=0, encoder=False) as tar:
            for sample in samples:
                label = b"%d" % sample.label
                tar.write({"__key__": sample.key, sample.kind: sample.image, "cls": label})
        with temporary.open("rb") as written:
            return index_tar(written, str(path))


def _pack(job: ShardJob, row: int, sample: Source) -> Packed:
    image, kind = job.read(sample), sample.kind
    if job.shrink is not None:
        image, kind = job.shrink(image, sample.name), "jpg"
    return Packed(_key(row, sample.name), kind, image, sample.label)


def _key(row: int, name: str) -> str:
    """Row and file name, so that a bad sample leads to its file: ``0012345_n01440764_10026``."""
    stem = re.sub(r"^\d{7,}_", "", Path(name).name)
    if Path(stem).suffix:
        stem = Path(stem).stem
    return f"{row:07d}_{re.sub(r'[^A-Za-z0-9_-]', '_', stem)}"[:_KEY_LENGTH]
