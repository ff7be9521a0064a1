"""Encoded images become uint8 arrays: several decoders with one behaviour, and resizing.

``Decoder`` picks a tier (a JPEG library) and falls back to Pillow for whatever that tier cannot
take: other formats, CMYK, files that a strict decoder rejects. A sample counts as undecodable
only when Pillow refuses it too. As in torchvision's ``ImageFolder``, EXIF orientation is ignored.
All tiers wrap libjpeg-turbo with its accurate DCT, so they give the same pixels.
"""

import importlib
import importlib.util
import io
import math
from functools import lru_cache
from types import ModuleType
from typing import Literal, NamedTuple, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from rwp_dist.base.errors import ConfigError, DataError
from rwp_dist.data.image.jpeg import libjpeg

Tier = Literal["auto", "libjpeg", "simplejpeg", "torchvision", "pil"]
FASTEST_FIRST: tuple[Tier, ...] = ("libjpeg", "simplejpeg", "torchvision", "pil")
"""What ``auto`` tries."""

Pixels = NDArray[np.uint8]
"""``[H, W, C]``, C being 1 (grey) or 3 (RGB)."""

MAX_PIXELS = 2**27
"""Larger images are refused: a few bytes of header must not claim gigabytes of memory."""


class UndecodableImage(DataError):  # noqa: N818 - what it is, not what to do about it
    """Bytes that no decoder takes for an image; the sample is bad."""


class Region(NamedTuple):
    """A rectangle in pixels of the source image."""

    left: int
    top: int
    width: int
    height: int


class JpegHeader(NamedTuple):
    """What a JPEG's frame header says."""

    width: int
    height: int
    components: int
    height_at: int
    """Where the two bytes of the height are."""


class Decoder:
    """Decodes one image at a time on the CPU.

    ``libjpeg`` decodes only the region of a crop; it compiles two small C files at its first use.
    ``simplejpeg`` leaves out the rows below the region, the others nothing. ``auto`` is the first
    of them that this machine has. ``channels`` is 1 (grey) or 3 (RGB), whatever the file holds.

    Raises:
        ConfigError: the tier does not exist or its library is missing.
        ValueError: ``channels`` is neither 1 nor 3.
    """

    def __init__(self, tier: Tier = "auto", channels: int = 3) -> None:
        if channels not in (1, 3):
            raise ValueError(f"images have 1 or 3 channels, not {channels}.")
        if tier not in get_args(Tier):
            raise ConfigError(f"no decoder is called {tier!r}. Take one of {get_args(Tier)}.")
        if tier == "auto":
            tier = next(name for name in FASTEST_FIRST if _available(name))
        elif tier == "libjpeg":
            libjpeg.library()
        elif tier == "simplejpeg":
            optional_module("simplejpeg")
        elif tier == "torchvision" and not _available("torchvision"):
            raise ConfigError(
                "this torchvision has no decode_jpeg (it is moving to TorchCodec). "
                "Choose data.decoder=auto."
            )
        self.tier = tier
        self.channels = channels

    def size(self, data: bytes) -> tuple[int, int]:
        """Width and height from the header alone.

        Raises:
            UndecodableImage: the bytes do not begin like an image, or it is too large.
        """
        header = jpeg_header(data)
        if header is not None:
            return header.width, header.height
        return _pil_open(data).size

    def decode(self, data: bytes, region: Region | None = None) -> Pixels:
        """The image, or a region of it: uint8 ``[H, W, C]``, perhaps read-only or a view.

        Raises:
            UndecodableImage: neither this tier nor Pillow decodes the bytes.
            ValueError: the region reaches beyond the image.
        """
        header = jpeg_header(data)
        if header is None or header.components not in (1, 3) or self.tier == "pil":
            return _crop(self._pil(data), region)
        if header.width * header.height > MAX_PIXELS:
            raise UndecodableImage(f"an image of {header.width}x{header.height} is too large.")
        pixels = None
        # A file without its end is read whole: whether it counts as truncated must not depend on
        # where the crop lies.
        if region is not None and _has_end(data):
            if self.tier == "libjpeg":
                _check_inside(region, header.width, header.height)
                pixels = libjpeg.decode_region(data, self.channels, *region)
                if pixels is not None:
                    return pixels
            elif self.tier == "simplejpeg" and region.top + region.height + 2 < header.height:
                pixels = self._whole(_shortened(data, header, region), strict=False)
        if pixels is None:
            pixels = self._whole(data)
        if pixels is None:
            pixels = self._pil(data)
        return _crop(pixels, region)

    def _whole(self, data: bytes, strict: bool = True) -> Pixels | None:
        try:
            if self.tier == "libjpeg":
                header = jpeg_header(data)
                assert header is not None, "decode has looked"
                size = header.width, header.height
                return libjpeg.decode_region(data, self.channels, 0, 0, *size)
            if self.tier == "simplejpeg":
                space = "RGB" if self.channels == 3 else "GRAY"
                decode = optional_module("simplejpeg").decode_jpeg
                pixels: Pixels = decode(data, space, strict=strict)
                return pixels
            return _torchvision(data, self.channels)
        except (ValueError, RuntimeError):
            return None

    def _pil(self, data: bytes) -> Pixels:
        image = _pil_open(data)
        mode = "RGB" if self.channels == 3 else "L"
        try:
            # Grey from a JPEG is its luminance as stored, here as in the other tiers.
            image.draft(mode, image.size)
            pixels = np.asarray(image.convert(mode))
        except Exception as error:  # Pillow's plugins raise whatever broken bytes lead them to
            raise UndecodableImage(f"no decoder takes this image: {error}.") from error
        return pixels.reshape(*pixels.shape[:2], self.channels)


def resize(image: Pixels, height: int, width: int, antialias: bool = True) -> Pixels:
    """Bilinear resize of uint8 ``[H, W, C]``.

    ``antialias`` widens the filter when shrinking, as Pillow does; pixels are torchvision's own
    (v2 functional on uint8), within 1 of Pillow's. Without it OpenCV's plain linear is used:
    twice as fast, and different pixels.

    Raises:
        ConfigError: ``antialias`` is off and OpenCV is not installed.
    """
    if image.shape[:2] == (height, width):
        return image
    if not antialias:
        cv2 = optional_module("cv2")
        linear: Pixels = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
        return linear.reshape(height, width, image.shape[2])
    # ATen has a vectorised uint8 kernel for channels-last memory, a third of the general one's
    # time. It goes by the strides, the batch's too: unsqueeze before permute.
    planes = from_pixels(np.ascontiguousarray(image)).unsqueeze(0).permute(0, 3, 1, 2)
    resized = torch.nn.functional.interpolate(
        planes, size=(height, width), mode="bilinear", antialias=True
    )
    return np.ascontiguousarray(resized[0].permute(1, 2, 0).numpy())


def mirror(image: Pixels) -> Pixels:
    """The image with left and right exchanged, ``[H, W, C]``; OpenCV is a few times faster."""
    if not _has_opencv():
        return from_pixels(image).flip(1).numpy()
    flipped: Pixels = optional_module("cv2").flip(image, 1)
    return flipped.reshape(image.shape)


def from_pixels(image: Pixels) -> torch.Tensor:
    """A tensor on the array's memory; of a read-only array, as Pillow gives, on a copy."""
    return torch.from_numpy(image if image.flags.writeable else image.copy())


def jpeg_header(data: bytes) -> JpegHeader | None:
    """Size and kind of a JPEG (ITU-T T.81, annex B), or None if these bytes are not plainly one.

    Plainly: Huffman coded, baseline, extended or progressive, with the height where it belongs.
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
            plain = height and width  # a height of 0 is given after the scan: left to Pillow
            return JpegHeader(width, height, data[at + 9], at + 5) if plain else None
        else:
            at += 2 + (data[at + 2] << 8 | data[at + 3])
    return None


def _has_end(data: bytes) -> bool:
    return b"\xff\xd9" in data[-32:]


def _shortened(data: bytes, header: JpegHeader, region: Region) -> bytes:
    """The same JPEG claiming to end below the region: decoders stop there.

    Two rows more than needed, because upsampling of chroma looks one chroma row ahead.
    """
    height = region.top + region.height + 2
    at = header.height_at
    return b"".join((data[:at], height.to_bytes(2, "big"), data[at + 2 :]))


def _torchvision(data: bytes, channels: int) -> Pixels:
    from torchvision.io import ImageReadMode, decode_jpeg

    encoded = torch.frombuffer(bytearray(data), dtype=torch.uint8)
    mode = ImageReadMode.RGB if channels == 3 else ImageReadMode.GRAY
    pixels: Pixels = decode_jpeg(encoded, mode=mode).permute(1, 2, 0).numpy()
    return pixels


def _pil_open(data: bytes) -> Image.Image:
    try:
        image = Image.open(io.BytesIO(data))
    except Exception as error:  # Pillow's plugins raise whatever broken bytes lead them to
        # Pillow names the buffer in memory that it read from.
        cause = str(error).partition(" <_io")[0]
        raise UndecodableImage(f"no decoder takes this image: {cause}.") from error
    if math.prod(image.size) > MAX_PIXELS:
        raise UndecodableImage(f"an image of {image.width}x{image.height} is too large.")
    return image


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


def _available(name: str) -> bool:
    if name == "libjpeg":
        return libjpeg.available()
    if name == "torchvision":
        return hasattr(importlib.import_module("torchvision.io"), "decode_jpeg")
    return name == "pil" or importlib.util.find_spec(name) is not None


@lru_cache(maxsize=1)
def _has_opencv() -> bool:
    return _available("cv2")


@lru_cache(maxsize=2)
def optional_module(name: str) -> ModuleType:
    """simplejpeg or cv2.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        module = importlib.import_module(name)
    except ImportError as error:
        raise ConfigError(
            f"{name} is not installed. Install it with `pip install 'rwp-dist[fast]'`, or choose "
            "data.decoder=auto and data.interpolation=antialias, which do without it."
        ) from error
    if name == "cv2":
        # Workers are processes, one per core: threads of OpenCV's own would only get in the way.
        module.setNumThreads(1)
    return module
