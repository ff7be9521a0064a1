"""The index of a shard: a file of numpy's ``.npy`` format beside the tar.

One record of 20 bytes for each sample, in the order of the tar::

    offset   uint64   where the image begins, from the start of the tar, in bytes
    size     uint32   bytes of the image
    crc32    uint32   checksum of these bytes
    label    int32    from 0
"""

import hashlib
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rwp_dist.base import checksum
from rwp_dist.base.errors import DataError
from rwp_dist.data.format.sample import IMAGE_TYPES, label_type, read_samples
from rwp_dist.data.format.tar import Stream

INDEX_DTYPE = np.dtype([("offset", "<u8"), ("size", "<u4"), ("crc32", "<u4"), ("label", "<i4")])

Index = NDArray[np.void]
"""``[N]`` of ``INDEX_DTYPE``."""


@dataclass(frozen=True)
class IndexedShard:
    """A shard's index, and the size and sha256 of its tar."""

    index: Index
    num_bytes: int
    sha256: str
    """Hexadecimal."""

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
        return path.read_bytes()
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
    wrong = DataError(
        f"{name}: this is no index of a shard", cure="make it again with `rwp-dist shards index`"
    )
    try:
        index = np.load(io.BytesIO(source), allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise wrong from error
    if not isinstance(index, np.ndarray) or index.dtype != INDEX_DTYPE or index.ndim != 1:
        raise wrong
    return index


def index_tar(stream: Stream, tar: str, label_key: str | None = None) -> IndexedShard:
    """Index a shard by reading it once from start to end.

    Args:
        stream: the shard; errors call it ``tar``.
        label_key: the field of each ``.json`` that holds the label; None: labels are in ``.cls``.

    Raises:
        DataError: the shard is cut short, damaged or empty, or a sample has no image or label.
    """
    hashing = _HashingStream(stream)
    records = []
    for sample in read_samples(hashing, tar, keep=(*IMAGE_TYPES, label_type(label_key))):
        _, image = sample.image()
        label = sample.label(label_key)
        records.append((image.offset, image.size, checksum.crc32(image.data), label))
    if not records:
        raise DataError(f"{tar}: this shard holds 0 samples", cure="write it again or remove it")
    index = np.array(records, dtype=INDEX_DTYPE)
    return IndexedShard(index, hashing.num_bytes, hashing.sha256.hexdigest())


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
