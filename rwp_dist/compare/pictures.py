"""Pictures that other commands draw of runs; each PNG says which runs it shows."""

import base64
import io
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from PIL import Image

RUNS = "Runs"
"""The PNG's own entry for that: paths from the folder that the picture is in, as JSON."""

MOST_BYTES = 1_200_000
"""Of all of them on a page, which stays below 2 MB."""

WIDEST = 1000
"""Pixels of one; wider ones are made smaller."""


def metadata_of(runs: Iterable[Path], folder: Path) -> dict[str, str]:
    """What a picture that is written into a folder says about itself."""
    return {RUNS: json.dumps(_from(folder, runs))}


def pictures_of(runs: Iterable[Path], folder: Path, names: str) -> list[Path]:
    """Pictures in a folder that show some of these runs and no others.

    Args:
        runs: run directories.
        folder: where to look.
        names: pattern of their names.
    """
    allowed = set(_from(folder, runs))
    found = {path: _shown(path) for path in sorted(folder.glob(names))}
    return [path for path, shown in found.items() if shown and shown <= allowed]


def as_far_as_there_is_room(paths: Sequence[Path]) -> tuple[dict[str, str], list[str]]:
    """Pictures by their names.

    Returns:
        Those that are shown, as base64; and the paths of those that are not, because the page would
        be too large.
    """
    shown, left_out, room = {}, [], MOST_BYTES
    for path in paths:
        picture = smaller(path)
        if len(picture) > room:
            left_out.append(str(path))
        else:
            room -= len(picture)
            shown[path.name] = picture
    return shown, left_out


def smaller(path: Path) -> str:
    """A picture as base64, at most ``WIDEST`` wide and with 256 colours."""
    file = io.BytesIO()
    with Image.open(path) as image:
        image.thumbnail((WIDEST, WIDEST))
        image.convert("RGB").quantize(256).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def _from(folder: Path, runs: Iterable[Path]) -> list[str]:
    return [os.path.relpath(run, folder) for run in runs]


def _shown(path: Path) -> set[str]:
    """Runs that a picture shows; none if it does not say."""
    try:
        with Image.open(path) as image:
            image.load()
            return set(json.loads(image.info.get(RUNS, "[]")))
    except (OSError, SyntaxError, TypeError, ValueError, Image.DecompressionBombError):
        return set()
