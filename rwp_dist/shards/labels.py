"""Images in one place, and a table that says the class of each.

ImageNet's validation images come like this, and most data sets of Kaggle::

    ImageId,PredictionString                         LOC_val_solution.csv of Kaggle: a header, a
    ILSVRC2012_val_00048981,n03995372 85 1 499 272   name without its ending, the class and boxes

    ILSVRC2012_val_00048981.JPEG 65                  val.txt of Caffe and others: name and label
"""

import csv
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from rwp_dist.base.errors import DataError
from rwp_dist.base.files import read_lines
from rwp_dist.shards.samples import Samples, Source
from rwp_dist.shards.sources import Listing, image_type, images_in, numbered, read_image

_KEY = "--labels"
_KAGGLE = "PredictionString"
"""Kaggle's column of a class and boxes."""


def list_labelled(source: Path, table: Path) -> Listing:
    """List the images in a folder or a tar under the labels that a table gives them.

    A table has a row for each image: its name, with or without its ending and its folder, and its
    label or class, separated by a comma, semicolon, tab or blank. A first row that names no image
    is the header.

    Raises:
        DataError: the table is none, or does not fit the images.
    """
    images, left_out = images_in(source)
    place_of = _Names(images)
    rows = _read_table(table)
    header: Sequence[str] = ()
    if place_of.find(rows[0][0]) is None and not image_type(rows[0][0]):
        header, *rows = rows
    found: dict[int, str] = {}
    missing = []
    for name, label in rows:
        place = place_of.find(name)
        if place is None:
            missing.append(name)
        elif place in found:
            raise DataError(f"{table}: {name} stands there twice", key=_KEY, cure="remove one")
        else:
            found[place] = label.split()[0] if _KAGGLE in header and label else label
    if missing or not found:
        raise DataError(
            f"{table}: {len(missing):,} of {len(rows):,} names are not in {source} once, such as "
            f"{(missing or header)[0]}",
            key=_KEY,
            cure="name the folder or the tar with all of these images, each under a name of its "
            "own",
        )
    if unlabelled := len(images) - len(found):
        left_out["image without a row in the table"] += unlabelled
    places = sorted(found)
    labels, classes = numbered([found[place] for place in places], table)
    samples = Samples(
        images[place]._replace(label=label) for place, label in zip(places, labels, strict=True)
    )
    return Listing(samples, classes, read_image, left_out)


class _Names:
    """Finds an image by its path, or by its name alone if it is the only one of that name."""

    def __init__(self, images: Sequence[Source]) -> None:
        self._images = images
        self._places: dict[str, int | None] = {}
        for place, image in enumerate(images):
            path = PurePosixPath(image.name)
            for name in {str(path), str(path.with_suffix("")), path.name, path.stem}:
                self._places[name] = None if name in self._places else place

    def find(self, name: str) -> int | None:
        """The place of the one image that is meant; None if there is none, or several."""
        path = PurePosixPath(name.replace("\\", "/"))
        place = self._places.get(str(path), self._places.get(path.name))
        if place is None:
            return None
        # A row may name more folders than there are here, or fewer, but no others.
        there = PurePosixPath(self._images[place].name)
        both = zip(reversed(path.parent.parts), reversed(there.parent.parts), strict=False)
        return place if all(one == two for one, two in both) else None


def _read_table(path: Path) -> list[tuple[str, str]]:
    """Name and label of each row, the header included."""
    try:
        lines = [line for line in read_lines(path) if line.strip()]
        mark = next((mark for mark in "\t,;" if lines and mark in lines[0]), None)
        rows = list(csv.reader(lines, delimiter=mark)) if mark else [x.split() for x in lines]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        cause = getattr(error, "strerror", None) or "it is no text"
        raise DataError(
            f"{path}: this is no table ({cause})", key=_KEY, cure="give another"
        ) from error
    if not rows:
        raise DataError(f"{path}: it is empty", key=_KEY, cure="give another table")
    if all(len(row) == 1 for row in rows):
        raise DataError(
            f"{path}: its lines name no images; numbers alone, as in ImageNet's devkit, are not "
            "the labels of sorted class names",
            key=_KEY,
            cure="give LOC_val_solution.csv of Kaggle, or let torchvision.datasets.ImageNet(ROOT, "
            "'val') unpack the archives into a folder for each class, and write ROOT/val",
        )
    for number, row in enumerate(rows, 1):
        if len(row) != 2 or not row[0].strip() or not row[1].strip():
            raise DataError(
                f"{path}: row {number} is {','.join(row)[:80]!r}",
                key=_KEY,
                cure="write two columns, the name of an image and its label",
            )
    return [(name.strip(), label.strip()) for name, label in rows]
