"""Tars as other tools write them, and headers that lie."""

import gzip
import io
import random
import tarfile
import time
from collections import Counter

import pytest

from rwp_dist.base.errors import DataError
from rwp_dist.data.format.tar import BLOCK_BYTES, read_members

FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}
END = bytes(2 * BLOCK_BYTES)


def member(name, data=b"", *, format=tarfile.USTAR_FORMAT, patch=(), **fields):
    """A member's blocks; ``patch``: (place, bytes) written into its last header."""
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for key, value in fields.items():
        setattr(info, key, value)
    blocks = bytearray(info.tobuf(format))
    head = blocks[-BLOCK_BYTES:]
    for place, content in patch:
        head[place : place + len(content)] = content
    head[148:156] = b" " * 8
    head[148:156] = b"%06o\0 " % sum(head)
    return bytes(blocks[:-BLOCK_BYTES] + head) + data + bytes(-len(data) % BLOCK_BYTES)


def pax(**records):
    """A pax header with these records."""
    lines = b""
    for key, value in records.items():
        line = f" {key.replace('__', '.')}={value}\n".encode()
        length = len(line) + len(str(len(line) + 2))
        lines += str(length).encode() + line
    return member("pax", lines, type=tarfile.XHDTYPE)


def contents(data, left_out=None):
    """{name: content} of a tar's files."""
    return {m.name: m.read() for m in read_members(io.BytesIO(data), "x.tar", left_out)}


class _NoSeek:
    def __init__(self, data):
        self.rest = io.BytesIO(data)

    def read(self, size):
        assert size <= 1 << 20, "memory is asked for that nobody may need"
        return self.rest.read(size)


SIZES = {
    "-512": ((1 << 96) - 512).to_bytes(12, "big"),
    "-1": b"\xff" * 12,
    "-64 in octal digits": b"-00000000100",
    "2**62": b"\x80" + (2**62).to_bytes(11, "big"),
    "2**84": b"\x80" + (2**84).to_bytes(11, "big"),
    "8 GiB": b"77777777777\0",
}


@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE, b"?"])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("seekable", [True, False])
def test_a_size_that_cannot_be_is_refused_at_once(kind, size, seekable):
    data = member("a.cls", b"1") + member("b.cls", type=kind, patch=[(124, SIZES[size])]) + END
    stream = io.BytesIO(data) if seekable else _NoSeek(data)
    with pytest.raises(DataError, match=r"x\.tar: .*(byte 1024|cut short)") as refused:
        for number, found in enumerate(read_members(stream, "x.tar")):
            assert number < 3, "it goes round"
            if not seekable:
                found.read()
    assert refused.value.cure


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("length", [*range(95, 103), 140, 154])
def test_names_of_any_length_are_whole(format, length):
    names = ["d" * (length - 6) + "/" + f"{i:05d}" for i in range(3)] + ["e" * (length - 1) + "/x"]
    data = b"".join(member(n, n.encode(), format=FORMATS[format]) for n in names) + END
    assert contents(data) == {name: name.encode() for name in names}


def test_gnus_dates_are_no_part_of_a_name():
    magic = [(257, b"ustar  \0"), (345, b"14512345670\0")]
    assert contents(member("a.png", b"x", patch=magic) + END) == {"a.png": b"x"}


@pytest.mark.parametrize("format", FORMATS)
def test_a_hard_link_has_the_content_of_its_target(format):
    long, further = "./a" * 40 + ".png", "b" * 99 + "/c.png"
    if format == "ustar":
        long, further = "./a.png", "b/c.png"
    links = [(further, long.removeprefix("./")), ("last.png", further)]
    data = member(long, b"content", format=FORMATS[format])
    for name, target in links:
        data += member(name, format=FORMATS[format], type=tarfile.LNKTYPE, linkname=target)
    expected = dict.fromkeys([long, further, "last.png"], b"content") | {"z": b"after"}
    assert contents(data + member("z", b"after") + END) == expected


def test_links_to_nowhere_and_symbolic_ones_are_named_with_the_cure():
    for kind, cure in ((tarfile.LNKTYPE, "--hard-dereference"), (tarfile.SYMTYPE, "--dereference")):
        data = member("a.png", type=kind, linkname="gone.png") + member("b", b"1") + END
        first, second = read_members(io.BytesIO(data), "x.tar")
        with pytest.raises(DataError, match=f"x.tar: a.png is .* link to gone.png.*{cure}"):
            first.read()
        assert first.unusable is not None and second.unusable is None


def test_hard_links_of_what_is_read_once_are_refused():
    data = member("a", b"1") + member("b", type=tarfile.LNKTYPE, linkname="a") + END
    with pytest.raises(DataError, match=r"hard links .*--hard-dereference"):
        [found.read() for found in read_members(_NoSeek(data), "x.tar")]


def test_extended_headers_hold_for_the_next_member_alone():
    long = member("././@LongLink", b"n" * 120 + b"\0", type=tarfile.GNUTYPE_LONGNAME)
    link = member("././@LongLink", b"t" * 120 + b"\0", type=tarfile.GNUTYPE_LONGLINK)
    everywhere = member("pax", b"16 comment=hello\n", type=tarfile.XGLTYPE)
    target = member("././@LongLink", b"t" * 120, type=tarfile.GNUTYPE_LONGNAME) + member("t", b"1")
    for first, second in ((long, link), (link, long)):
        data = everywhere + target + first + second
        data += member("n", type=tarfile.LNKTYPE, linkname="t") + member("z", b"2") + END
        assert contents(data) == {"t" * 120: b"1", "n" * 120: b"1", "z": b"2"}


def test_a_pax_header_gives_the_size():
    data = pax(size=3) + member("a", patch=[(124, b"00000000000\0")])
    data += b"abc" + bytes(509) + member("z", b"2") + END
    assert contents(data) == {"a": b"abc", "z": b"2"}
    for size in ("-1", "1e3", "9" * 5000, ""):
        with pytest.raises(DataError, match=r"x\.tar: .*extended header is damaged"):
            contents(pax(size=size) + member("a", b"abc") + END)


def test_damaged_pax_headers_are_refused_in_bounded_time():
    began = time.process_time()
    for content in (b"1 " * 500_000, b"9" * 1_000_000, b"99 path=x\n", b"5 ab\n", b"0 a=b\n"):
        with pytest.raises(DataError, match=r"x\.tar: .*extended header is damaged"):
            contents(member("pax", content, type=tarfile.XHDTYPE) + member("a", b"1") + END)
    assert time.process_time() - began < 5


def test_sparse_files_are_not_taken_for_their_map():
    data = pax(GNU__sparse__name="a.png", path="GNUSparseFile.1/a.png", GNU__sparse__major=1)
    (found,) = read_members(io.BytesIO(data + member("x", b"1\n0\n9\n") + END), "x.tar")
    with pytest.raises(DataError, match=r"x\.tar: a\.png is a sparse file; pack it without"):
        found.read()


def test_what_holds_no_file_is_counted():
    left_out = Counter()
    kinds = (tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.DIRTYPE, b"V")
    data = b"".join(member(f"m{kind!r}", type=kind) for kind in kinds) + member("a", b"1") + END
    assert contents(data, left_out) == {"a": b"1"}
    assert left_out == {"device or pipe": 2, "member of an unknown type": 1}


def test_joined_and_compressed_tars_are_refused_with_their_cure():
    data = member("a", b"1") + END
    with pytest.raises(DataError, match=r"something follows its end .*joined by cat, index each"):
        contents(data + data)
    with pytest.raises(DataError, match=r"compressed by gzip.*unpack it with gzip -d"):
        contents(gzip.compress(data + random.Random(0).randbytes(2000)))
