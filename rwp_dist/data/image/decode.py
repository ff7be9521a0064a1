"""Encoded images become uint8 arrays: several decoders with one behaviour.

``Decoder`` picks a tier (a JPEG library) and falls back to Pillow for whatever that tier cannot
take: other formats, CMYK, files that a strict decoder rejects. A sample counts as undecodable
only when Pillow refuses it too. As in torchvision's ``ImageFolder``, EXIF orientation and colour
profiles are ignored, and alpha is dropped.
"""

from typing import Literal

import numpy as np

from rwp_dist.data.image.jpeg.header import jpeg_header
from rwp_dist.data.image.pillow import MAX_PIXELS, UndecodableImage, converted, open_image
from rwp_dist.data.image.pixels import Pixels
from rwp_dist.data.image.regions import Region
from rwp_dist.data.image.tiers import Tier, choose_tier, crop, decode_region


class Decoder:
    """Decodes one image at a time.

    Args:
        tier: ``libjpeg`` decodes only the region of a crop; it compiles two small C files at its
            first use. ``simplejpeg`` leaves out the rows below the region. ``torchvision`` and
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

    def size(self, data: bytes) -> tuple[int, int]:
        """Width and height from the header alone.

        Raises:
            UndecodableImage: the bytes do not begin like an image, or it is too large.
        """
        header = jpeg_header(data)
        if header is not None:
            return header.width, header.height
        return open_image(data, self.max_pixels).size

    def decode(self, data: bytes, region: Region | None = None) -> Pixels:
        """The image, or a region of it: uint8 ``[H, W, C]``, perhaps read-only or a view.

        Raises:
            UndecodableImage: neither this tier nor Pillow decodes the bytes.
            ValueError: the region reaches beyond the image.
        """
        header = jpeg_header(data)
        if header is not None and header.components in (1, 3):
            if header.width * header.height > self.max_pixels:
                raise UndecodableImage(f"an image of {header.width}x{header.height} is too large.")
            wanted = region or Region(0, 0, header.width, header.height)
            _check_inside(wanted, header.width, header.height)
            pixels = decode_region(self.tier, data, header, self.channels, wanted)
            if pixels is not None:
                return pixels
        pixels = self._by_pil(data)
        if region is None:
            return pixels
        _check_inside(region, pixels.shape[1], pixels.shape[0])
        return crop(pixels, region)

    def _by_pil(self, data: bytes) -> Pixels:
        image = open_image(data, self.max_pixels)
        mode: Literal["L", "RGB"] = "RGB" if self.channels == 3 else "L"
        # Grey from a JPEG is its luminance as stored, here as in the other tiers.
        image.draft(mode, image.size)
        pixels = np.asarray(converted(image, mode))
        return pixels.reshape(*pixels.shape[:2], self.channels)


def _check_inside(region: Region, width: int, height: int) -> None:
    if (
        min(region.left, region.top) < 0
        or region.left + region.width > width
        or region.top + region.height > height
    ):
        raise ValueError(f"{region} is not inside an image of {width}x{height}.")
