"""The index of a shard: a file of numpy's ``.npy`` format beside the tar.

One record of 20 bytes for each sample, in the order of the tar::

    offset   uint64   where the image begins, from the start of the tar, in bytes
    size     uint32   bytes of the image
    crc32    uint32   checksum of these bytes
    label    int32    from 0
"""

import hashlib
import io
import warnings
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from mmap import mmap
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rwp_dist.base import checksum
from rwp_dist.base.errors import DataError
from rwp_dist.base.files import read_file
from rwp_dist.data.format.sample import Fields, read_samples
from rwp_dist.data.format.tar import Stream

INDEX_DTYPE = np.dtype([("offset", "<u8"), ("size", "<u4"), ("crc32", "<u4"), ("label", "<i4")])

MOST_INDEX_BYTES = 1 << 28
"""Of an index file: 13 million samples in one shard."""

_MOST_HEADER_BYTES = 10 + 2**16
"""Of an array's header in format 1.0."""

Index = NDArray[np.void]
"""``[N]`` of ``INDEX_DTYPE``."""


@dataclass(frozen=True)
class IndexedShard:
    """A shard's index, and the size and sha256 of its tar."""

    index: Index
    num_bytes: int
    sha256: str
    """Hexadecimal."""
    left_out: Mapping[str, int] = field(default_factory=dict)
    """How many files of the tar are in no sample, by kind."""

    @property
    def num_classes(self) -> int:
        """One more than the largest label; 0 without samples."""
        return int(self.index["label"].max(initial=-1)) + 1


def index_name(shard_name: str) -> str:
    """The file name of a shard's index."""
    return f"{shard_name}.index.npy"


def index_bytes(index: Index) -> bytes:
    """The content of an index file."""
    buffer = io.BytesIO()
    np.save(buffer, index, allow_pickle=False)
    return buffer.getvalue()


def read_index(path: Path) -> bytes:
    """The content of an index file.

    Raises:
        DataError: it is missing or cannot be read.
    """
    try:
        return read_file(path, MOST_INDEX_BYTES)
    except OSError as error:
        missing = isinstance(error, FileNotFoundError)
        cause = "this shard has no index" if missing else error.strerror
        raise DataError(
            f"{path}: cannot be read ({cause})",
            cure=f"make it with `rwp-dist shards index {path.parent}`",
        ) from error


def load_index(source: str | Path | bytes, name: str = "index") -> Index:
    """An index from its path, or from the content of its file, which errors call ``name``.

    Raises:
        DataError: it is missing, or no index.
    """
    if not isinstance(source, bytes):
        return load_index(read_index(Path(source)), str(source))
    try:
        index, end = read_array(source, 0, INDEX_DTYPE)
        if end == len(source):
            return index.copy()
    except ValueError:
        pass
    raise DataError(
        f"{name}: this is no index of a shard", cure="make it again with `rwp-dist shards index`"
    )


@lru_cache(maxsize=64)
def index_header(num_samples: int) -> bytes:
    """What stands before the records in an index file."""
    buffer = io.BytesIO()
    described = {"descr": INDEX_DTYPE.descr, "fortran_order": False, "shape": (num_samples,)}
    np.lib.format.write_array_header_1_0(buffer, described)
    return buffer.getvalue()


def read_array(
    content: bytes | memoryview | mmap, begin: int, dtype: np.dtype[Any]
) -> tuple[NDArray[Any], int]:
    """An array of one dimension that ``np.save`` wrote, as a view of the content, and its end.

    Raises:
        ValueError: at this place there is no such array, or not all of it.
    """
    buffer = io.BytesIO(content[begin : begin + _MOST_HEADER_BYTES])
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of headers by Python 2
            version = np.lib.format.read_magic(buffer)
            shape, is_fortran, found = np.lib.format.read_array_header_1_0(buffer)
    except Exception as error:  # numpy's parser raises whatever broken bytes lead it to
        raise ValueError("there is no array") from error
    if version != (1, 0) or is_fortran or found != dtype or len(shape) != 1 or shape[0] < 0:
        raise ValueError("this is another array")
    # The header may claim any length, so it is compared before anything is read by it.
    begin += buffer.tell()
    end = begin + shape[0] * dtype.itemsize
    if end > len(content):
        raise ValueError("the array is cut off")
    return np.frombuffer(content, dtype, shape[0], begin), end


def check_places(index: Index, num_bytes: int) -> NDArray[np.int64]:
    """The rows whose image does not lie within a tar of ``num_bytes``."""
    offset, size = index["offset"], index["size"].astype(np.uint64)
    most = np.uint64(num_bytes)
    return np.flatnonzero((offset > most) | (size > most - np.minimum(offset, most)))


def index_tar(stream: Stream, tar: str, fields: Fields | None = None) -> IndexedShard:
    """Index a shard by reading it once from start to end.

    Args:
        stream: the shard; errors call it ``tar``.
        fields: which files of a sample are its image and its label.

    Raises:
        DataError: the shard is cut short, damaged or empty, or a sample has no image or label.
    """
    hashing = _HashingStream(stream)
    records = []
    left_out = Counter[str]()
    for sample in read_samples(hashing, tar, fields or Fields(), left_out):
        _, image = sample.image()
        label = sample.label()
        records.append((image.offset, image.size, checksum.crc32(image.data), label))
    if not records:
        raise DataError(
            f"{tar}: this shard holds 0 samples",
            cure="write it again or remove it; tars in a tar are for `rwp-dist shards write`",
        )
    index = np.array(records, dtype=INDEX_DTYPE)
    return IndexedShard(index, hashing.num_bytes, hashing.sha256.hexdigest(), left_out)


class _HashingStream:
    """Counts and hashes all bytes that pass through."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self.sha256 = hashlib.sha256()
        self.num_bytes = 0

    def read(self, size: int, /) -> bytes:
        data = self._stream.read(size)
        self.sha256.update(data)
        self.num_bytes += len(data)
        return data

    @property
    def again(self) -> Stream:
        """What bytes that were hashed before are read from a second time."""
        return self._stream
