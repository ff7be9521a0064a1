"""What the frame header of a JPEG says, read without a library."""

import re
from typing import NamedTuple

_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
"""After coded data: neither a stuffed zero nor a restart."""

_SHORTEST = {0xE0: 9, 0xE2: 16, 0xEE: 9}
"""Bytes of JFIF's, ICC's and Adobe's segments without which Pillow refuses a file."""

_MOST_SIDE = 65_500
"""Pixels that libjpeg takes."""


class JpegHeader(NamedTuple):
    """Size and kind of a JPEG."""

    width: int
    """In pixels."""
    height: int
    """In pixels."""
    components: int
    """1 grey, 3 colours, 4 CMYK."""
    height_at: int
    """Where the two bytes of the height are."""
    is_progressive: bool
    """Whether its coefficients come in several scans, each with more bits."""


def jpeg_header(data: bytes | memoryview) -> JpegHeader | None:
    """Read the header (ITU-T T.81, annex B). None: these bytes are not plainly a JPEG.

    Plainly: Huffman coded, baseline, extended or progressive, with the height in the header, and
    nothing but segments up to the first scan.
    """
    if data[:3] != b"\xff\xd8\xff":
        return None
    header, at, end = None, 2, len(data) - 9
    while at < end and data[at] == 0xFF:
        marker, length = data[at + 1], data[at + 2] << 8 | data[at + 3]
        if marker == 0xFF:  # a fill byte
            at += 1
            continue
        if marker == 0xDA:  # the scan
            return header
        if marker in (0xC0, 0xC1, 0xC2):
            height = data[at + 5] << 8 | data[at + 6]
            width = data[at + 7] << 8 | data[at + 8]
            # Left to Pillow: a height of 0 comes after the scan. And what libjpeg refuses as a
            # whole must not be decoded down to a crop.
            if not (0 < height <= _MOST_SIDE and 0 < width <= _MOST_SIDE):
                return None
            header = JpegHeader(width, height, data[at + 9], at + 5, marker == 0xC2)
        if _has_no_length(marker) or length < _SHORTEST.get(marker, 2):
            return None
        at += 2 + length
    return None


def _has_no_length(marker: int) -> bool:
    return marker < 0xC0 or 0xD0 <= marker <= 0xD9


def is_plain(data: bytes, header: JpegHeader) -> bool:
    """Whether a crop is sure to be that part of the whole image, and bad if that is.

    Not where anything but the end follows a baseline scan: the file is cut there, or damaged, and
    a crop above does not reach it. Nor where a progressive file lacks bits of its coefficients:
    libjpeg smooths such blocks by those around them, and not every version alike.
    """
    at, components = header.height_at - 5, header.components
    names = data[at + 10 : at + 10 + 3 * components : 3]
    lacking = {name: [1] * 64 for name in names}  # where coefficients have bits to come
    while data[at : at + 1] == b"\xff" and at + 3 < len(data):
        marker, begin = data[at + 1], at
        if _has_no_length(marker):
            return False
        at = end = begin + 2 + (data[begin + 2] << 8 | data[begin + 3])
        if marker != 0xDA:
            continue
        found = _MARKER.search(data, end)
        if found is None:
            return False
        at, is_end = found.start(), found.group() == b"\xff\xd9"
        if not header.is_progressive:
            return is_end
        first, last, bits = data[end - 3 : end]
        for name in data[begin + 5 : end - 3 : 2]:
            if name in lacking:
                lacking[name][first : last + 1] = [bits & 15] * (last + 1 - first)
        if is_end:
            return len(lacking) == components and not any(map(any, lacking.values()))
    return False


def shortened(data: bytes, header: JpegHeader, height: int) -> bytes:
    """The same JPEG with a smaller height in its header: a decoder stops there."""
    at = header.height_at
    return b"".join((data[:at], height.to_bytes(2, "big"), data[at + 2 :]))
