"""Text in pictures: names of any script, as they are."""

import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache

BOXES = ("Last Resort", "STIXNonUnicode", "STIXSize", "cm")
"""Beginnings of fonts whose glyphs are not the characters that they claim to be."""


@contextmanager
def fonts_for(texts: Iterable[str], *, formulas: bool = False) -> Iterator[str]:
    """Inside, matplotlib draws texts with fonts of this machine that have their characters.

    A character that no font has is a box.

    Args:
        texts: all that may have other characters than English.
        formulas: whether texts with dollar signs are formulas, as logarithmic axes have them.

    Yields:
        The characters that are boxes.
    """
    import matplotlib
    from matplotlib.font_manager import FontProperties, findfont, fontManager

    lacking = set("".join(texts)) - {"\n"}
    lacking -= characters_of(findfont(FontProperties()))
    families = list(matplotlib.rcParams["font.family"])
    others = sorted(fontManager.ttflist, key=lambda font: ("Sans" not in font.name, font.name))
    for font in others:
        if not lacking:
            break
        upright = font.style == "normal" and font.weight in (400, "normal", "regular")
        if upright and not font.name.startswith(BOXES) and lacking & characters_of(font.fname):
            families.append(font.name)
            lacking -= characters_of(font.fname)
    settings = {"font.family": families, "text.parse_math": formulas}
    with matplotlib.rc_context(settings), warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Glyph \d+ .* missing from")
        yield "".join(sorted(lacking))


def plain(text: str) -> str:
    """A text that is no formula where others are, and that a legend does not skip."""
    text = text.replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text


@cache
def characters_of(path: str) -> frozenset[str]:
    """What a font can draw; nothing if it has pictures of one size instead of outlines."""
    from matplotlib.ft2font import FT2Font

    try:
        font = FT2Font(path)
        return frozenset(map(chr, font.get_charmap())) if font.scalable else frozenset()
    except (OSError, RuntimeError):
        return frozenset()
