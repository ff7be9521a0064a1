"""Where a crop, a cutout or an erased rectangle lies: pure geometry with keyed draws."""

import math
from typing import NamedTuple

from rwp_dist.base.keyed import Keyed

Range = tuple[float, float]


class Region(NamedTuple):
    """A rectangle in pixels of the source image."""

    left: int
    top: int
    width: int
    height: int


def random_resized_crop(width: int, height: int, scale: Range, ratio: Range, draw: Keyed) -> Region:
    """torchvision's ``RandomResizedCrop.get_params``: ten tries, then the largest central crop.

    ``scale`` bounds the share of the area, ``ratio`` the width over the height.
    """
    low, high = math.log(ratio[0]), math.log(ratio[1])
    for _ in range(10):
        area = width * height * draw.uniform(*scale)
        aspect = math.exp(draw.uniform(low, high))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
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
    """A square around a uniform pixel, clipped at the border (DeVries and Taylor, 2017)."""
    top = draw.integers(height) - side // 2
    left = draw.integers(width) - side // 2
    x, y = max(left, 0), max(top, 0)
    return Region(x, y, min(left + side, width) - x, min(top + side, height) - y)


def erased(width: int, height: int, draw: Keyed) -> Region | None:
    """torchvision's ``RandomErasing``: 2 to 33 % of the area, ratio 0.3 to 3.3.

    Ten tries; None if none of them fits.
    """
    low, high = math.log(0.3), math.log(3.3)
    for _ in range(10):
        area = width * height * draw.uniform(0.02, 0.33)
        aspect = math.exp(draw.uniform(low, high))
        h, w = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < h < height and 0 < w < width:
            top = draw.integers(height - h + 1)
            return Region(draw.integers(width - w + 1), top, w, h)
    return None
