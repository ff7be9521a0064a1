"""Decoded images as uint8 arrays: resize, mirror."""

from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray

from rwp_dist.base.errors import ConfigError
from rwp_dist.data.image.optional import optional_module

Encoded = bytes | memoryview
"""The bytes of an image's file; a memoryview of memory that may be written to."""
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


@lru_cache(maxsize=1)
def _has_opencv() -> bool:
    try:
        optional_module("cv2")
    except ConfigError:
        return False
    return True
