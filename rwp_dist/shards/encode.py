"""Images made smaller, once, so that every epoch decodes less."""

import io

from PIL import Image

from rwp_dist.base.errors import DataError


def shrink(data: bytes, short_side: int, quality: int, name: str) -> bytes:
    """A JPEG whose short side has ``short_side`` pixels; a JPEG that is no larger stays as it is.

    Grey images stay grey, others become RGB. EXIF data is dropped and not applied: training sees
    the pixels that it would see in the original file.

    Args:
        quality: of the JPEG, 1 to 100.
        name: what errors call the image.

    Raises:
        DataError: the image cannot be decoded.
    """
    try:
        source = Image.open(io.BytesIO(data))
        ratio = short_side / min(source.size)
        if ratio >= 1 and source.format == "JPEG" and source.mode in ("L", "RGB"):
            return data
        size = source.size
        if ratio < 1:
            size = (round(size[0] * ratio), round(size[1] * ratio))
            # Lets libjpeg halve large images while decoding; what is left to do is antialiased.
            source.draft(None, (2 * size[0], 2 * size[1]))
        image = source.convert("L" if source.mode == "L" else "RGB")
        if image.size != size:
            image = image.resize(size, Image.Resampling.LANCZOS)
    except Exception as error:  # decoders raise a dozen kinds on damaged files
        raise DataError(
            f"{name}: this is no readable image ({error}); replace it or leave it out."
        ) from error
    buffer = io.BytesIO()
    image.save(buffer, format="jpeg", quality=quality)
    return buffer.getvalue()
