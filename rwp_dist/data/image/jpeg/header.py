"""What the frame header of a JPEG says, read without a library."""

from typing import NamedTuple


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


def jpeg_header(data: bytes) -> JpegHeader | None:
    """Read the header (ITU-T T.81, annex B). None: these bytes are not plainly a JPEG.

    Plainly: Huffman coded, baseline, extended or progressive, with the height in the header.
    """
    if data[:3] != b"\xff\xd8\xff":
        return None
    at, end = 2, len(data) - 9
    while at < end and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:  # a fill byte
            at += 1
        elif marker in (0xC0, 0xC1, 0xC2):
            height = data[at + 5] << 8 | data[at + 6]
            width = data[at + 7] << 8 | data[at + 8]
            plain = height and width  # a height of 0 comes after the scan: left to Pillow
            return JpegHeader(width, height, data[at + 9], at + 5) if plain else None
        else:
            at += 2 + (data[at + 2] << 8 | data[at + 3])
    return None


def has_end(data: bytes) -> bool:
    """Whether the file has its end marker, so that it is not cut."""
    return b"\xff\xd9" in data[-32:]


def shortened(data: bytes, header: JpegHeader, height: int) -> bytes:
    """The same JPEG with a smaller height in its header: a decoder stops there."""
    at = header.height_at
    return b"".join((data[:at], height.to_bytes(2, "big"), data[at + 2 :]))
