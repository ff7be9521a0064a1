"""What of an image is seen: a region, resized, and the part of it that fills the result."""

from typing import NamedTuple

from rwp_dist.data.image.pillow import MAX_PIXELS, UndecodableImage
from rwp_dist.data.image.pixels import Pixels, mirror, resize
from rwp_dist.data.image.regions import Region


class View(NamedTuple):
    """From an image to a result of some height and width."""

    region: Region
    """Of the image."""
    width: int
    """Of the region once it is resized, in pixels."""
    height: int
    left: int = 0
    """Where the result begins in the resized region."""
    top: int = 0
    mirrored: bool = False
    """Whether left and right of the result are exchanged."""


def fitted(width: int, height: int, short_side: int, size: int) -> View:
    """The centre, ``size`` pixels wide and high, of an image whose shorter side is resized.

    Rounds as torchvision does.

    Args:
        width: of the image, in pixels.
        height: of the image.
        short_side: what its shorter side becomes, ``size`` or more.
        size: of the result.

    Raises:
        UndecodableImage: it would be too large: 1x60000 pixels with a side of 224 make 9 GB.
    """
    if width <= height:
        to_height, to_width = int(short_side * height / width), short_side
    else:
        to_height, to_width = short_side, int(short_side * width / height)
    if to_height * to_width > MAX_PIXELS:
        raise UndecodableImage(
            f"an image of {width}x{height} is too narrow to be resized to {to_width}x{to_height}."
        )
    left, top = round((to_width - size) / 2), round((to_height - size) / 2)
    return View(Region(0, 0, width, height), to_width, to_height, left, top)


def show(region: Pixels, view: View, out: Pixels, antialias: bool) -> None:
    """Write what is seen of a region that is decoded into ``out``: uint8 ``[H, W, C]``."""
    resized = resize(region, view.height, view.width, antialias)
    height, width = out.shape[:2]
    part = resized[view.top : view.top + height, view.left : view.left + width]
    out[...] = mirror(part) if view.mirrored else part
