"""Shards become samples in memory: found, checked, read through webdataset, decoded."""

import io
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from braceexpand import braceexpand
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from webdataset.tariterators import group_by_keys, tar_file_expander

from rwp_dist.errors import DataError

IMAGE_TYPES = ("png", "jpg", "jpeg", "webp")
TAR_BLOCK_BYTES = 512


@dataclass(frozen=True)
class Samples:
    """All samples of a set of shards, in the order of the shards."""

    images: Tensor
    """uint8 ``[N, C, H, W]``."""
    labels: Tensor
    """int64 ``[N]``."""


def expand_shards(url: str) -> list[str]:
    """Shards that a folder, a file or a brace pattern (``{000000..000003}``) names.

    Raises:
        DataError: there are none, or one of a pattern is missing.
    """
    if Path(url).is_dir():
        shards = sorted(str(path) for path in Path(url).glob("*.tar"))
        if not shards:
            raise DataError(f"{url}: there are no shards here; {_cure(url)}")
        return shards
    try:
        shards = list(braceexpand(url))
    except ValueError as error:
        raise DataError(f"{url}: the braces do not match; write {{000000..000003}}.") from error
    missing = [shard for shard in shards if not Path(shard).exists()]
    if len(missing) == len(shards):
        raise DataError(f"{url}: there are no shards here; {_cure(url)}")
    if missing:
        raise DataError(
            f"{url}: {len(missing)} of {len(shards)} shards are missing, the first is "
            f"{missing[0]}; {_cure(url)}"
        )
    return shards


def load_shards(url: str, *, image_size: int, channels: int, num_classes: int) -> Samples:
    """Read and decode every sample of the shards that ``url`` names.

    An image is a ``.png``, ``.jpg``, ``.jpeg`` or ``.webp`` file, made grey (1 channel) or RGB (3);
    if its size differs, the square in its middle is scaled to ``image_size``. Its label is the
    whole number in the ``.cls`` file beside it.

    Raises:
        DataError: a shard is missing, empty, damaged or no tar file, or a sample is not as above.
    """
    images: list[NDArray[np.uint8]] = []
    labels: list[int] = []
    for shard in expand_shards(url):
        before = len(labels)
        for sample in _samples(shard):
            images.append(_image(shard, sample, image_size, channels))
            labels.append(_label(shard, sample, num_classes))
        if len(labels) == before:
            raise DataError(f"{shard}: this shard holds 0 samples; write it again or remove it.")
    return Samples(torch.from_numpy(np.stack(images)), torch.tensor(labels, dtype=torch.int64))


def _cure(url: str) -> str:
    parts = [part for part in Path(url).parts if not part.endswith(".tar")]
    ends = [i + 1 for i, part in enumerate(parts) if part.startswith("digits")]
    if not ends:
        return "set data.train and data.val to where they are."
    out = Path(*parts[: ends[-1]])
    return f"write them with `rwp-dist shards digits --out {out}`, or set data.train."


def _samples(shard: str) -> Iterator[dict[str, Any]]:
    try:
        with Path(shard).open("rb") as file:
            _check_complete(shard, file)
            file.seek(0)
            # An open file, because webdataset's own opener takes a colon in a path for a protocol.
            yield from group_by_keys(tar_file_expander([{"url": shard, "stream": file}]))
    except OSError as error:
        raise DataError(f"{shard}: cannot be read ({error.strerror}); check the file.") from error
    except ValueError as error:
        # webdataset appends streams and addresses to the arguments: the first is the cause.
        raise DataError(f"{shard}: {error.args[0]}; write the shard again.") from error


def _check_complete(shard: str, file: BinaryIO) -> None:
    """webdataset takes a tar cut between two files, or with a damaged header, for a shorter one."""
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            ends = [entry.offset_data + (entry.size if entry.isreg() else 0) for entry in tar]
    except tarfile.TarError as error:
        raise DataError(_broken(shard, str(error))) from error
    file.seek(-(-max(ends, default=0) // TAR_BLOCK_BYTES) * TAR_BLOCK_BYTES)
    rest = file.read()
    # A tar ends with two blocks of zeros; anything else is a header that could not be read.
    if len(rest) < 2 * TAR_BLOCK_BYTES or rest.strip(b"\0"):
        raise DataError(_broken(shard, "it is cut short, or a header in it is damaged"))


def _broken(shard: str, cause: str) -> str:
    return f"{shard}: this is no complete, uncompressed tar file ({cause}); write it again."


def _image(shard: str, sample: dict[str, Any], image_size: int, channels: int) -> NDArray[np.uint8]:
    name = f"{shard}: sample {sample['__key__']}"
    data = next((sample[kind] for kind in IMAGE_TYPES if kind in sample), None)
    if data is None:
        raise DataError(
            f"{name} has no image; put a .png, .jpg, .jpeg or .webp file right beside its label."
        )
    try:
        image = Image.open(io.BytesIO(data)).convert("L" if channels == 1 else "RGB")
    except Exception as error:  # decoders raise a dozen kinds on damaged files
        cause = "unknown format" if isinstance(error, UnidentifiedImageError) else error
        raise DataError(
            f"{name} holds no readable image ({cause}); replace it or leave the sample out."
        ) from error
    if image.size != (image_size, image_size):
        image = ImageOps.fit(image, (image_size, image_size), Image.Resampling.BILINEAR)
    pixels = np.array(image).reshape(image_size, image_size, channels)
    return pixels.transpose(2, 0, 1)


def _label(shard: str, sample: dict[str, Any], num_classes: int) -> int:
    name = f"{shard}: sample {sample['__key__']}"
    if "cls" not in sample:
        raise DataError(
            f"{name} has no label; put a .cls file with its class number right beside the image."
        )
    try:
        label = int(sample["cls"])
    except ValueError as error:
        text = sample["cls"][:40].decode(errors="replace")
        raise DataError(
            f"{name} has the label {text!r}; a .cls file must hold a whole number."
        ) from error
    if not 0 <= label < num_classes:
        cure = f"raise model.num_classes to {label + 1} or more" if label >= 0 else "write it again"
        raise DataError(f"{name} has the label {label}, not one of 0..{num_classes - 1}; {cure}.")
    return label
