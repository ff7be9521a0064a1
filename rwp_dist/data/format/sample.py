"""Samples in a tar: neighbouring files whose names differ only in their extension.

::

    n01440764_10026.jpg     the image: .jpg, .jpeg, .png or .webp
    n01440764_10026.cls     its label: the digits of a whole number, from 0
    n01440764_10026.json    or here: a field that the user names

This is webdataset's convention: the key of a sample is its name up to the first dot. Other files of
a sample, and files that belong to none, are left out and counted.
"""

import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from rwp_dist.base.errors import DataError
from rwp_dist.base.files import decoded
from rwp_dist.data.format.tar import Member, Stream, read_members

IMAGE_TYPES = ("jpg", "jpeg", "png", "webp")
"""Extensions of images, lower case. If a sample has several images, the first type counts, as in
webdataset's usual pipelines."""

_NAME = re.compile(r"((?:.*/)?[^./][^./]*)[.]([^/]+)")
"""Key and extension."""
_LABEL_RULE = "a label is a whole number from 0"
_LABEL = re.compile(r"\s*[+-]?[0-9]{1,20}\s*")
MOST_IMAGE_BYTES = 2**30
"""More than any decoder takes; it is read into memory."""
_MOST_LABEL_BYTES = 1 << 24


@dataclass(frozen=True)
class SampleFile:
    """A file of a sample."""

    offset: int
    """Of its content, from the start of the tar, in bytes."""
    size: int
    """In bytes."""
    data: bytes
    """Its content; empty if it was not asked for."""


@dataclass(frozen=True)
class Fields:
    """Which files of a sample are its image and its label."""

    label_key: str | None = None
    """The field of each ``.json`` that holds the label; None: labels are in ``.cls``."""
    image_key: str | None = None
    """Extensions of the image, the preferred one first, such as ``png`` or ``left.jpg;jpg``; None:
    ``IMAGE_TYPES``."""

    @property
    def images(self) -> tuple[str, ...]:
        """Extensions of images, lower case, the preferred one first."""
        if self.image_key is None:
            return IMAGE_TYPES
        kinds = self.image_key.lower().split(";")
        return tuple(kind.strip().removeprefix(".") for kind in kinds)

    @property
    def label(self) -> str:
        """The extension of the files that hold labels."""
        return "json" if self.label_key else "cls"


@dataclass(frozen=True)
class TarSample:
    """The files of one key."""

    tar: str
    """The tar's name in errors."""
    key: str
    files: dict[str, SampleFile]
    """By extension, lower case."""
    fields: Fields

    def image(self) -> tuple[str, SampleFile]:
        """The extension of the image, and the image.

        Raises:
            DataError: there is no image.
        """
        for kind in self.fields.images:
            if kind in self.files:
                return kind, self.files[kind]
        other = next((kind for kind in self.files if _looks_like_image(kind)), None)
        if other is None:
            wanted = " or ".join(f".{kind}" for kind in self.fields.images)
            raise self._error("has no image", f"put a {wanted} file right beside its label")
        raise self._error(
            f"has no image but .{other} (a sample's name ends at its first dot)",
            f"take that with --image-key {other}, or rename the files",
        )

    def label(self) -> int:
        """The label, from ``.cls``, or from a field of ``.json``.

        Raises:
            DataError: there is no label, or it is not a whole number from 0 below 2^31.
        """
        json_field, kind = self.fields.label_key, self.fields.label
        if kind not in self.files:
            cure = (
                "put a .cls file right beside the image, or name a .json field with --label-key; "
                "for images with a table of labels, `rwp-dist shards write SOURCE --labels FILE`; "
                "for folders of classes, unpack them and use `rwp-dist shards write FOLDER`"
            )
            if json_field:
                cure = "leave out --label-key if labels are in .cls files"
            raise self._error(f"has no .{kind} file for its label", cure)
        data = self.files[kind].data
        try:
            text = decoded(data)
            if json_field is None and not _LABEL.fullmatch(text):
                raise ValueError
            value: Any = json.loads(text)[json_field] if json_field else int(text)
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            what = f"the label {data[:40]!r}"
            if json_field:
                what = f"no field {json_field!r} in its .json"
            raise self._error(f"has {what}", _LABEL_RULE) from error
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**31:
            raise self._error(f"has the label {value!r:.40}", _LABEL_RULE)
        return value

    def belongs(self) -> bool:
        """Whether the files are a sample's, perhaps of a bad one, and not such as ``README.md``."""
        if any(kind in self.fields.images or _looks_like_image(kind) for kind in self.files):
            return True
        label = self.files.get(self.fields.label)
        if label is None or self.fields.label_key is None:
            return label is not None
        try:
            content = json.loads(decoded(label.data))
        except (ValueError, RecursionError):
            return False
        return isinstance(content, dict) and self.fields.label_key in content

    def _error(self, problem: str, cure: str) -> DataError:
        return DataError(f"{self.tar}: sample {self.key} {problem}", cure=cure)


def _looks_like_image(kind: str) -> bool:
    return kind.rpartition(".")[2] in IMAGE_TYPES


def read_samples(
    stream: Stream,
    tar: str,
    fields: Fields,
    left_out: Counter[str] | None = None,
    *,
    images: bool = True,
) -> Iterator[TarSample]:
    """Yield the samples of a stream that errors call ``tar``.

    Of a sample's files, only its label and its images are read, the latter only with ``images``.
    All files that are no sample's image or label are counted in ``left_out`` by kind.

    Raises:
        DataError: as ``read_members``; or a sample has two files with the same extension, or one
            that is a link to nowhere or too large.
    """
    left_out = Counter() if left_out is None else left_out
    key, files = "", dict[str, SampleFile]()

    def finish() -> Iterator[TarSample]:
        sample = TarSample(tar, key, files, fields)
        if files and sample.belongs():
            _count_unused(sample, left_out)
            yield sample
        else:
            for kind in files:
                left_out[f".{kind} of no sample"] += 1

    for member in read_members(stream, tar, left_out):
        match = _NAME.fullmatch(member.name)
        if match is None:
            left_out[_odd_name(member.name)] += 1
            continue
        if match[1] != key:
            yield from finish()
            key, files = match[1], {}
        kind = match[2].lower()
        is_image, is_label = kind in fields.images, kind == fields.label
        if member.unusable is not None and not (is_image or is_label):
            left_out["link or sparse file"] += 1
            continue
        if kind in files:
            raise DataError(
                f"{tar}: sample {key} has two .{kind} files", cure="give each sample its own key"
            )
        if is_image or is_label:
            _check(member, tar, _MOST_LABEL_BYTES if is_label else MOST_IMAGE_BYTES)
        data = member.read() if is_label or (is_image and images) else b""
        files[kind] = SampleFile(member.offset, member.size, data)
    yield from finish()


def _check(member: Member, tar: str, most_bytes: int) -> None:
    """Refuse what is no file, or too large, before it is read."""
    if member.unusable is not None:
        raise member.unusable
    if member.size > most_bytes:
        raise DataError(
            f"{tar}: {member.name} has {member.size:,} bytes, and {most_bytes:,} are the most",
            cure="leave it out",
        )


def _count_unused(sample: TarSample, left_out: Counter[str]) -> None:
    """Count the files of a sample that are neither the image that counts nor the label."""
    used = next((kind for kind in sample.fields.images if kind in sample.files), None)
    for kind in sample.files:
        if kind not in (used, sample.fields.label):
            what = f"further .{kind} image" if _looks_like_image(kind) else f"unused .{kind}"
            left_out[f"{what} of a sample"] += 1


def _odd_name(name: str) -> str:
    """What a file is called whose name has no key or no extension."""
    base = name.rpartition("/")[2]
    if base.startswith("._"):
        return "Apple double (._*)"
    return "hidden file" if base.startswith(".") else "name without an extension"
