"""Encoded images become uint8 arrays: several decoders with one behaviour.

``Decoder`` picks a tier (a JPEG library) and falls back to Pillow for whatever that tier cannot
take: other formats, CMYK, files that a strict decoder rejects. A sample counts as undecodable
only when Pillow refuses it too. As in torchvision's ``ImageFolder``, EXIF orientation is ignored.
All tiers wrap libjpeg-turbo with its accurate DCT, so they give the same pixels.
"""

import importlib
from typing import Literal

import numpy as np
import torch

from rwp_dist.base.errors import ConfigError
from rwp_dist.data.image.jpeg import libjpeg
from rwp_dist.data.image.jpeg.header import JpegHeader, is_plain, jpeg_header, shortened
from rwp_dist.data.image.optional import is_installed, optional_module
from rwp_dist.data.image.pillow import MAX_PIXELS, UndecodableImage, converted, open_image
from rwp_dist.data.image.pixels import Pixels
from rwp_dist.data.image.regions import Region

Tier = Literal["auto", "libjpeg", "simplejpeg", "torchvision", "pil"]
FASTEST_FIRST: tuple[Tier, ...] = ("libjpeg", "simplejpeg", "torchvision", "pil")
"""What ``auto`` tries."""


class Decoder:
    """Decodes one image at a time.

    Args:
        tier: ``libjpeg`` decodes only the region of a crop; it compiles two small C files at its
            first use. ``simplejpeg`` leaves out the rows below the region. ``torchvision`` and
            ``pil`` decode the whole image. ``auto`` is the first of these that this machine has.
        channels: 1 (grey) or 3 (RGB), whatever the file holds.

    Raises:
        ConfigError: the tier's library is missing.
    """

    def __init__(self, tier: Tier = "auto", channels: int = 3) -> None:
        if tier == "auto":
            tier = next(name for name in FASTEST_FIRST if _is_available(name))
        elif tier == "libjpeg":
            libjpeg.library()
        elif tier == "simplejpeg":
            optional_module("simplejpeg")
        elif not _is_available(tier):
            raise ConfigError(
                "this torchvision has no decode_jpeg (it is moving to TorchCodec)",
                key="data.decoder",
                cure="choose data.decoder=auto",
            )
        self.tier = tier
        self.channels = channels
        self._space = "RGB" if channels == 3 else "GRAY"  # simplejpeg's word

    def size(self, data: bytes) -> tuple[int, int]:
        """Width and height from the header alone.

        Raises:
            UndecodableImage: the bytes do not begin like an image, or it is too large.
        """
        header = jpeg_header(data)
        if header is not None:
            return header.width, header.height
        return open_image(data).size

    def decode(self, data: bytes, region: Region | None = None) -> Pixels:
        """The image, or a region of it: uint8 ``[H, W, C]``, perhaps read-only or a view.

        Raises:
            UndecodableImage: neither this tier nor Pillow decodes the bytes.
            ValueError: the region reaches beyond the image.
        """
        header = jpeg_header(data)
        if header is None or header.components not in (1, 3) or self.tier == "pil":
            return _crop(self._by_pil(data), region)
        if header.width * header.height > MAX_PIXELS:
            raise UndecodableImage(f"an image of {header.width}x{header.height} is too large.")
        # Whether a file is bad, and its pixels, must not depend on where the crop lies. The C code
        # refuses files that are not plain by itself.
        if self.tier != "libjpeg" and not is_plain(data, header):
            return _crop(self._by_pil(data), region)
        pixels = None
        if region is not None:
            # Two rows more than the region, because upsampling of chroma looks one row ahead.
            rows = region.top + region.height + 2
            if self.tier == "libjpeg":
                _check_inside(region, header.width, header.height)
                pixels = libjpeg.decode_region(data, self.channels, *region)
                if pixels is not None:
                    return pixels
            elif self.tier == "simplejpeg" and rows < header.height:
                pixels = self._upper(data, header, rows)
        if pixels is None:
            pixels = self._whole(data)
        if pixels is None:
            pixels = self._by_pil(data)
        return _crop(pixels, region)

    def _whole(self, data: bytes) -> Pixels | None:
        """The whole image; None if this tier refuses it."""
        try:
            if self.tier == "libjpeg":
                return libjpeg.decode_region(data, self.channels, 0, 0, *self.size(data))
            if self.tier == "simplejpeg":
                return optional_module("simplejpeg").decode_jpeg(data, self._space)
            return _by_torchvision(data, self.channels)
        except (ValueError, RuntimeError):
            return None

    def _upper(self, data: bytes, header: JpegHeader, rows: int) -> Pixels | None:
        """The rows from 0 to ``rows`` by simplejpeg; None if it refuses them."""
        pixels = np.empty((rows, header.width, self.channels), dtype=np.uint8)
        try:
            decode = optional_module("simplejpeg").decode_jpeg
            decode(shortened(data, header, rows), self._space, buffer=pixels)
        except ValueError as error:
            # Rows that are too many for it are no error. Without `strict` it would forgive others
            # that come after them, and give what was in memory for pixels.
            if "extraneous bytes" not in str(error):
                return None
        return pixels

    def _by_pil(self, data: bytes) -> Pixels:
        image = open_image(data)
        mode: Literal["L", "RGB"] = "RGB" if self.channels == 3 else "L"
        # Grey from a JPEG is its luminance as stored, here as in the other tiers.
        image.draft(mode, image.size)
        pixels = np.asarray(converted(image, mode))
        return pixels.reshape(*pixels.shape[:2], self.channels)


def _by_torchvision(data: bytes, channels: int) -> Pixels:
    from torchvision.io import ImageReadMode, decode_jpeg

    encoded = torch.frombuffer(bytearray(data), dtype=torch.uint8)
    mode = ImageReadMode.RGB if channels == 3 else ImageReadMode.GRAY
    return decode_jpeg(encoded, mode=mode).permute(1, 2, 0).numpy()


def _crop(pixels: Pixels, region: Region | None) -> Pixels:
    if region is None:
        return pixels
    _check_inside(region, pixels.shape[1], pixels.shape[0])
    left, top, width, height = region
    return pixels[top : top + height, left : left + width]


def _check_inside(region: Region, width: int, height: int) -> None:
    if (
        min(region.left, region.top) < 0
        or region.left + region.width > width
        or region.top + region.height > height
    ):
        raise ValueError(f"{region} is not inside an image of {width}x{height}.")


def _is_available(tier: Tier) -> bool:
    if tier == "libjpeg":
        return libjpeg.available()
    if tier == "simplejpeg":
        return is_installed("simplejpeg")
    return tier == "pil" or hasattr(importlib.import_module("torchvision.io"), "decode_jpeg")
