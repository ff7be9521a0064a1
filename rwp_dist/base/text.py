"""Numbers, units and tables as people read them. An absent value (None) is shown as ``—``."""

import hashlib
import unicodedata
from collections.abc import Sequence

DASH = "—"
JOINERS = "\u200c\u200d"
"""Without width themselves, they shape letters of some scripts, and emoji."""
LEFT_TO_RIGHT = "\u200e"


def duration(seconds: float | None) -> str:
    """Seconds in a convenient unit: ``85 µs``, ``4.2 ms``, ``12 s``, ``3 h 05 min``."""
    if seconds is None:
        return DASH
    if seconds < 0.9995e-3:
        return f"{seconds * 1e6:.0f} µs"
    if seconds < 0.9995:
        return f"{seconds * 1e3:.{0 if seconds >= 0.0995 else 1}f} ms"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    if seconds < 119.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 120:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    hours = round(seconds / 3600)
    return f"{hours // 24} d {hours % 24:02d} h"


def size(num_bytes: float | None) -> str:
    """Bytes in decimal units, as vendors sell memory: ``812 MB``, ``31.4 GB``."""
    if num_bytes is None:
        return DASH
    for unit, factor in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if num_bytes >= factor:
            value = num_bytes / factor
            return f"{value:.{1 if value < 99.95 else 0}f} {unit}"
    return f"{num_bytes:.0f} B"


def count(value: float | None) -> str:
    """A measured number, such as a rate: ``12.3`` below 100, ``1,234`` above."""
    if value is None:
        return DASH
    return f"{value:,.0f}" if value >= 99.95 else f"{value:.1f}"


def whole(value: float | None) -> str:
    """A whole number: ``12``, ``1,234``."""
    return DASH if value is None else f"{value:,.0f}"


def percent(share: float | None) -> str:
    """A share in [0, 1]: ``12.5 %``."""
    return DASH if share is None else f"{share * 100:.1f} %"


def plural(number: int, noun: str) -> str:
    """A number with its noun: ``1 shard``, ``1,200 shards``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def is_utf8(text: str) -> bool:
    """Whether a text can be encoded. Names of files in other encodings cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def shortened(text: str, most: int) -> str:
    """A text of at most ``most`` bytes. A digest ends one that was cut, so that names which differ
    still do."""
    return text if len(text.encode()) <= most else with_digest(text, text, most)


def with_digest(text: str, meant: str, most: int) -> str:
    """A text and a digest of what it stands for, together at most ``most`` bytes."""
    digest = hashlib.sha256(meant.encode()).hexdigest()[:8]
    return f"{text.encode()[: most - 9].decode(errors='ignore')}-{digest}"


def visible(text: str) -> str:
    """A text on one line in which all characters can be seen: others become ``\\n``, ``\\u200b``.

    These are controls, such as those that change the direction of what follows, spaces that look
    like others, and characters without width; but for joiners inside words and emoji.
    """
    shown = []
    for before, character, after in zip(f"a{text}", text, f"{text[1:]}a", strict=False):
        kind = unicodedata.category(character)
        hidden = kind in ("Cc", "Cf", "Cs", "Zl", "Zp") or (
            kind == "Zs" and character not in " \u3000"
        )
        if character in JOINERS and not before.isascii() and not after.isascii():
            hidden = False
        shown.append(character.encode("unicode_escape").decode() if hidden else character)
    return "".join(shown)


def width(text: str) -> int:
    """How many columns of a terminal a text takes: a Chinese character or an emoji takes two."""
    columns = 0
    for before, character in zip(f"a{text}", text, strict=False):
        is_tone = "\U0001f3fb" <= character <= "\U0001f3ff" and not before.isascii()
        if unicodedata.category(character) in ("Mn", "Me", "Cf") or before == "\u200d" or is_tone:
            continue  # drawn upon the one before
        columns += 2 if unicodedata.east_asian_width(character) in "WF" else 1
    return columns


def table(rows: Sequence[Sequence[str]], *, num_left: int, num_heads: int = 1) -> list[str]:
    """Lines of a table with aligned columns and a rule below its head.

    Args:
        rows: cells by row, all rows of one length.
        num_left: how many columns, from the first, are left-aligned; the others are right-aligned.
        num_heads: how many rows, from the first, are above the rule.
    """
    widths = [max(width(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "  ".join(
            _padded(cell, most, left=i < num_left)
            for i, (cell, most) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    lines.insert(num_heads, "  ".join("-" * most for most in widths))
    return lines


def _padded(cell: str, columns: int, *, left: bool) -> str:
    spaces = " " * (columns - width(cell))
    if any(unicodedata.bidirectional(character) in ("R", "AL") for character in cell):
        cell += LEFT_TO_RIGHT  # or a terminal shows the next columns to the left of this one
    return f"{cell}{spaces}" if left else f"{spaces}{cell}"
