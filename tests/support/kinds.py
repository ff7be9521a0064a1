"""Image files of many kinds: those that other tools leave behind, whole and damaged.

Those in ``fixtures/jpeg`` are 37x29 pixels, written by libjpeg-turbo's encoder with the settings
that their names tell.
"""

import io
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from support.pictures import encoded, picture

JPEG = encoded(picture(), quality=90)
SOI, EOI = b"\xff\xd8", b"\xff\xd9"


def segment(marker, content):
    """A marker of a JPEG with its content."""
    return b"\xff" + bytes([marker]) + (len(content) + 2).to_bytes(2, "big") + content


def inserted(data, *segments):
    """A JPEG with more segments at its beginning."""
    return SOI + b"".join(segments) + data[2:]


def without(data, marker):
    """A JPEG without its first segment of a kind."""
    at = data.index(bytes([0xFF, marker]))
    return data[:at] + data[at + 2 + int.from_bytes(data[at + 2 : at + 4], "big") :]


def adobe(transform):
    """Adobe's marker. Transform 0: RGB or CMYK; 1: YCbCr; 2: YCCK."""
    return segment(0xEE, b"Adobe\0\x64\0\0\0\0" + bytes([transform]))


def patched(data, marker, offset, *values):
    """A JPEG with other bytes in a segment, from ``offset`` behind its length on."""
    at = data.index(bytes([0xFF, marker])) + 4 + offset
    return data[:at] + bytes(values) + data[at + len(values) :]


def lossless():
    """A grey JPEG of 8x8 pixels without a cosine transform: every difference is 0."""
    frame = segment(0xC3, struct.pack(">BHHB", 8, 8, 8, 1) + b"\1\x11\0")
    table = segment(0xC4, b"\0\1" + bytes(15) + b"\0")
    scan = segment(0xDA, b"\1\1\0\1\0\0")
    return SOI + frame + table + scan + bytes(8) + EOI


def chunk(kind, data):
    """A part of a PNG."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width, height, bits, colour, rows, *extra):
    """A PNG of packed rows. Colour 0: grey, 2: RGB, 3: palette, 4: grey and alpha, 6: RGBA."""
    head = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row for row in rows))
    parts = [chunk(b"IHDR", head), *extra, chunk(b"IDAT", pixels), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def exif(orientation, kind=3):
    """EXIF data with an orientation; kind 3 is the right one, a short."""
    value = struct.pack("<HH", orientation, 0)
    return b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<HHHI", 1, 0x112, kind, 1) + value + bytes(4)


def xmp(orientation):
    """An XMP packet with an orientation."""
    return b'<x:xmpmeta><rdf:Description tiff:Orientation="%d"/></x:xmpmeta>' % orientation


def _animated(kind, **options):
    frames = [picture(seed=seed) for seed in range(3)]
    return encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)


_CMYK = encoded(picture().convert("CMYK"))
_RGB = encoded(picture(), quality=90, subsampling="4:4:4")
_THUMBNAIL = encoded(picture(12, 16))
_PALETTE = picture().convert("P", palette=Image.Palette.ADAPTIVE)
_ALPHA = picture()
_ALPHA.putalpha(picture(channels=1, seed=1))
_GREY_ALPHA = picture(channels=1)
_GREY_ALPHA.putalpha(picture(channels=1, seed=1))


def _few(colours):
    return picture().convert("P", palette=Image.Palette.ADAPTIVE, colors=colours)


_FIXTURES = Path(__file__).parents[1] / "fixtures" / "jpeg"

JPEGS = {
    **{path.stem: path.read_bytes() for path in sorted(_FIXTURES.iterdir())},
    "baseline": JPEG,
    "progressive": encoded(picture(), progressive=True),
    "restarts": encoded(picture(), restart_marker_blocks=3),
    "restarts, no end": encoded(picture(), restart_marker_blocks=3)[:-2],
    "grey": encoded(picture(channels=1)),
    "cmyk of adobe": _CMYK,
    "cmyk without adobe": without(_CMYK, 0xEE),
    "ycck": patched(_CMYK, 0xEE, 11, 2),
    "rgb": inserted(without(_RGB, 0xE0), adobe(0)),
    "adobe, yet jfif": inserted(_RGB, adobe(0)),
    "unknown adobe": inserted(without(_RGB, 0xE0), adobe(7)),
    "12 bits": patched(JPEG, 0xC0, 0, 12),
    "lossless": lossless(),
    "large metadata": inserted(JPEG, *[segment(0xE1, b"Exif\0\0" + bytes(65_000))] * 5),
    "large profile": encoded(picture(), icc_profile=bytes(200_000)),
    "long comment": inserted(JPEG, segment(0xFE, b"\xff\xd9\xff\xda" * 10_000)),
    "jfif thumbnail": inserted(JPEG, segment(0xE0, b"JFXX\0\x10" + _THUMBNAIL)),
    "exif thumbnail": inserted(JPEG, segment(0xE1, exif(6) + _THUMBNAIL)),
    "broken exif": inserted(JPEG, segment(0xE1, b"Exif\0\0II*\0\xff\xff\xff\xff")),
    "broken profile": inserted(JPEG, segment(0xE2, b"ICC_PROFILE\0\x01\x09abc")),
    "broken photoshop": inserted(JPEG, segment(0xED, b"Photoshop 3.0\x008BIM\x04")),
    "short jfif": inserted(JPEG, segment(0xE0, b"JFIF")),
    "fill bytes": JPEG[:2] + b"\xff\xff\xff" + JPEG[2:],
    "several images": _animated("mpo"),
    "another after it": JPEG + encoded(picture(8, 8)),
    "text after it": JPEG + b"trailing\r\n" * 20,
    "zeros after it": JPEG + bytes(5000),
    "zeros before the end": JPEG[:-2] + bytes(50) + EOI,
    "no end": JPEG[:-2],
    "half an end": JPEG[:-1],
    "a byte before it": b"\n" + JPEG,
    "garbage before it": b"HTTP/1.1 200 OK\r\n\r\n" + JPEG,
    "a mark before it": b"\xef\xbb\xbf" + JPEG,
    "line ends of windows": JPEG.replace(b"\n", b"\r\n"),
    "line ends of unix": JPEG.replace(b"\r\n", b"\n").replace(b"\r", b"\n"),
    "as text in utf-8": JPEG.decode("latin-1").encode(),
    "seven bits": bytes(byte & 127 for byte in JPEG),
    "no tables": without(JPEG, 0xC4),
    "no quantization": without(JPEG, 0xDB),
    "bytes between segments": inserted(JPEG, segment(0xFE, b"a") + b"bcd"),
    "bytes before the scan": (b"abc\xff\xda").join(JPEG.split(b"\xff\xda", 1)),
    "two frames": inserted(JPEG, JPEG[JPEG.index(b"\xff\xc0") :][:19]),
    "half": JPEG[: len(JPEG) // 2],
    "header alone": JPEG[: JPEG.index(b"\xff\xda")],
    "marker alone": SOI,
}
"""Of JPEGs; some are damaged."""

OTHERS = {
    "nothing": b"",
    "zeros": bytes(1000),
    "a page instead": b"<!DOCTYPE html><html><body>404 Not Found</body></html>",
    "a pointer instead": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n",
    "postscript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 20 20\n%%EndComments\nshowpage\n",
    **{
        f"palette of {bits} bits": encoded(_few(2**bits), "png", bits=bits) for bits in (1, 2, 4, 8)
    },
    "palette, transparent": encoded(_PALETTE, "png", transparency=bytes(range(256))),
    "palette, one transparent": encoded(_PALETTE, "png", transparency=3),
    "short palette": png(4, 1, 8, 3, [b"\0\1\2\xff"], chunk(b"PLTE", b"\1\2\3\4\5\6")),
    "no palette": png(4, 1, 8, 3, [b"\0\1\2\xff"]),
    "1 bit": encoded(picture().convert("1"), "png"),
    "1 bit tiff": encoded(picture().convert("1"), "tiff"),
    "2 bits": png(4, 1, 2, 0, [b"\x1b"]),
    "4 bits": png(4, 1, 4, 0, [b"\x1b\x9f"]),
    "grey": encoded(picture(channels=1), "png"),
    "grey, transparent": encoded(picture(channels=1), "png", transparency=5),
    "rgb": encoded(picture(), "png"),
    "rgb, transparent": encoded(picture(), "png", transparency=(1, 2, 3)),
    "rgb of 16 bits": png(2, 1, 16, 2, [bytes(range(12))]),
    "grey and alpha": encoded(_GREY_ALPHA, "png"),
    "grey and alpha of 16 bits": png(2, 1, 16, 4, [bytes(range(40, 48))]),
    "rgb and alpha": encoded(_ALPHA, "png"),
    "rgb and alpha of 16 bits": png(1, 1, 16, 6, [bytes(range(40, 48))]),
    "palette and alpha tiff": encoded(_PALETTE.convert("RGBA").convert("PA"), "tiff"),
    "cmyk tiff": encoded(picture().convert("CMYK"), "tiff"),
    "ycbcr tiff": encoded(picture().convert("YCbCr"), "tiff"),
    "lab tiff": encoded(Image.new("LAB", (9, 7)), "tiff"),
    "bmp": encoded(picture(), "bmp"),
    "gif": encoded(_PALETTE, "gif"),
    "animated gif": _animated("gif"),
    "animated png": _animated("png"),
    "animated webp": _animated("webp"),
    "webp": encoded(picture(), "webp"),
    "webp and alpha": encoded(_ALPHA, "webp", lossless=True),
    "jpeg 2000": encoded(picture(), "jpeg2000"),
    "netpbm": encoded(picture(), "ppm"),
    "heic": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(200),
    "cut png": encoded(picture(), "png")[:-2000],
    "cut webp": encoded(picture(), "webp")[:-300],
    "cut gif": encoded(_PALETTE, "gif")[:-300],
    "cut tiff": encoded(picture(), "tiff")[:-3000],
    "png as text": encoded(picture(), "png").replace(b"\r\n", b"\n"),
    "png without its end": encoded(picture(), "png")[:-12],
    "png and more": encoded(picture(), "png") + b"more" * 9,
}
"""Files that are no JPEGs, whatever they are called."""


def by_pillow(data, channels=3):
    """The pixels of Pillow's own ``convert``, ``[H, W, channels]``; None if it refuses the file."""
    mode = "RGB" if channels == 3 else "L"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's own
            image = Image.open(io.BytesIO(data))
            image.draft(mode, image.size)  # grey from a JPEG is its luminance as stored
            image.info.pop("transparency", None)
            pixels = np.asarray(image.convert(mode))
    except Exception:
        return None
    return pixels.reshape(*pixels.shape[:2], channels)
