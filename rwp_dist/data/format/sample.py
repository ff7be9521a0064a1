"""Samples in a tar: neighbouring files whose names differ only in their extension.

::

    n01440764_10026.jpg     the image: .png, .jpg, .jpeg or .webp
    n01440764_10026.cls     its label: the digits of a whole number, from 0
    n01440764_10026.json    or here: a field that the user names

This is webdataset's convention: the key of a sample is its name up to the first dot.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from rwp_dist.base.errors import DataError
from rwp_dist.data.format.tar import Stream, read_members

IMAGE_TYPES = ("png", "jpg", "jpeg", "webp")
"""Extensions of images, lower case. If a sample has several images, the first type counts."""

_NAME = re.compile(r"((?:.*/)?[^./][^./]*)[.]([^/]+)")
"""Key and extension."""
_LABEL_RULE = "a label is a whole number from 0"


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
class TarSample:
    """The files of one key."""

    tar: str
    """The tar's name in errors."""
    key: str
    files: dict[str, SampleFile]
    """By extension, lower case."""

    def image(self) -> tuple[str, SampleFile]:
        """The extension of the image, and the image.

        Raises:
            DataError: there is no image.
        """
        for kind in IMAGE_TYPES:
            if kind in self.files:
                return kind, self.files[kind]
        raise self._error(
            "has no image", "put a .png, .jpg, .jpeg or .webp file right beside its label"
        )

    def label(self, json_field: str | None) -> int:
        """The label, from ``.cls``, or from a field of ``.json``.

        Raises:
            DataError: there is no label, or it is not a whole number from 0 below 2^31.
        """
        kind = label_type(json_field)
        if kind not in self.files:
            cure = "put a .cls file right beside the image, or name a .json field with --label-key"
            if json_field:
                cure = "leave out --label-key if labels are in .cls files"
            raise self._error(f"has no .{kind} file for its label", cure)
        text = self.files[kind].data
        try:
            value: Any = json.loads(text)[json_field] if json_field else int(text)
        except (ValueError, KeyError, TypeError) as error:
            what = f"the label {text[:40]!r}"
            if json_field:
                what = f"no field {json_field!r} in its .json"
            raise self._error(f"has {what}", _LABEL_RULE) from error
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**31:
            raise self._error(f"has the label {value!r}", _LABEL_RULE)
        return value

    def _error(self, problem: str, cure: str) -> DataError:
        return DataError(f"{self.tar}: sample {self.key} {problem}", cure=cure)


def label_type(json_field: str | None) -> str:
    """The extension of the files that hold labels."""
    return "json" if json_field else "cls"


def read_samples(stream: Stream, tar: str, keep: tuple[str, ...]) -> Iterator[TarSample]:
    """Yield the samples of a stream that errors call ``tar``.

    Of a sample's files, only those with an extension in ``keep`` are read.

    Raises:
        DataError: as ``read_members``; or a sample has two files with the same extension.
    """
    key, files = "", dict[str, SampleFile]()
    for member in read_members(stream, tar):
        match = _NAME.fullmatch(member.name)
        if match is None:
            continue
        if match[1] != key:
            if files:
                yield TarSample(tar, key, files)
            key, files = match[1], {}
        kind = match[2].lower()
        if kind in files:
            raise DataError(
                f"{tar}: sample {key} has two .{kind} files", cure="give each sample its own key"
            )
        data = member.read() if kind in keep else b""
        files[kind] = SampleFile(member.offset, member.size, data)
    if files:
        yield TarSample(tar, key, files)
