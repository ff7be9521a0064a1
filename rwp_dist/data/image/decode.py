"""Encoded images become uint8 arrays: several decoders with one behaviour.

``Decoder`` picks a tier (a JPEG library) and falls back to Pillow for whatever that tier cannot
take: other formats, CMYK, files that a strict decoder rejects. A sample counts as undecodable
only when Pillow refuses it too. As in torchvision's ``ImageFolder``, EXIF orientation and colour
profiles are ignored, and alpha is dropped.
"""

from collections.abc import Callable
from typing import Literal

import numpy as np

from rwp_dist.data.image.jpeg import libjpeg
from rwp_dist.data.image.jpeg.header import JpegHeader, jpeg_header
from rwp_dist.data.image.pillow import MAX_PIXELS, UndecodableImage, converted, open_image
from rwp_dist.data.image.pixels import Encoded, Pixels
from rwp_dist.data.image.regions import Region
from rwp_dist.data.image.tiers import Tier, choose_tier, crop, decode_region
from rwp_dist.data.image.view import View, show


class Decoder:
    """Decodes one image at a time.

    Args:
        tier: ``libjpeg`` decodes only the region of a crop; it compiles three small C files at
            its first use. ``simplejpeg`` leaves out the rows below the region. ``torchvision`` and
            ``pil`` decode the whole image. ``auto`` is the first of these that works here.
        channels: 1 (grey) or 3 (RGB), whatever the file holds.
        max_pixels: an image that has more is bad, and is not decoded.

    Raises:
        ConfigError: the tier's library is missing, or does not decode a test image.
    """

    def __init__(
        self, tier: Tier = "auto", channels: int = 3, max_pixels: int = MAX_PIXELS
    ) -> None:
        self.tier = choose_tier(tier)
        self.channels = channels
        self.max_pixels = max_pixels

    def decode(self, data: bytes, region: Region | None = None) -> Pixels:
        """The image, or a region of it: uint8 ``[H, W, C]``, perhaps read-only or a view.

        Raises:
            UndecodableImage: neither this tier nor Pillow decodes the bytes.
            ValueError: the region reaches beyond the image.
        """
        header = self._plain_header(data)
        if header is not None:
            wanted = region or Region(0, 0, header.width, header.height)
            return self._region(data, header, wanted)
        pixels = self._by_pil(data)
        return pixels if region is None else _inside(pixels, region)

    def decode_view(
        self,
        data: Encoded,
        view_of: Callable[[int, int], View],
        out: Pixels,
        antialias: bool = True,
    ) -> None:
        """Write what is to be seen of an image into ``out``: uint8 ``[H, W, C]``, contiguous.

        The tier ``libjpeg`` decodes, resizes and mirrors in one go, row by row.

        Args:
            data: the encoded image.
            view_of: from its width and height to what is to be seen.
            out: memory for the result.
            antialias: see ``resize``.

        Raises:
            UndecodableImage: neither this tier nor Pillow decodes the bytes; or ``view_of`` raised
                it.
            ValueError: the region reaches beyond the image.
            ConfigError: ``antialias`` is off and OpenCV is not installed.
        """
        header = self._plain_header(data)
        if header is None:
            pixels = self._by_pil(bytes(data))
            view = view_of(pixels.shape[1], pixels.shape[0])
            show(_inside(pixels, view.region), view, out, antialias)
            return
        view = view_of(header.width, header.height)
        if not (antialias and self.tier == "libjpeg" and libjpeg.decode_view(data, view, out)):
            show(self._region(bytes(data), header, view.region), view, out, antialias)

    def _plain_header(self, data: Encoded) -> JpegHeader | None:
        """The header of a JPEG that the tiers take; None: Pillow decodes these bytes."""
        header = jpeg_header(data)
        if header is None or header.components not in (1, 3):
            return None
        if header.width * header.height > self.max_pixels:
            raise UndecodableImage(f"an image of {header.width}x{header.height} is too large.")
        return header

    def _region(self, data: bytes, header: JpegHeader, region: Region) -> Pixels:
        _check_inside(region, header.width, header.height)
        pixels = decode_region(self.tier, data, header, self.channels, region)
        return _inside(self._by_pil(data), region) if pixels is None else pixels

    def _by_pil(self, data: bytes) -> Pixels:
        image = open_image(data, self.max_pixels)
        mode: Literal["L", "RGB"] = "RGB" if self.channels == 3 else "L"
        # Grey from a JPEG is its luminance as stored, here as in the other tiers.
        image.draft(mode, image.size)
        pixels = np.asarray(converted(image, mode))
        return pixels.reshape(*pixels.shape[:2], self.channels)


def _inside(pixels: Pixels, region: Region) -> Pixels:
    _check_inside(region, pixels.shape[1], pixels.shape[0])
    return crop(pixels, region)


def _check_inside(region: Region, width: int, height: int) -> None:
    if (
        min(region.left, region.top) < 0
        or region.left + region.width > width
        or region.top + region.height > height
    ):
        raise ValueError(f"{region} is not inside an image of {width}x{height}.")
