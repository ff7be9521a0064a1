"""Decoded images as uint8 arrays: resize, mirror, fit to a square."""

from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray

from rwp_dist.base.errors import ConfigError
from rwp_dist.data.image.optional import optional_module
from rwp_dist.data.image.pillow import MAX_PIXELS, UndecodableImage

Pixels = NDArray[np.uint8]
"""``[H, W, C]``, C being 1 (grey) or 3 (RGB)."""


def from_pixels(image: Pixels) -> torch.Tensor:
    """A tensor ``[H, W, C]`` on the array's memory; on a copy if the array is read-only."""
    return torch.from_numpy(image if image.flags.writeable else image.copy())


def resize(image: Pixels, height: int, width: int, antialias: bool = True) -> Pixels:
    """Resize bilinearly: ``[H, W, C]`` to ``[height, width, C]``.

    With ``antialias`` the filter is widened when shrinking, as Pillow does it. The pixels are those
    of torchvision's v2 functions on uint8, within 1 of Pillow's. Without it OpenCV's linear
    interpolation is used: twice as fast, and different pixels.

    Raises:
        ConfigError: ``antialias`` is off and OpenCV is not installed.
    """
    if image.shape[:2] == (height, width):
        return image
    if not antialias:
        cv2 = optional_module("cv2")
        linear = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
        return linear.reshape(height, width, image.shape[2])
    # ATen has a vectorised uint8 kernel for channels-last memory, which takes a third of the time
    # of the general one. It looks at the strides, also that of the batch: unsqueeze before permute.
    planes = from_pixels(np.ascontiguousarray(image)).unsqueeze(0).permute(0, 3, 1, 2)
    resized = torch.nn.functional.interpolate(
        planes, size=(height, width), mode="bilinear", antialias=True
    )
    return np.ascontiguousarray(resized[0].permute(1, 2, 0).numpy())


def mirror(image: Pixels) -> Pixels:
    """Exchange left and right, ``[H, W, C]``; OpenCV is a few times faster than torch."""
    if not _has_opencv():
        return from_pixels(image).flip(1).numpy()
    return optional_module("cv2").flip(image, 1).reshape(image.shape)


def fit(image: Pixels, short_side: int, size: int, antialias: bool) -> Pixels:
    """Resize the shorter side and crop the centre: ``[H, W, C]`` to ``[size, size, C]``.

    Rounds as torchvision does.

    Raises:
        UndecodableImage: the image is too narrow, see ``fitted_size``.
    """
    height, width = image.shape[:2]
    image = resize(image, *fitted_size(height, width, short_side), antialias)
    top = round((image.shape[0] - size) / 2)
    left = round((image.shape[1] - size) / 2)
    return np.ascontiguousarray(image[top : top + size, left : left + size])


def fitted_size(height: int, width: int, short_side: int) -> tuple[int, int]:
    """Height and width of an image once its shorter side is ``short_side``.

    Raises:
        UndecodableImage: it would be too large: 1x60000 pixels with a side of 224 make 9 GB.
    """
    if width <= height:
        to = int(short_side * height / width), short_side
    else:
        to = short_side, int(short_side * width / height)
    if to[0] * to[1] > MAX_PIXELS:
        raise UndecodableImage(
            f"an image of {width}x{height} is too narrow to be resized to {to[1]}x{to[0]}."
        )
    return to


@lru_cache(maxsize=1)
def _has_opencv() -> bool:
    try:
        optional_module("cv2")
    except ConfigError:
        return False
    return True
