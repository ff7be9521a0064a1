"""A strict reader of uncompressed tar files.

::

    header    512 bytes: name, size, checksum, ...
    content   ``size`` bytes, then zeros up to a multiple of 512
    header    ...
    end       two blocks of 512 zeros, then perhaps more zeros

Python's ``tarfile``, and webdataset with it, stops silently at a damaged header or at a cut between
two files, and all samples after it are lost. Here both are errors.
"""

import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from rwp_dist.base.errors import DataError

BLOCK_BYTES = 512

_FILES = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)
_WITHOUT_CONTENT = (tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.DIRTYPE)
_CHUNK_BYTES = 1 << 20


class Stream(Protocol):
    """Anything that can be read from start to end."""

    def read(self, size: int, /) -> bytes:
        """Return at most ``size`` bytes; none at the end."""
        ...


@dataclass(frozen=True)
class Member:
    """A file in a tar."""

    name: str
    offset: int
    """Of its content, from the start of the tar, in bytes."""
    size: int
    """Of its content, in bytes."""
    read: Callable[[], bytes]
    """Returns the content. Works until the next member is asked for."""


def read_members(stream: Stream, tar: str) -> Iterator[Member]:
    """Yield the regular files of a stream that errors call ``tar``; check it up to its last byte.

    Content that nobody reads is skipped by seeking, if the stream can seek.

    Raises:
        DataError: it is cut short (also between two files), a header is damaged, or it is no tar.
    """
    reader = _Reader(stream, tar)
    long_name: str | None = None
    while True:
        block = reader.take(BLOCK_BYTES)
        if not block.strip(b"\0"):
            break
        try:
            info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except tarfile.HeaderError as error:
            header = reader.offset - BLOCK_BYTES
            raise reader.broken(f"the header at byte {header} is damaged") from error
        if info.type in _FILES and not info.name.endswith("/"):
            begin = reader.offset
            read = partial(reader.take, info.size)
            yield Member(long_name or info.name, begin, info.size, read)
            reader.skip_to(begin + _padded(info.size))
            long_name = None
            continue
        has_content = info.type not in _WITHOUT_CONTENT
        content = reader.take(_padded(info.size))[: info.size] if has_content else b""
        if info.type == tarfile.GNUTYPE_LONGNAME:
            long_name = content.rstrip(b"\0").decode("utf-8", "surrogateescape")
        elif info.type == tarfile.XHDTYPE:
            long_name = _pax_path(content, reader) or long_name
        elif info.type == tarfile.GNUTYPE_SPARSE:
            raise DataError(f"{tar}: {info.name} is a sparse file", cure="pack it without --sparse")
        elif info.type != tarfile.XGLTYPE:
            long_name = None
    reader.check_end()


class _Reader:
    """A stream with a position, whose end is an error unless the tar ends there."""

    def __init__(self, stream: Stream, tar: str) -> None:
        self.offset = 0
        self.tar = tar
        self._stream = stream
        seekable = getattr(stream, "seekable", None)
        self._seek = getattr(stream, "seek", None) if seekable and seekable() else None

    def take(self, size: int) -> bytes:
        pieces = []
        while size:
            piece = self._stream.read(size)
            if not piece:
                raise self.broken(f"it is cut short at byte {self.offset}")
            pieces.append(piece)
            size -= len(piece)
            self.offset += len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def skip_to(self, offset: int) -> None:
        if self._seek is not None:
            self._seek(offset)  # the next read finds a cut, because blocks of zeros end a tar
            self.offset = offset
        while self.offset < offset:
            self.take(min(offset - self.offset, _CHUNK_BYTES))

    def check_end(self) -> None:
        """After one block of zeros: check that a second one follows, and nothing but zeros."""
        rest = self.take(BLOCK_BYTES)
        while rest:
            if rest.strip(b"\0"):
                raise self.broken(f"something follows its end at byte {self.offset - len(rest)}")
            rest = self._stream.read(_CHUNK_BYTES)
            self.offset += len(rest)

    def broken(self, cause: str) -> DataError:
        return DataError(
            f"{self.tar}: this is no complete, uncompressed tar file ({cause})",
            cure="fetch or write it again",
        )


def _padded(size: int) -> int:
    return -(-size // BLOCK_BYTES) * BLOCK_BYTES


def _pax_path(content: bytes, reader: _Reader) -> str | None:
    """The name in a pax header, which is a sequence of ``LENGTH KEY=VALUE`` lines."""
    path = None
    while content:
        length, _, _ = content.partition(b" ")
        if not length.isdigit() or not 0 < int(length) <= len(content):
            raise reader.broken("an extended header is damaged")
        record, content = content[len(length) + 1 : int(length)], content[int(length) :]
        key, _, value = record.rstrip(b"\n").partition(b"=")
        if key == b"path":
            path = value.decode("utf-8", "surrogateescape")
        if key == b"size":
            raise DataError(
                f"{reader.tar}: files of 8 GiB and more are no samples", cure="leave them out"
            )
    return path
