"""Tars read strictly: what other readers take for a shorter tar is an error here.

Python's ``tarfile``, and webdataset with it, stops without a word at a damaged header or at a cut
between two files, and the samples behind it are lost.
"""

import re
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from rwp_dist.base.errors import DataError

BLOCK_BYTES = 512
IMAGE_TYPES = ("png", "jpg", "jpeg", "webp")
"""Extensions of images, lower case; the first of them wins where a sample has several."""

_FILES = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)
_LONG_NAME, _PAX, _SPARSE = tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE, tarfile.GNUTYPE_SPARSE
_SAMPLE_NAME = re.compile(r"((?:.*/)?[^./][^./]*)[.]([^/]+)")
"""webdataset's rule: the key ends at the first dot of the file name."""
_CHUNK_BYTES = 1 << 20


class Stream(Protocol):
    """Anything that bytes come out of."""

    def read(self, size: int, /) -> bytes:
        """At most ``size`` bytes; none at the end."""
        ...


@dataclass(frozen=True)
class Member:
    """A file in a tar; its bytes are at hand until the next member is asked for."""

    name: str
    offset: int
    """Where its bytes begin, counted from the start of the tar."""
    size: int
    read: Callable[[], bytes]


@dataclass(frozen=True)
class Part:
    """A file of a sample."""

    offset: int
    size: int
    data: bytes
    """Empty, unless it was asked for."""


@dataclass(frozen=True)
class TarSample:
    """Neighbouring files of one key."""

    key: str
    parts: dict[str, Part]
    """By extension, lower case."""


def read_members(stream: Stream, name: str) -> Iterator[Member]:
    """Yield the regular files of an uncompressed tar, from its start to its very end.

    ``name`` is what errors call the tar. A ``stream`` that can seek is not read where nobody asks.

    Raises:
        DataError: it is cut short (also between two files), a header is damaged, or it is no tar.
    """
    place = _Place(stream, name)
    long_name: str | None = None
    while True:
        block = place.take(BLOCK_BYTES)
        if not block.strip(b"\0"):
            break
        try:
            info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except tarfile.HeaderError as error:
            cause = f"the header at byte {place.offset - BLOCK_BYTES} is damaged"
            raise DataError(_broken(name, cause)) from error
        if info.type in _FILES and not info.name.endswith("/"):
            member = place.member(long_name or info.name, info.size)
            yield member
            place.skip_to(member.offset + _padded(info.size))
            long_name = None
            continue
        content = place.take(_padded(info.size))[: info.size] if _has_content(info) else b""
        if info.type == _LONG_NAME:
            long_name = content.rstrip(b"\0").decode("utf-8", "surrogateescape")
        elif info.type == _PAX:
            long_name = _pax_path(content, name) or long_name
        elif info.type == _SPARSE:
            raise DataError(f"{name}: {info.name} is a sparse file; pack it without --sparse.")
        elif info.type != tarfile.XGLTYPE:
            long_name = None
    place.check_end()


def read_samples(stream: Stream, name: str, keep: Callable[[str], bool]) -> Iterator[TarSample]:
    """Group the files of a tar to samples, as webdataset does, keeping the bytes of some.

    Args:
        keep: whether the bytes of files with this extension are wanted.

    Raises:
        DataError: as ``read_members``; or a sample has two files of one kind.
    """
    key, parts = "", dict[str, Part]()
    for member in read_members(stream, name):
        match = _SAMPLE_NAME.fullmatch(member.name)
        if match is None:
            continue
        if match[1] != key:
            if parts:
                yield TarSample(key, parts)
            key, parts = match[1], {}
        kind = match[2].lower()
        if kind in parts:
            raise DataError(
                f"{name}: sample {key} has two .{kind} files; give each sample a key of its own."
            )
        data = member.read() if keep(kind) else b""
        parts[kind] = Part(member.offset, member.size, data)
    if parts:
        yield TarSample(key, parts)


class _Place:
    """Where in the tar we are."""

    def __init__(self, stream: Stream, name: str) -> None:
        self._stream = stream
        self._name = name
        self._seek = getattr(stream, "seek", None) if _can_seek(stream) else None
        self.offset = 0

    def take(self, size: int) -> bytes:
        pieces = []
        while size:
            piece = self._stream.read(size)
            if not piece:
                raise DataError(_broken(self._name, f"it is cut short at byte {self.offset}"))
            pieces.append(piece)
            size -= len(piece)
            self.offset += len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def member(self, name: str, size: int) -> Member:
        return Member(name, self.offset, size, lambda: self.take(size))

    def skip_to(self, offset: int) -> None:
        if self._seek is not None:
            self._seek(offset)  # a cut is found by the next read: a tar never ends with a file
            self.offset = offset
        while self.offset < offset:
            self.take(min(offset - self.offset, _CHUNK_BYTES))

    def check_end(self) -> None:
        """One block of zeros was read: a second one must follow, and nothing else."""
        rest = self.take(BLOCK_BYTES)
        while rest:
            if rest.strip(b"\0"):
                cause = f"something follows its end at byte {self.offset - len(rest)}"
                raise DataError(_broken(self._name, cause))
            rest = self._stream.read(_CHUNK_BYTES)
            self.offset += len(rest)


def _can_seek(stream: Stream) -> bool:
    return bool(getattr(stream, "seekable", bool)())


def _has_content(info: tarfile.TarInfo) -> bool:
    return info.type not in (tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.DIRTYPE) and info.size > 0


def _padded(size: int) -> int:
    return -(-size // BLOCK_BYTES) * BLOCK_BYTES


def _pax_path(content: bytes, name: str) -> str | None:
    """The name in a pax header, whose records are ``LENGTH KEY=VALUE`` and a line end."""
    found = None
    while content:
        length, _, _ = content.partition(b" ")
        if not length.isdigit() or not 0 < int(length) <= len(content):
            raise DataError(_broken(name, "an extended header is damaged"))
        record, content = content[len(length) + 1 : int(length)], content[int(length) :]
        key, _, value = record.rstrip(b"\n").partition(b"=")
        if key == b"path":
            found = value.decode("utf-8", "surrogateescape")
        if key == b"size":
            raise DataError(f"{name}: files of 8 GiB and more are no samples; leave them out.")
    return found


def _broken(name: str, cause: str) -> str:
    return f"{name}: this is no complete, uncompressed tar file ({cause}); fetch or write it again."
