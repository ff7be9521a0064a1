"""A strict reader of uncompressed tar files.

::

    header    512 bytes: name, size, checksum, ...
    content   ``size`` bytes, then zeros up to a multiple of 512
    header    ...
    end       two blocks of 512 zeros, then perhaps more zeros

Python's ``tarfile``, and webdataset with it, stops silently at a damaged header or at a cut between
two files, and all samples after it are lost. Here both are errors. A size is checked before
anything is read, skipped or allocated for it.
"""

import io
import tarfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import NoReturn, Protocol

from rwp_dist.base.errors import DataError

BLOCK_BYTES = 512

_FILES = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)
_LINKS = (tarfile.LNKTYPE, tarfile.SYMTYPE)
_DEVICES = (tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE)
_LONG = {tarfile.GNUTYPE_LONGNAME: b"path", tarfile.GNUTYPE_LONGLINK: b"linkpath"}
_EXTENDED = (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.XGLTYPE)
_GNU_MAGIC = b"ustar  "
_GNU_MAP_GOES_ON, _MAP_GOES_ON = 482, 504
"""Bytes of a sparse file's header, and of a further block of its map."""
_COMPRESSED = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd", b"BZh": "bzip2", b"\xfd7zXZ": "xz"}
_CHUNK_BYTES = 1 << 20
_MOST_EXTENDED_BYTES = 1 << 20
"""Of a header that holds a long name or other additions; real ones have some hundred bytes."""


class Stream(Protocol):
    """Anything that can be read from start to end."""

    def read(self, size: int, /) -> bytes:
        """Return at most ``size`` bytes; none at the end."""
        ...


@dataclass(frozen=True)
class Member:
    """A file in a tar, or a hard link to one."""

    name: str
    offset: int
    """Of its content, from the start of the tar, in bytes. Of a hard link: its target's."""
    size: int
    """Of its content, in bytes."""
    read: Callable[[], bytes]
    """Returns the content. Works until the next member is asked for."""
    unusable: DataError | None = None
    """Why its content cannot be had; ``read`` raises it."""


def read_members(
    stream: Stream, tar: str, left_out: Counter[str] | None = None
) -> Iterator[Member]:
    """Yield the files of a stream that errors call ``tar``; check it up to its last byte.

    Content that nobody reads is skipped by seeking, if the stream can seek. A hard link has the
    content of its target, which lies before it. Symbolic links and sparse files are yielded as
    unusable. What holds no file's content, directories apart, is counted in ``left_out`` by kind.

    Raises:
        DataError: it is cut short (also between two files), a header is damaged, or it is no tar.
    """
    reader = _Reader(stream, tar)
    left_out = Counter() if left_out is None else left_out
    more: dict[bytes, bytes] = {}  # what extended headers say of the next member
    places: dict[str, tuple[int, int]] = {}
    while True:
        block = reader.take(BLOCK_BYTES)
        if not block.strip(b"\0"):
            break
        info = _header(block, reader, more)
        if info.type in _LONG or info.type in _EXTENDED:
            if info.size > _MOST_EXTENDED_BYTES:
                raise reader.broken(f"{reader.last_header} has a name of {info.size:,} bytes")
            content = reader.take(_padded(info.size))[: info.size]
            if info.type in _LONG:
                more[_LONG[info.type]] = content.split(b"\0")[0]
            elif info.type != tarfile.XGLTYPE:
                more |= _pax(content, reader)
            continue
        sparse = info.type == tarfile.GNUTYPE_SPARSE or b"sparse" in more
        if info.type == tarfile.GNUTYPE_SPARSE:
            goes_on = block[_GNU_MAP_GOES_ON]
            while goes_on:  # the map of a file with many holes
                goes_on = reader.take(BLOCK_BYTES)[_MAP_GOES_ON]
        begin = reader.offset
        if info.type in _LINKS:
            yield _link(info, reader, places)
        elif sparse and info.type in (*_FILES, tarfile.GNUTYPE_SPARSE):
            unusable = _unusable(tar, info.name, "a sparse file", "pack it without --sparse")
            yield Member(info.name, begin, info.size, partial(_refuse, unusable), unusable)
        elif info.type in _FILES:
            places[_plain(info.name)] = begin, info.size
            yield Member(info.name, begin, info.size, partial(reader.take, info.size))
        elif info.type in _DEVICES:
            left_out["device or pipe"] += 1
        elif info.type != tarfile.DIRTYPE:
            left_out["member of an unknown type"] += 1
        if info.type not in (*_LINKS, *_DEVICES, tarfile.DIRTYPE):
            reader.skip_to(begin + _padded(info.size))
        more = {}
    reader.check_end()


class _Reader:
    """A stream with a position, whose end is an error unless the tar ends there."""

    def __init__(self, stream: Stream, tar: str) -> None:
        self.offset = 0
        self.tar = tar
        self._stream = stream
        seekable = getattr(stream, "seekable", None)
        self._seek = getattr(stream, "seek", None) if seekable and seekable() else None
        self._end = None
        if self._seek is not None:
            self._end = self._seek(0, io.SEEK_END)
            self._seek(0)

    @property
    def last_header(self) -> str:
        """The header that was just read, in words."""
        return f"the header at byte {self.offset - BLOCK_BYTES}"

    def take(self, size: int) -> bytes:
        pieces = []
        while size:
            piece = self._stream.read(min(size, _CHUNK_BYTES))  # memory for what is there alone
            if not piece:
                raise self.broken(f"it is cut short at byte {self.offset}")
            pieces.append(piece)
            size -= len(piece)
            self.offset += len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def take_again(self, offset: int, size: int) -> bytes:
        """Bytes that lie before the position, which stays."""
        stream = getattr(self._stream, "again", self._stream)
        if not hasattr(stream, "seek"):
            raise DataError(
                f"{self.tar}: it has hard links and comes from where nothing is read twice",
                cure="copy it to a disk, or pack it with `tar --hard-dereference`",
            )
        stream.seek(offset)
        data: bytes = stream.read(size)
        stream.seek(self.offset)
        return data

    def skip_to(self, offset: int) -> None:
        if self._seek is not None and self._end is not None:
            if offset > self._end:
                raise self.broken(f"it is cut short at byte {self._end}")
            self._seek(offset)
            self.offset = offset
        while self.offset < offset:
            self.take(min(offset - self.offset, _CHUNK_BYTES))

    def check_end(self) -> None:
        """After one block of zeros: check that a second one follows, and nothing but zeros."""
        rest = self.take(BLOCK_BYTES)
        while rest:
            if rest.strip(b"\0"):
                raise self.broken(
                    f"something follows its end at byte {self.offset - len(rest)}",
                    "if tars were joined by cat, index each by itself; else fetch it again",
                )
            rest = self._stream.read(_CHUNK_BYTES)
            self.offset += len(rest)

    def broken(self, cause: str, cure: str = "fetch or write it again") -> DataError:
        return DataError(
            f"{self.tar}: this is no complete, uncompressed tar file ({cause})", cure=cure
        )


def _padded(size: int) -> int:
    return -(-size // BLOCK_BYTES) * BLOCK_BYTES


def _header(block: bytes, reader: _Reader, more: dict[bytes, bytes]) -> tarfile.TarInfo:
    """A member's header, with what extended headers say of it.

    The name in the header of a file with a long name is only the beginning of it, and may end with
    the slash that makes a directory of a file.
    """
    for magic, name in _COMPRESSED.items():
        if reader.offset == BLOCK_BYTES and block.startswith(magic):
            raise reader.broken(f"it is compressed by {name}", f"unpack it with {name} -d")
    try:
        info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.HeaderError as error:
        raise reader.broken(f"{reader.last_header} is damaged") from error
    size = more.get(b"size")
    if size is not None:
        if not size.isdigit() or len(size) > 20:
            raise reader.broken("an extended header is damaged")
        info.size = int(size)
    if info.size < 0:
        raise reader.broken(f"{reader.last_header} is damaged: a size of {info.size} bytes")
    if b"path" in more:
        info.type = block[156:157]
        info.name = more[b"path"].decode("utf-8", "surrogateescape")
    elif block[257:264] == _GNU_MAGIC:
        # GNU tar keeps dates where others keep the first part of a long name.
        info.name = block[:100].split(b"\0")[0].decode("utf-8", "surrogateescape")
    if info.type in _FILES and info.name.endswith("/") and not info.size:
        info.type = tarfile.DIRTYPE
    if b"linkpath" in more:
        info.linkname = more[b"linkpath"].decode("utf-8", "surrogateescape")
    return info


def _link(info: tarfile.TarInfo, reader: _Reader, places: dict[str, tuple[int, int]]) -> Member:
    """A link as the file that it leads to; ``places`` has (offset, size) of the files before it."""
    place = places.get(_plain(info.linkname)) if info.type == tarfile.LNKTYPE else None
    if place is not None:
        places[_plain(info.name)] = place
        return Member(info.name, *place, partial(reader.take_again, *place))
    what, cure = f"a symbolic link to {info.linkname}", "pack the file itself: tar --dereference"
    if info.type == tarfile.LNKTYPE:
        what = f"a hard link to {info.linkname}, which is not before it in this tar"
        cure = "pack the file itself: tar --hard-dereference"
    unusable = _unusable(reader.tar, info.name, what, cure)
    return Member(info.name, reader.offset, 0, partial(_refuse, unusable), unusable)


def _unusable(tar: str, name: str, what: str, cure: str) -> DataError:
    return DataError(f"{tar}: {name} is {what}", cure=cure)


def _refuse(error: DataError) -> NoReturn:
    raise error


def _plain(name: str) -> str:
    """A name as links and files have it in common."""
    while name.startswith("./"):
        name = name[2:].lstrip("/")
    return name


def _pax(content: bytes, reader: _Reader) -> dict[bytes, bytes]:
    """What a pax header says, a sequence of ``LENGTH KEY=VALUE`` lines: path, linkpath and size.

    The key ``sparse`` stands for all that speak of a sparse file.
    """
    found, begin = {}, 0
    while begin < len(content) and content[begin]:
        digits = content[begin : begin + 10].partition(b" ")[0]
        end = begin + int(digits) if digits.isdigit() else begin
        line = content[begin + len(digits) + 1 : end]
        key, equals, value = line.removesuffix(b"\n").partition(b"=")
        if end > len(content) or not equals:
            raise reader.broken("an extended header is damaged")
        if key in (b"path", b"linkpath", b"size"):
            found[key] = value.split(b"\0")[0]
        elif key.startswith(b"GNU.sparse."):
            found[b"sparse"] = value if key.endswith(b".name") else found.get(b"sparse", b"")
        begin = end
    if found.get(b"sparse"):  # its path is a made-up one
        found[b"path"] = found[b"sparse"]
    return found
