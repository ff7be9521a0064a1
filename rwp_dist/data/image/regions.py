"""Where a crop, a cutout or an erased rectangle lies: pure geometry with keyed draws."""

import math
from collections.abc import Iterator
from typing import NamedTuple

from rwp_dist.base.keyed import Keyed

Bounds = tuple[float, float]
"""Least and most."""


class Region(NamedTuple):
    """A rectangle in pixels of the source image."""

    left: int
    top: int
    width: int
    height: int


def random_resized_crop(
    width: int, height: int, scale: Bounds, ratio: Bounds, draw: Keyed
) -> Region:
    """torchvision's ``RandomResizedCrop.get_params``: ten tries, then the largest central crop.

    ``scale`` bounds the share of the area, ``ratio`` the width over the height.
    """
    for w, h in _ten_tries(width * height, scale, ratio, draw):
        if 0 < w <= width and 0 < h <= height:
            top = draw.integers(height - h + 1)
            return Region(draw.integers(width - w + 1), top, w, h)
    if width / height < ratio[0]:
        w, h = width, round(width / ratio[0])
    elif width / height > ratio[1]:
        w, h = round(height * ratio[1]), height
    else:
        w, h = width, height
    return Region((width - w) // 2, (height - h) // 2, w, h)


def cutout(width: int, height: int, side: int, draw: Keyed) -> Region:
    """A square around a random pixel, cut at the border (DeVries and Taylor, 2017)."""
    top = draw.integers(height) - side // 2
    left = draw.integers(width) - side // 2
    x, y = max(left, 0), max(top, 0)
    return Region(x, y, min(left + side, width) - x, min(top + side, height) - y)


def erased(width: int, height: int, draw: Keyed) -> Region | None:
    """torchvision's ``RandomErasing``: 2 to 33 % of the area, height over width 0.3 to 3.3.

    Ten tries; None if none of them fits.
    """
    for h, w in _ten_tries(width * height, (0.02, 0.33), (0.3, 3.3), draw):
        if 0 < h < height and 0 < w < width:
            top = draw.integers(height - h + 1)
            return Region(draw.integers(width - w + 1), top, w, h)
    return None


def _ten_tries(area: int, scale: Bounds, ratio: Bounds, draw: Keyed) -> Iterator[tuple[int, int]]:
    """Two sides of a rectangle, ten times: a share of the area, and the first over the second."""
    low, high = math.log(ratio[0]), math.log(ratio[1])
    for _ in range(10):
        part = area * draw.uniform(*scale)
        aspect = math.exp(draw.uniform(low, high))
        yield round(math.sqrt(part * aspect)), round(math.sqrt(part / aspect))
