"""The JPEG libraries that decode, and which of them this machine has.

All wrap libjpeg-turbo with its accurate DCT, so they give the same pixels. Each decodes one image
before it is used: a library of another version than its headers, or one built without JPEG, would
otherwise be found in the middle of a run, or never.
"""

import importlib
import io
import re
import sys
from functools import lru_cache
from typing import Literal

import numpy as np
import torch
from PIL import Image

from rwp_dist.base.errors import ConfigError
from rwp_dist.data.image.jpeg import libjpeg
from rwp_dist.data.image.jpeg.header import JpegHeader, is_plain, jpeg_header, shortened
from rwp_dist.data.image.optional import BrokenLibraryError, optional_module
from rwp_dist.data.image.pixels import Pixels
from rwp_dist.data.image.regions import Region

Tier = Literal["auto", "libjpeg", "simplejpeg", "torchvision", "pil"]
FASTEST_FIRST: tuple[Tier, ...] = ("libjpeg", "simplejpeg", "torchvision", "pil")
"""What ``auto`` tries."""

_END = "d9"  # the marker of a JPEG's end
_EOI = b"\xff\xd9"

_REPAIRS = {
    "libjpeg": "install libjpeg-turbo and its headers in one version, and take other copies of "
    "them out of CPATH and LIBRARY_PATH",
    "simplejpeg": "install it anew (pip install --force-reinstall simplejpeg)",
    "torchvision": "install a torchvision that is built with libjpeg",
}


def choose_tier(wanted: Tier) -> Tier:
    """The tier that is asked for; of ``auto`` the fastest that works on this machine.

    Raises:
        ConfigError: the tier that is asked for is missing or does not work.
    """
    if wanted == "auto":
        return _fastest()
    if error := why_unusable(wanted):
        raise error
    return wanted


@lru_cache(maxsize=len(FASTEST_FIRST))
def why_unusable(tier: Tier) -> ConfigError | None:
    """Why a tier does not work on this machine; None if it does."""
    try:
        if tier == "libjpeg":
            libjpeg.library()
        elif tier == "simplejpeg":
            optional_module("simplejpeg")
        elif tier == "torchvision":
            _refuse_without_decode_jpeg()
        if tier != "pil":
            _decode_one(tier)
    except ConfigError as error:
        return error
    return None


def decode_region(
    tier: Tier, data: bytes, header: JpegHeader, channels: int, region: Region
) -> Pixels | None:
    """A region of a JPEG by one library: uint8 ``[height, width, channels]``.

    Whether a file is bad, and its pixels, must not depend on where the region lies. None if the
    library refuses the file, or if this is not sure: Pillow is to be asked then.
    """
    try:
        if tier == "libjpeg":
            return libjpeg.decode_region(data, channels, *region)
        if tier == "simplejpeg":
            return _by_simplejpeg(data, header, channels, region)
        if tier == "torchvision":
            return _by_torchvision(data, header, channels, region)
    except (ValueError, RuntimeError):
        pass
    return None


def crop(pixels: Pixels, region: Region) -> Pixels:
    """A region of an image, as a view."""
    left, top, width, height = region
    return pixels[top : top + height, left : left + width]


def _by_simplejpeg(data: bytes, header: JpegHeader, channels: int, region: Region) -> Pixels | None:
    if header.is_progressive and not is_plain(data, header):
        return None
    decode, space = optional_module("simplejpeg").decode_jpeg, "RGB" if channels == 3 else "GRAY"
    # Two rows more than the region, because upsampling of chroma looks one row ahead.
    rows = region.top + region.height + 2
    if rows >= header.height:
        return crop(decode(data, space), region)
    pixels = np.empty((rows, header.width, channels), dtype=np.uint8)
    try:
        decode(shortened(data, header, rows), space, buffer=pixels)
    except ValueError as error:
        # It names what it meets first behind the rows: that there is more is no error. Without
        # `strict` it would forgive others too, and give what was in memory for pixels.
        rest = re.search("extraneous bytes before marker 0x(..)", str(error))
        if rest is None or (rest[1] != _END and not is_plain(data, header)):
            return None
    return crop(pixels, region)


def _by_torchvision(
    data: bytes, header: JpegHeader, channels: int, region: Region
) -> Pixels | None:
    from torchvision.io import ImageReadMode, decode_jpeg

    is_cut = data.rfind(_EOI, header.height_at) < 0  # of which it would print a warning
    if is_cut or (header.is_progressive and not is_plain(data, header)):
        return None
    encoded = torch.frombuffer(bytearray(data), dtype=torch.uint8)
    mode = ImageReadMode.RGB if channels == 3 else ImageReadMode.GRAY
    return crop(decode_jpeg(encoded, mode=mode).permute(1, 2, 0).numpy(), region)


@lru_cache(maxsize=1)
def _fastest() -> Tier:
    """Says once on stderr which libraries do not work, though they are installed."""
    broken = []
    for tier in FASTEST_FIRST:
        error = why_unusable(tier)
        if error is None:
            break
        if isinstance(error, BrokenLibraryError):
            broken.append(error.problem)
    for problem in broken:
        print(f"data.decoder=auto: {problem}; {tier} decodes instead.", file=sys.stderr, flush=True)
    return tier


def _refuse_without_decode_jpeg() -> None:
    if not hasattr(importlib.import_module("torchvision.io"), "decode_jpeg"):
        raise ConfigError(
            "this torchvision has no decode_jpeg (it is moving to TorchCodec)",
            key="data.decoder",
            cure="choose data.decoder=auto",
        )


def _decode_one(tier: Tier) -> None:
    """Decode a region of one image.

    Without subsampling, because other libraries than libjpeg-turbo, which Pillow may be built with,
    smooth colours in another way.

    Raises:
        BrokenLibraryError: the pixels are not Pillow's.
    """
    buffer = io.BytesIO()
    values = (7 * np.arange(24 * 24 * 3)).astype(np.uint8).reshape(24, 24, 3)
    Image.fromarray(values).save(buffer, "jpeg", quality=90, subsampling=0)
    data, region = buffer.getvalue(), Region(5, 3, 9, 11)
    header = jpeg_header(data)
    assert header is not None, "Pillow writes a plain JPEG"
    try:
        pixels = decode_region(tier, data, header, 3, region)
    except Exception:  # functions that are missing, for example
        pixels = None
    if pixels is None or not np.array_equal(pixels, crop(np.asarray(Image.open(buffer)), region)):
        what = "refuses a good JPEG" if pixels is None else "decodes a JPEG to wrong pixels"
        raise BrokenLibraryError(
            f"{tier} {what}: it lacks libjpeg-turbo, or runs with another version than it was "
            "compiled for",
            key="data.decoder",
            cure=f"{_REPAIRS[tier]}, or choose data.decoder=auto",
        )
