"""Images of any place: files, folders and patterns. Imports no torch."""

import glob
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from rwp_dist.base.errors import ConfigError
from rwp_dist.data.format.sample import IMAGE_TYPES


def find_images(words: Sequence[str]) -> list[str]:
    """Paths of the images that are meant, in the order of the words; those of a folder by name.

    Args:
        words: files of any name; folders, of whose files at any depth those count that end as
            images do; patterns such as ``photos/**/*.jpg``.

    Raises:
        ConfigError: there is no such file, or a folder or pattern has no images.
    """
    found: list[str] = []
    for word in words:
        before = len(found)
        if Path(word).is_dir():
            found += _images_in(word)
            problem, cure = f"{word}: there are no images here", f"({', '.join(IMAGE_TYPES)})"
            cure = f"name a folder with some {cure}, or the files themselves"
        elif Path(word).exists():
            found.append(word)
        else:
            for path in sorted(glob.glob(word, recursive=True)):  # noqa: PTH207 - takes absolute ones
                found += _images_in(path) if Path(path).is_dir() else [path]
            pattern = glob.has_magic(word)
            problem = f"{word}: {'fits no file' if pattern else 'there is no such file'}"
            cure = "name images, folders of images or a pattern such as 'photos/*.jpg'"
        if len(found) == before:
            raise ConfigError(problem, cure=cure)
    if not found:
        raise ConfigError(
            "no images are named",
            cure="name images, folders of images or a pattern such as 'photos/*.jpg'",
        )
    return found


def _images_in(folder: str) -> Iterator[str]:
    """At any depth, without hidden ones; in an order that is the same everywhere."""
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if not name.startswith(".") and Path(name).suffix[1:].lower() in IMAGE_TYPES:
                yield str(Path(place, name))
