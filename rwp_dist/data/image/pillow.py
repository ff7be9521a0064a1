"""Which images are good, and what their pixels are: Pillow's word, for every tool and decoder.

Imports no torch, because ``rwp_dist.shards`` uses it.
"""

import io
import math
import warnings
from typing import Literal

import numpy as np
from PIL import Image

from rwp_dist.base.errors import DataError

MAX_PIXELS = 2**27
"""Larger images are refused: a few bytes of header must not claim gigabytes of memory."""

GREY = ("L", "I", "F", "I;16", "I;16L", "I;16B", "I;16N")
"""Pillow's modes of grey with 8 bits and more, without alpha."""


class UndecodableImage(DataError):  # noqa: N818 - what it is, not what to do about it
    """Bytes that no decoder takes for an image; the sample is bad."""


def open_image(data: bytes) -> Image.Image:
    """The image with its header read; its pixels are not decoded yet.

    Raises:
        UndecodableImage: the bytes do not begin like an image, or it is too large.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # odd metadata; a size that MAX_PIXELS judges
            image = Image.open(io.BytesIO(data))
    except Image.DecompressionBombError as error:
        raise UndecodableImage("the image is too large.") from error
    except Exception as error:  # Pillow's plugins raise whatever broken bytes lead them to
        raise UndecodableImage(f"no decoder takes this image: {_cause(error)}.") from error
    if math.prod(image.size) > MAX_PIXELS:
        raise UndecodableImage(f"an image of {image.width}x{image.height} is too large.")
    return image


def converted(image: Image.Image, mode: Literal["L", "RGB"]) -> Image.Image:
    """The image in 8-bit grey or colours; transparency is dropped.

    Raises:
        UndecodableImage: its data are damaged.
    """
    # Pillow warns where the palette has it, and nothing reads it.
    image.info.pop("transparency", None)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _eight_bits(image).convert(mode)
    except Exception as error:  # as above
        raise UndecodableImage(f"no decoder takes this image: {_cause(error)}.") from error


def why_undecodable(data: bytes) -> str:
    """Why an image is bad; empty if it is good."""
    try:
        converted(open_image(data), "RGB")
    except UndecodableImage as error:
        return str(error).removeprefix("no decoder takes this image: ").rstrip(".")
    return ""


def _eight_bits(image: Image.Image) -> Image.Image:
    """Grey of more than 8 bits scaled to 8: Pillow's ``convert`` would make all above 255 white.

    Of 16 bits the upper 8 are kept, as Pillow does with colours of 16 bits. Integers of 32 bits
    and floats do not say their range: it is the first of 1 (floats), 255, 65,535 and 2^32 - 1
    that holds their largest.
    """
    if image.mode.startswith("I;16"):
        values = np.asarray(image)
        return Image.fromarray((values >> 8).astype(np.uint8))
    if image.mode not in ("I", "F"):
        return image
    values = np.nan_to_num(np.asarray(image, dtype=np.float64)).clip(min=0)
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
