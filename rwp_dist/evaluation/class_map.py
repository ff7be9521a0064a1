"""A file that says what the classes of a data set mean to a network. Imports no torch.

::

    n01498041                              the network's classes that count, a name or a number on a
    n01531178                              line, or as a JSON list; or a folder of shards, which has
    ["n01498041", "n01531178"]             these classes; other images are left out

    goldfish<TAB>n01443537                 each class of the data, and which of the network's it is:
    {"goldfish": 1, "cup": [968, 504],     a name or number, several that are all right, or null:
     "ant nest": null}                     its images are left out

    [[65], [795, 230], []]                 the right classes of the images 1, 2, 3, ..., by the
                                           number that their file names end with (ReaL)
    {"ILSVRC2012_val_00000001.JPEG": [65]} likewise, by their file names

A number is the network's output, from 0. Only classes that a file of the first two kinds names are
possible answers of the network; one of the other two leaves all of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rwp_dist.base.errors import ConfigError
from rwp_dist.base.files import MOST_JSON_BYTES, decoded, parse_json, read_file, text_lines
from rwp_dist.data.format.manifest import MANIFEST_NAME, Manifest

KEY = "--classes"

Name = str | int
"""A class by its name, or by its number."""
Names = tuple[Name, ...]


@dataclass(frozen=True)
class ClassMap:
    """The content of such a file; of its three parts one is not None."""

    place: str
    """Its path, for messages."""
    classes: Names | None = None
    """Of the network that count."""
    by_name: dict[str, Names] | None = None
    """Right classes of each class of the data, or of each image."""
    by_number: tuple[Names, ...] | None = None
    """Right classes of the images 1, 2, ..."""


def read_class_map(path: Path) -> ClassMap:
    """The content of a class map.

    Raises:
        ConfigError: it is missing, cannot be read, or is of none of these kinds.
        DataError: it is a folder without shards, or its manifest is damaged.
    """
    if path.is_dir() or path.name == MANIFEST_NAME:
        names = Manifest.load(path).classes
        if names is None:
            raise ConfigError(
                f"{path}: the names of its classes are not known",
                key=KEY,
                cure="name a file with the classes, or give the shards names by `rwp-dist shards "
                "index DIR --classes FILE`",
            )
        return ClassMap(str(path), classes=names)
    try:
        data = read_file(path, MOST_JSON_BYTES)
        text = decoded(data)
        if text.lstrip()[:1] in ("[", "{"):
            return _of_json(path, parse_json(text))
        return _of_lines(path, text_lines(data))
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot be read ({error.strerror})", key=KEY, cure="check the path"
        ) from None
    except (ValueError, RecursionError):
        raise _no_map(path, "it is neither JSON nor text") from None


def _of_json(path: Path, content: Any) -> ClassMap:
    """Raises ConfigError: it is of no known kind."""
    if isinstance(content, dict):
        by_name = {
            name: () if value is None else tuple(value) if _is_list(value) else (value,)
            for name, value in content.items()
        }
        odd = next((n for n, names in by_name.items() if not all(map(_is_name, names))), None)
        if odd is not None:
            raise _no_map(path, f"{odd[:80]!r} has {content[odd]!r:.80} there")
        return ClassMap(str(path), by_name=by_name)
    if content and all(map(_is_list, content)):
        for number, names in enumerate(content, 1):
            if not all(map(_is_name, names)):
                raise _no_map(path, f"its image {number:,} has {names!r:.80}")
        return ClassMap(str(path), by_number=tuple(map(tuple, content)))
    if odd := next((f"{name!r:.80}" for name in content if not _is_name(name)), None):
        raise _no_map(path, f"{odd} is no class")
    return _listed(path, content)


def _of_lines(path: Path, lines: Sequence[str]) -> ClassMap:
    """Raises ConfigError: a line has a tab and others have none, or a class comes twice."""
    rows = [[cell.strip() for cell in line.split("\t")] for line in lines if line.strip()]
    if all(len(row) == 1 for row in rows):
        return _listed(path, [name for [name] in rows])
    by_name: dict[str, Names] = {}
    for row in rows:
        if len(row) != 2 or not row[0]:
            raise _no_map(path, f"it has the line {' '.join(row)[:80]!r}")
        if row[0] in by_name:
            raise _no_map(path, f"{row[0][:80]!r} stands there twice")
        by_name[row[0]] = () if row[1] in ("", "null") else (row[1],)
    return ClassMap(str(path), by_name=by_name)


def _listed(path: Path, names: Sequence[Name]) -> ClassMap:
    if not names:
        raise _no_map(path, "it is empty")
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise _no_map(path, f"{twice!r:.80} stands there twice")
    return ClassMap(str(path), classes=tuple(names))


def _is_list(value: Any) -> bool:
    return isinstance(value, list)


def _is_name(value: Any) -> bool:
    return isinstance(value, str | int) and not isinstance(value, bool)


def _no_map(path: Path, problem: str) -> ConfigError:
    return ConfigError(
        f"{path}: {problem}, so this is no map of classes",
        key=KEY,
        cure="give a class on each line, lines `class<TAB>class of the network`, or JSON as "
        "docs/evaluation.md shows it",
    )
