"""One shard, made by one process: samples are read, preprocessed if asked for, put into a tar."""

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

from rwp_dist.base.errors import DataError
from rwp_dist.base.files import open_file
from rwp_dist.data.format.index import index_name, load_index
from rwp_dist.data.image import orientation, why_undecodable
from rwp_dist.shards.preprocess import Preprocess
from rwp_dist.shards.records import FinishedShard, MadeFrom, Records, stat_id, stats_of
from rwp_dist.shards.samples import Source
from rwp_dist.shards.sources import last_part
from rwp_dist.shards.tar import Packed, write_tar

_OLD_ROW, _ODD = re.compile(r"^\d{7,}_"), re.compile("[^A-Za-z0-9_-]")
_KEY_LENGTH = 90  # names in a plain tar header end at 100 bytes

_APP1, _START_OF_SCAN = 0xE1, 0xDA
"""Markers of a JPEG: Exif or XMP; the pixels."""
_ALONE = frozenset([*range(0xC0), *range(0xD0, 0xDA), 0xFF])
"""Those without a length, which are not there before the pixels."""


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
    finished: FinishedShard | None = None
    """The shard that an earlier call wrote."""

    @property
    def keeps_files(self) -> bool:
        """Whether the tar holds the content of every image's file as it is."""
        return self.preprocess is None and not self.max_bad


def pack_shard(job: ShardJob) -> FinishedShard:
    """Write, index and record one shard.

    Raises:
        DataError: more samples than ``max_bad`` cannot be read or decoded, or all of them.
    """
    stat, bad = stat_id(_paths(job)), list[tuple[str, str]]()
    sha256 = None if job.keeps_files else hashlib.sha256()
    oriented = job.preprocess is not None and job.preprocess.orient
    num_unoriented = 0

    def pack() -> Iterator[Packed]:
        nonlocal num_unoriented
        for row, sample in zip(job.rows, job.samples, strict=True):
            try:
                data = job.read(sample)
                if sha256 is not None:
                    sha256.update(_digest(data))
                packed = _pack(job, row, sample, data)
            except DataError as error:
                bad.append((sample.name, error.problem))
                if len(bad) > job.max_bad:
                    raise too_many(job.max_bad, error.problem, len(bad)) from error
                continue
            num_unoriented += not oriented and _may_be_turned(data) and orientation(data) != 1
            yield packed
        if len(bad) == len(job.rows):
            raise DataError(
                f"{job.name}: none of its {len(bad)} images can be read, the last one is "
                f"{bad[-1][1]}",
                cure="replace them, or take them out of the source",
            )

    indexed = write_tar(job.records.folder / job.name, pack())
    content = None if sha256 is None else sha256.hexdigest()
    made_from = MadeFrom(stat, content, bool(job.max_bad), bad, num_unoriented)
    return job.records.save(job.name, indexed, made_from)


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


def still_finished(job: ShardJob) -> FinishedShard | None:
    """The finished shard; None: its images have changed since, or have to be checked.

    Files that only look new, as copies do, are read and compared.
    """
    shard = job.finished
    if shard is None:
        return None
    made_from = shard.made_from
    if job.max_bad and not (made_from and made_from.checked):
        return None
    stat = stat_id(_paths(job))
    if made_from is None:  # by version 0.1
        return shard if _is_older(job) or _holds_files(job) else None
    if stat == made_from.stat:
        return shard
    same = _holds_files(job) if made_from.sha256 is None else _content(job) == made_from.sha256
    if not same:
        return None
    shard = shard._replace(made_from=made_from._replace(stat=stat))
    job.records.save_record(shard)
    return shard


def _content(job: ShardJob) -> str:
    """Sha256 over the contents of the images' files, those left out that cannot be read."""
    sha256 = hashlib.sha256()
    for sample in job.samples:
        with suppress(DataError):
            sha256.update(_digest(job.read(sample)))
    return sha256.hexdigest()


def _is_older(job: ShardJob) -> bool:
    """Whether no image's file has changed since the shard was recorded."""
    written_ns = job.records.path(job.name).stat().st_mtime_ns
    return all(
        max(stat.st_mtime_ns, stat.st_ctime_ns) < written_ns for stat in stats_of(_paths(job))
    )


def _holds_files(job: ShardJob) -> bool:
    """Whether the tar holds the images' files as they are now."""
    if not job.keeps_files:
        return False
    index = load_index(job.records.folder / index_name(job.name))
    if len(index) != len(job.samples):
        return False
    with suppress(DataError), open_file(job.records.folder / job.name) as tar:
        for offset, size, sample in zip(
            index["offset"].tolist(), index["size"].tolist(), job.samples, strict=True
        ):
            tar.seek(offset)
            if tar.read(size) != job.read(sample):
                return False
        return True
    return False


def _digest(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def _paths(job: ShardJob) -> list[str]:
    """The files that hold the samples."""
    return list(dict.fromkeys(path for sample in job.samples if (path := sample.path)))


def _may_be_turned(image: bytes) -> bool:
    """False for a JPEG without a segment that can hold an orientation; takes a few microseconds."""
    if not image.startswith(b"\xff\xd8\xff"):
        return True
    place, most = 2, len(image) - 4
    while place < most and image[place] == 0xFF:
        marker = image[place + 1]
        if marker == _START_OF_SCAN:
            return False
        if marker == _APP1 or marker in _ALONE:
            return True
        place += 2 + int.from_bytes(image[place + 2 : place + 4], "big")
    return True


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
    stem = _OLD_ROW.sub("", last_part(name))
    if 0 < (dot := stem.rfind(".")) < len(stem) - 1:
        stem = stem[:dot]
    return f"{row:07d}_{_ODD.sub('_', stem)}"[:_KEY_LENGTH]
