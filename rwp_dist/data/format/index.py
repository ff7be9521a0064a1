"""The index beside a shard: where each image lies, its checksum and its label."""

import hashlib
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rwp_dist.base import checksum
from rwp_dist.base.errors import DataError
from rwp_dist.data.format.tar import IMAGE_TYPES, Part, Stream, TarSample, read_samples

INDEX_DTYPE = np.dtype([("offset", "<u8"), ("size", "<u4"), ("crc32", "<u4"), ("label", "<i4")])
"""One record per sample in tar order: the image's place in the tar and size in bytes, its
checksum, its label."""

Index = NDArray[np.void]
"""``[N]`` of ``INDEX_DTYPE``."""


@dataclass(frozen=True)
class IndexedShard:
    """All that reading a shard once says of it."""

    index: Index
    num_bytes: int
    sha256: str

    @property
    def num_classes(self) -> int:
        """One more than the largest label; 0 without samples."""
        return int(self.index["label"].max(initial=-1)) + 1


def index_name(shard_name: str) -> str:
    """The name of a shard's index."""
    return f"{shard_name}.index.npy"


def index_bytes(index: Index) -> bytes:
    """The index file's content."""
    buffer = io.BytesIO()
    np.save(buffer, index, allow_pickle=False)
    return buffer.getvalue()


def load_index(source: str | Path | bytes, name: str = "index") -> Index:
    """Load an index from a file, or from its content; then ``name`` is what errors call it.

    Raises:
        DataError: it is missing, or no index.
    """
    if not isinstance(source, bytes):
        name = str(source)
        try:
            source = Path(source).read_bytes()
        except OSError as error:
            raise DataError(
                f"{name}: cannot be read ({error.strerror}); make it with `rwp-dist shards index`."
            ) from error
    try:
        index = np.load(io.BytesIO(source), allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise DataError(f"{name}: {_NO_INDEX}") from error
    if not isinstance(index, np.ndarray) or index.dtype != INDEX_DTYPE or index.ndim != 1:
        raise DataError(f"{name}: {_NO_INDEX}")
    return index


_NO_INDEX = "this is no index of a shard; make it again with `rwp-dist shards index`."


def index_tar(stream: Stream, name: str, label_key: str | None = None) -> IndexedShard:
    """Read a shard from its first byte to its last and index it.

    Args:
        name: what errors call the shard.
        label_key: the field of a sample's ``.json`` that holds its label; ``.cls`` unless given.

    Raises:
        DataError: the shard is cut short, damaged or empty, or a sample has no image or label.
    """
    hashing = _Hashing(stream)
    records = []
    kept = (*IMAGE_TYPES, "json" if label_key else "cls")
    for sample in read_samples(hashing, name, keep=lambda kind: kind in kept):
        _, image = sample_image(sample, name)
        label = sample_label(sample, name, label_key)
        records.append((image.offset, image.size, checksum.crc32(image.data), label))
    if not records:
        raise DataError(f"{name}: this shard holds 0 samples; write it again or remove it.")
    index = np.array(records, dtype=INDEX_DTYPE)
    return IndexedShard(index, hashing.num_bytes, hashing.sha256.hexdigest())


def sample_image(sample: TarSample, name: str) -> tuple[str, Part]:
    """The extension and place of a sample's image.

    Raises:
        DataError: it has none.
    """
    for kind in IMAGE_TYPES:
        if kind in sample.parts:
            return kind, sample.parts[kind]
    raise DataError(
        f"{name}: sample {sample.key} has no image; "
        "put a .png, .jpg, .jpeg or .webp file right beside its label."
    )


def sample_label(sample: TarSample, name: str, label_key: str | None) -> int:
    """A sample's label, from its ``.cls``, or from a field of its ``.json``.

    Raises:
        DataError: it has none, or it is no whole number from 0.
    """
    kind = "json" if label_key else "cls"
    if kind not in sample.parts:
        cure = (
            "leave out --label-key if labels are in .cls files"
            if label_key
            else "put a .cls file right beside the image, or name a .json field with --label-key"
        )
        raise DataError(f"{name}: sample {sample.key} has no .{kind} file for its label; {cure}.")
    text = sample.parts[kind].data
    try:
        value: Any = json.loads(text)[label_key] if label_key else int(text)
    except (ValueError, KeyError, TypeError) as error:
        what = f"no field {label_key!r} in its .json" if label_key else f"the label {text[:40]!r}"
        raise DataError(
            f"{name}: sample {sample.key} has {what}; a label is a whole number from 0."
        ) from error
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**31:
        raise DataError(
            f"{name}: sample {sample.key} has the label {value!r}; "
            "a label is a whole number from 0."
        )
    return value


class _Hashing:
    """Passes bytes on, all of them counted and hashed."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self.sha256 = hashlib.sha256()
        self.num_bytes = 0

    def read(self, size: int, /) -> bytes:
        data = self._stream.read(size)
        self.sha256.update(data)
        self.num_bytes += len(data)
        return data
