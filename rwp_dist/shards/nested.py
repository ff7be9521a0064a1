"""A tar of tars, one for each class, as ``ILSVRC2012_img_train.tar``: read without unpacking it.

::

    n01440764.tar           holds n01440764_18.JPEG, n01440764_36.JPEG, ...
    n01443537.tar
"""

import io
from collections import Counter
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import IO

from rwp_dist.base.errors import DataError
from rwp_dist.data.format.tar import read_members
from rwp_dist.shards.samples import Samples, Source
from rwp_dist.shards.sources import Listing, image_type, in_order, read_image


def holds_tars(path: Path) -> bool:
    """Whether there is a tar among the first files in a tar."""
    with path.open("rb") as file:
        first = islice(read_members(file, str(path)), 8)
        return any(member.name.endswith(".tar") for member in first)


def list_nested(path: Path) -> Listing:
    """List the images of the tars in a tar; the name of each is that of a class.

    Raises:
        DataError: a tar is damaged, two have one name, or one is of labelled samples.
    """
    images, left_out = dict[str, Samples](), Counter[str]()
    with path.open("rb") as file:
        for inner in read_members(file, str(path), left_out):
            name = PurePosixPath(inner.name)
            if name.suffix != ".tar" or name.name.startswith("."):
                left_out["file beside the tars"] += 1
                continue
            if name.stem in images:
                raise DataError(f"{path}: it has two {name.name}", cure="rename one of them")
            part = _Part(file, inner.offset, inner.size)
            images[name.stem] = _images(part, inner.offset, path, name.stem, left_out)
    classes = in_order(images)
    samples = Samples()
    for label, class_name in enumerate(classes):
        samples.extend(image._replace(label=label) for image in images.pop(class_name))
    note = "a class for each tar in it"
    return Listing(samples, tuple(classes), read_image, left_out, note=note)


def _images(
    part: "_Part", begin: int, path: Path, class_name: str, left_out: Counter[str]
) -> Samples:
    """The images of one tar, which begins at byte ``begin`` of the file ``path``."""
    tar, found = f"{path}/{class_name}.tar", Samples()
    for member in read_members(part, tar, left_out):
        kind = image_type(member.name)
        if member.name.endswith(".cls"):
            raise DataError(
                f"{tar}: it holds labelled samples, not the images of one class",
                cure=f"unpack {path}, and name the tars",
            )
        if not kind or member.unusable is not None:
            left_out["link or sparse file" if kind else "name without an image's ending"] += 1
            continue
        name = f"{class_name}/{member.name}"
        found.append(Source(name, kind, -1, str(path), begin + member.offset, member.size))
    if not found:
        raise DataError(f"{tar}: this class has no images", cure="remove it from the tar")
    return found


class _Part:
    """Some bytes of a file, as a file."""

    def __init__(self, file: IO[bytes], begin: int, size: int) -> None:
        self._file, self._begin, self._size = file, begin, size
        self._position = 0

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._position = offset + (self._size if whence == io.SEEK_END else 0)
        return self._position

    def read(self, size: int, /) -> bytes:
        self._file.seek(self._begin + self._position)
        data = self._file.read(max(min(size, self._size - self._position), 0))
        self._position += len(data)
        return data
