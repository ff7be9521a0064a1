"""Images are changed once, before they are written: made smaller, turned, or freed of alpha."""

from dataclasses import dataclass

from PIL import Image

from rwp_dist.base.errors import DataError
from rwp_dist.data.image import (
    GREY,
    TURNS,
    converted,
    has_alpha,
    on_background,
    open_image,
    orientation,
)
from rwp_dist.shards.sources import encode


@dataclass(frozen=True)
class Preprocess:
    """What is changed in images."""

    short_side: int | None = None
    """Pixels of the short side of images that have more. All images become JPEGs."""
    orient: bool = False
    """Turn images as their orientation tag asks for."""
    background: tuple[int, int, int] | None = None
    """Red, green and blue of what alpha is blended with; None: alpha is dropped."""
    quality: int = 90
    """Of JPEGs that are encoded anew, 1 to 100."""

    def __call__(self, data: bytes, kind: str, name: str) -> tuple[bytes, str]:
        """Content and kind (such as ``jpg``) of the image to write.

        What needs no change is returned as it is. A changed JPEG becomes a JPEG, any other image a
        PNG, which loses nothing, or with ``short_side`` a JPEG. It has 8-bit grey or RGB pixels,
        those that training sees, and no metadata. Errors call the image ``name``.

        Raises:
            DataError: the image cannot be decoded. Without ``short_side``, this is seen only in
                images that have to be changed.
        """
        try:
            image = open_image(data)
            is_jpeg, is_grey = image.format in ("JPEG", "MPO"), image.mode in GREY
            turn = TURNS.get(orientation(data)) if self.orient else None
            blend = self.background if has_alpha(image) else None
            changes = turn is not None or blend is not None
            if not changes and self.short_side is None:
                return data, kind
            size = self._size(*image.size)
            is_plain = image.format == "JPEG" and image.mode in ("L", "RGB")
            keep = is_plain and not changes and size == image.size
            if size != image.size:
                # libjpeg halves large images while it decodes; the rest is done with antialiasing.
                image.draft(None, (2 * size[0], 2 * size[1]))
            if blend is None:
                pixels = converted(image, "L" if is_grey else "RGB")
            else:
                pixels = on_background(image, blend)
            if keep:
                return data, "jpg"
            if pixels.size != size:
                pixels = pixels.resize(size, Image.Resampling.LANCZOS)
            if turn is not None:
                pixels = pixels.transpose(turn)
            pixels.info = {}
            if is_jpeg or self.short_side is not None:
                return encode(pixels, "jpeg", quality=self.quality), "jpg"
            return encode(pixels, "png"), "png"
        except Exception as error:  # also what no JPEG can hold: a side of more than 65,500
            raise DataError(
                f"{name}: this is no readable image ({error})", cure="replace it or leave it out"
            ) from error

    def _size(self, width: int, height: int) -> tuple[int, int]:
        """Width and height of an image once it is made smaller."""
        ratio = (self.short_side or min(width, height)) / min(width, height)
        return (round(width * ratio), round(height * ratio)) if ratio < 1 else (width, height)
