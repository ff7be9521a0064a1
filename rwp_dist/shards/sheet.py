"""A picture of random samples with their labels."""

import io
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, ImageOps

from rwp_dist.base.files import atomic_file
from rwp_dist.shards.stats import Drawn

TILE = 160
"""Pixels of a tile's side; images keep their shape."""
_TEXT, _GAP, _COLUMNS = 22, 10, 8
_PAPER, _INK, _FRAME = (255, 255, 255), (30, 30, 30), (225, 225, 225)


def contact_sheet(drawn: Sequence[Drawn], classes: Sequence[str] | None, out: Path) -> None:
    """Write a PNG of samples in rows of 8, sorted by label, each with its label below.

    An empty frame is an image that cannot be decoded.

    Raises:
        DataError: the file cannot be written.
    """
    drawn = sorted(drawn, key=lambda sample: sample.label)
    columns = min(_COLUMNS, len(drawn))
    num_rows = -(-len(drawn) // columns)
    width, height = TILE + _GAP, TILE + _TEXT + _GAP
    sheet = Image.new("RGB", (columns * width + _GAP, num_rows * height + _GAP), _PAPER)
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.truetype(_font_file(), 13)
    for number, sample in enumerate(drawn):
        left = _GAP + number % columns * width
        top = _GAP + number // columns * height
        image = _fit(sample)
        place = (left + (TILE - image.width) // 2, top + (TILE - image.height) // 2)
        draw.rectangle((left - 1, top - 1, left + TILE, top + TILE), outline=_FRAME)
        sheet.paste(image, place)
        text = _shorten(_text(sample.label, classes), draw, font)
        draw.text((left + TILE // 2, top + TILE + 4), text, _INK, font, anchor="ma")
    with atomic_file(out) as temporary:
        sheet.save(temporary, format="png")


def _font_file() -> Path:
    """DejaVu Sans, which matplotlib brings along: Pillow's own font knows no é."""
    import matplotlib

    return Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")


def _fit(sample: Drawn) -> Image.Image:
    try:
        image = Image.open(io.BytesIO(sample.image)).convert("RGB")
    except Exception:  # decoders raise a dozen kinds on damaged files
        return Image.new("RGB", (TILE, TILE), _PAPER)
    # Tiny images, such as 8x8 digits, show their pixels.
    small = max(image.size) * 2 <= TILE
    method = Image.Resampling.NEAREST if small else Image.Resampling.LANCZOS
    return ImageOps.contain(image, (TILE, TILE), method)


def _text(label: int, classes: Sequence[str] | None) -> str:
    name = str(label) if classes is None else classes[label]
    return name if name == str(label) else f"{label}: {name}"


def _shorten(text: str, draw: ImageDraw.ImageDraw, font: ImageFont.FreeTypeFont) -> str:
    whole = text
    while draw.textlength(text, font) > TILE and len(whole) > 1:
        whole = whole[:-1]
        text = f"{whole}…"
    return text
