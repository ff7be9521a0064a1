"""One shard, made by one process: samples are read, preprocessed if asked for, put into a tar."""

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from rwp_dist.base import checksum
from rwp_dist.base.errors import DataError
from rwp_dist.base.files import atomic_file, remove_leftovers
from rwp_dist.data.format.index import IndexedShard, index_name, index_tar, load_index
from rwp_dist.data.image import orientation, why_undecodable
from rwp_dist.shards.preprocess import Preprocess
from rwp_dist.shards.records import FinishedShard, MadeFrom, Records, stat_id, stats_of
from rwp_dist.shards.sources import Source

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
class ShardJob:
    """What one shard is made from."""

    records: Records
    name: str
    """Of the shard."""
    rows: Sequence[int]
    """Places of the samples in the whole source; they make keys unique."""
    samples: Sequence[Source]
    read: Callable[[Source], bytes]
    preprocess: Preprocess | None
    max_bad: int = 0
    """Most images to leave out; with 1 or more, every image is decoded."""


def pack_shard(job: ShardJob) -> FinishedShard:
    """Write, index and record one shard.

    Raises:
        DataError: more samples than ``max_bad`` cannot be read or decoded, or all of them.
    """
    stat, sha256, bad = stat_id(_paths(job)), hashlib.sha256(), list[tuple[str, str]]()
    oriented = job.preprocess is not None and job.preprocess.orient
    num_unoriented = 0

    def pack() -> Iterator[Packed]:
        nonlocal num_unoriented
        for row, sample in zip(job.rows, job.samples, strict=True):
            try:
                data = job.read(sample)
                sha256.update(_digest(data))
                packed = _pack(job, row, sample, data)
            except DataError as error:
                bad.append((sample.name, error.problem))
                if len(bad) > job.max_bad:
                    raise too_many(job.max_bad, error.problem, len(bad)) from error
                continue
            num_unoriented += not oriented and orientation(data) != 1
            yield packed
        if len(bad) == len(job.rows):
            raise DataError(
                f"{job.name}: none of its {len(bad)} images can be read, the last one is "
                f"{bad[-1][1]}",
                cure="replace them, or take them out of the source",
            )

    indexed = write_tar(job.records.folder / job.name, pack())
    made_from = MadeFrom(stat, sha256.hexdigest(), bool(job.max_bad), bad, num_unoriented)
    job.records.save(job.name, indexed, made_from)
    finished = job.records.finished_here(job.name)
    assert finished is not None, f"{job.name} was just written"
    return finished


def too_many(max_bad: int, problem: str, found: int) -> DataError:
    """The error for more unreadable images than ``--max-bad`` allows; ``problem`` is of one."""
    if not max_bad:
        return DataError(
            problem, cure="replace it, or write without it and up to N others by --max-bad N"
        )
    return DataError(
        f"{found:,} images cannot be read, more than --max-bad {max_bad}; the last is {problem}",
        cure="replace them, or raise --max-bad",
    )


def is_stale(job: ShardJob) -> bool:
    """Whether the images of a finished shard have changed since, or have to be checked.

    Files that only look new, as copies do, are read and compared.
    """
    finished = job.records.finished_here(job.name)
    if finished is None:
        return False
    made_from = finished.made_from
    if made_from is None:
        return bool(job.max_bad) or _differs_from_0_1(job)
    if job.max_bad and not made_from.checked:
        return True
    stat = stat_id(_paths(job))
    if stat == made_from.stat:
        return False
    sha256 = hashlib.sha256()
    for sample in job.samples:
        with suppress(DataError):
            sha256.update(_digest(job.read(sample)))
    if sha256.hexdigest() != made_from.sha256:
        return True
    job.records.now_made_from(job.name, made_from._replace(stat=stat))
    return False


def _differs_from_0_1(job: ShardJob) -> bool:
    """``is_stale`` of a shard of version 0.1, whose record does not say what it was made from."""
    written_ns = job.records.path(job.name).stat().st_mtime_ns
    if all(max(stat.st_mtime_ns, stat.st_ctime_ns) < written_ns for stat in stats_of(_paths(job))):
        return False
    if job.preprocess is not None:  # what is in the tar cannot be compared
        return True
    known = load_index(job.records.folder / index_name(job.name))["crc32"].tolist()
    with suppress(DataError):
        return known != [checksum.crc32(job.read(sample)) for sample in job.samples]
    return True


def _digest(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def _paths(job: ShardJob) -> list[str]:
    """The files that hold the samples."""
    return list(dict.fromkeys(sample.path for sample in job.samples if sample.path))


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


def _pack(job: ShardJob, row: int, sample: Source, image: bytes) -> Packed:
    kind = sample.kind
    if job.max_bad and (cause := why_undecodable(image)):
        problem = f"{sample.name}: this is no readable image ({cause})"
        raise DataError(problem, cure="replace it or leave it out")
    if job.preprocess is not None:
        image, kind = job.preprocess(image, kind, sample.name)
    kind = "jpg" if kind == "jpeg" else kind  # other readers ask for jpg alone
    return Packed(_key(row, sample.name), kind, image, sample.label)


def _key(row: int, name: str) -> str:
    """Row and file name, so that a bad sample leads to its file: ``0012345_n01440764_10026``."""
    stem = re.sub(r"^\d{7,}_", "", Path(name).name)
    if Path(stem).suffix:
        stem = Path(stem).stem
    return f"{row:07d}_{re.sub(r'[^A-Za-z0-9_-]', '_', stem)}"[:_KEY_LENGTH]
