"""Which images are good, and what their pixels are: Pillow's word, for every tool and decoder.

Imports no torch, because ``rwp_dist.shards`` uses it.
"""

import io
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import numpy as np
from PIL import ExifTags, Image
from PIL.PngImagePlugin import PngImageFile

from rwp_dist.base.errors import DataError

MAX_PIXELS = 2**27
"""Larger images are refused: a few bytes of header must not claim gigabytes of memory."""

GREY = ("L", "I", "F", "I;16", "I;16L", "I;16B", "I;16N")
"""Pillow's modes of grey with 8 bits and more, without alpha."""

TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What each orientation tag of EXIF asks for."""

_TAGS_OF_PNG = (b"eXIf", b"Raw profile type exif", b"XML:com.adobe.xmp")


class UndecodableImage(DataError):  # noqa: N818 - what it is, not what to do about it
    """Bytes that no decoder takes for an image; the sample is bad."""


def open_image(data: bytes, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """The image with its header read; its pixels are not decoded yet.

    ``max_pixels``: the most that it may have.

    Raises:
        UndecodableImage: the bytes do not begin like an image, or it is too large.
    """
    with _errors_and_warnings():
        image = Image.open(io.BytesIO(data))
    if image.format == "EPS":  # a program, which Pillow would have Ghostscript run
        raise UndecodableImage("no decoder takes this image: PostScript is never run.")
    if math.prod(image.size) > max_pixels:
        raise UndecodableImage(f"an image of {image.width}x{image.height} is too large.")
    return image


def converted(image: Image.Image, mode: Literal["L", "RGB"]) -> Image.Image:
    """The image in 8-bit grey or colours; transparency is dropped, a colour profile is not used.

    Raises:
        UndecodableImage: its data are damaged.
    """
    # Pillow warns where the palette has it, and nothing reads it.
    image.info.pop("transparency", None)
    with _errors_and_warnings():
        image = _eight_bits(image)
        if image.mode != mode:
            return image.convert(mode)
        image.load()  # a copy of the pixels would take as long as a third of decoding them
        return image


def has_alpha(image: Image.Image) -> bool:
    """Whether an image may be transparent: by a channel, a palette, or one colour."""
    palette = getattr(image.palette, "mode", "")  # a PNG may lack it
    return image.mode[-1] in "Aa" or palette == "RGBA" or "transparency" in image.info


def on_background(image: Image.Image, colour: tuple[int, int, int]) -> Image.Image:
    """The image in RGB with alpha, of any kind, blended with a background of one colour.

    Raises:
        UndecodableImage: its data are damaged.
    """
    with _errors_and_warnings():
        opaque = Image.new("RGBA", image.size, colour)
        return Image.alpha_composite(opaque, _with_alpha(image)).convert("RGB")


def orientation(data: bytes) -> int:
    """How an image is to be turned when it is shown: the EXIF tag, 1 (not at all) to 8.

    What Pillow's ``exif_transpose`` would do, XMP included. 1 if there is no tag, if it is broken,
    or if the bytes are no image.
    """
    # To find a tag behind the pixels of a PNG, Pillow decodes them.
    if data.startswith(b"\x89PNG") and not any(word in data for word in _TAGS_OF_PNG):
        return 1
    try:
        image = open_image(data)
        if image.format == "TIFF":  # Pillow turns these by itself
            return 1
        with _errors_and_warnings():
            tag = image.getexif().get(ExifTags.Base.Orientation)
            return int(tag) if tag in TURNS else 1
    except UndecodableImage:
        return 1


def why_undecodable(data: bytes) -> str:
    """Why an image is bad; empty if it is good."""
    try:
        converted(open_image(data), "RGB")
    except UndecodableImage as error:
        return str(error).removeprefix("no decoder takes this image: ").rstrip(".")
    return ""


@contextmanager
def _errors_and_warnings() -> Iterator[None]:
    """Ignore Pillow's warnings; its errors become ``UndecodableImage``."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # odd metadata; a size that MAX_PIXELS judges
            yield
    except Image.DecompressionBombError as error:
        raise UndecodableImage("the image is too large.") from error
    except Exception as error:  # Pillow's plugins raise whatever broken bytes lead them to
        raise UndecodableImage(f"no decoder takes this image: {_cause(error)}.") from error


def _with_alpha(image: Image.Image) -> Image.Image:
    """The image in RGBA.

    A PNG without alpha may name one transparent colour, in the bits of the file. Pillow compares it
    with pixels of 8 bits.
    """
    colour = image.info.get("transparency")
    bits = ""
    if isinstance(image, PngImageFile) and image.tile:
        bits = str(image.tile[0][3]).partition(";")[2]
    if image.mode.startswith("I;16"):
        alpha = np.where(np.asarray(image) == colour, 0, 255).astype(np.uint8)
        image = _eight_bits(image).convert("RGB")
        image.putalpha(Image.fromarray(alpha))
    elif bits in ("2", "4") and image.mode == "L" and colour is not None:
        image.info["transparency"] = colour * (85 if bits == "2" else 17)
    elif bits == "16B" and image.mode == "RGB" and colour is not None:
        image.info["transparency"] = tuple(value >> 8 for value in colour)
    return _eight_bits(image).convert("RGBA")


def _eight_bits(image: Image.Image) -> Image.Image:
    """Grey of more than 8 bits scaled to 8: Pillow's ``convert`` would make all above 255 white.

    Of 16 bits the upper 8 are kept, as Pillow does with colours of 16 bits. Integers of 32 bits
    and floats do not say their range: it is the first of 1 (floats), 255, 65,535 and 2^32 - 1
    that holds their largest.
    """
    if image.mode == "La":  # grey times alpha, in a TIFF: Pillow converts it to nothing else
        return image.convert("LA")
    if image.mode.startswith("I;16"):
        values = np.asarray(image)
        return Image.fromarray((values >> 8).astype(np.uint8))
    if image.mode not in ("I", "F"):
        return image
    values = np.asarray(image, dtype=np.float64)
    top = values.max(initial=0, where=np.isfinite(values))
    values = np.nan_to_num(values, posinf=top).clip(min=0)
    ranges = [255, 2**16 - 1, 2**32 - 1]
    if image.mode == "F":
        ranges.insert(0, 1)
    if image.format in ("PNG", "PPM"):  # always of 16 bits here
        ranges = [2**16 - 1]
    largest = values.max()
    end = next((end for end in ranges if largest <= end), largest)
    step = (end + 1) / 256 if end > 255 else end / 255
    return Image.fromarray((values / step).clip(max=255).astype(np.uint8))


def _cause(error: Exception) -> str:
    # Pillow names the buffer in memory that it read from.
    return str(error).partition(" <_io")[0] or type(error).__name__
