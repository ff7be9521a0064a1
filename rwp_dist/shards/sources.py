"""What shards are made from: a folder per class, a list file, or tars; listed first, then read."""

import io
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from rwp_dist.base.errors import DataError
from rwp_dist.base.files import read_lines
from rwp_dist.base.urls import local_path
from rwp_dist.data.format.manifest import MANIFEST_NAME, Manifest
from rwp_dist.data.format.sample import IMAGE_TYPES, Fields, read_samples
from rwp_dist.shards.location import count_left_out, expand_shards, open_shard, tars_in
from rwp_dist.shards.parallel import run_jobs

_LEFTOVERS = {
    *("@eaDir", "@Recycle", "#recycle", "#snapshot", "$RECYCLE.BIN", "System Volume Information"),
    *("__MACOSX", "__pycache__", "lost+found"),
}
"""Folders of file servers, archives and systems; hidden ones are left out as well."""

_SPLITS = {"train", "val", "valid", "validation", "test", "training"}


class Source(NamedTuple):
    """One sample that is not read yet."""

    name: str
    """What errors and keys call it: unique, and the same wherever the source lies."""
    kind: str
    """Extension of the image, lower case."""
    label: int
    path: str
    """The image's file, or the tar that holds the image."""
    offset: int = 0
    """Where the image begins in that file, in bytes."""
    size: int = -1
    """Bytes of the image; -1: the whole file."""


@dataclass(frozen=True)
class Listing:
    """All samples of a source, in an order that depends only on the content of the source."""

    samples: Sequence[Source]
    classes: tuple[str, ...] | None
    """Names of the labels; None: not known."""
    read: Callable[[Source], bytes]
    """Returns the content of a sample's image file. Worker processes import it."""
    left_out: Mapping[str, int] = field(default_factory=dict)
    """How many files of the source are in no sample, by kind."""
    skipped_folders: tuple[str, ...] = ()
    """Folders that are no classes, relative to the source."""


def list_source(source: str, fields: Fields | None = None, workers: int = 1) -> Listing:
    """List a folder with a folder per class, a list file, or tars.

    Args:
        source: a folder, a file, or a brace pattern of tars.
        fields: which files of a sample in the tars are its image and its label.
        workers: processes that read tars.

    Raises:
        DataError: it is none of these, or holds no samples.
    """
    path = local_path(source)
    if path is None:
        raise DataError(
            f"{source}: shards are made from local files",
            cure="copy it first, or leave the tars where they are and use `rwp-dist shards index`",
        )
    if path.is_dir() and not tars_in(path):
        return list_folders(path)
    if path.is_file() and path.suffix != ".tar":
        return list_lines(path)
    listing = list_tars(expand_shards([source]), fields or Fields(), workers)
    return replace(listing, left_out=count_left_out([source]) + Counter(listing.left_out))


def list_folders(root: Path) -> Listing:
    """List a folder per class, as torchvision's ImageFolder: sorted names are labels 0, 1, ...

    If all names are numbers, they are sorted as numbers, so that 2 comes before 10.
    """
    names = sorted(entry.name for entry in os.scandir(root) if entry.is_dir())
    classes = in_order([name for name in names if not _is_leftover(name)])
    skipped = [name for name in names if _is_leftover(name)]
    if not classes:
        raise DataError(
            f"{root}: there is neither a folder per class nor a .tar file here",
            cure="name a folder with one of them",
        )
    if set(classes) <= _SPLITS:
        raise DataError(
            f"{root}: its folders ({', '.join(classes)}) are splits, not classes",
            cure=f"write each by itself, such as {root / classes[0]}",
        )
    samples, num_skipped = list[Source](), 0
    for label, name in enumerate(classes):
        before = len(samples)
        for folder, folders, files in os.walk(root / name, onerror=_raise, followlinks=True):
            skipped += [
                os.path.relpath(Path(folder, inner), root)
                for inner in sorted(folders)
                if _is_leftover(inner)
            ]
            folders[:] = sorted(inner for inner in folders if not _is_leftover(inner))
            for file in sorted(files):
                if kind := _image_type(file):
                    path = str(Path(folder, file))
                    samples.append(Source(os.path.relpath(path, root), kind, label, path))
                else:
                    num_skipped += 1
        if len(samples) == before:
            raise DataError(
                f"{root / name}: this class has no images", cure="fill or remove the folder"
            )
    left_out = {"name without an image's ending": num_skipped} if num_skipped else {}
    return Listing(samples, tuple(classes), read_image, left_out, tuple(skipped))


def in_order(names: Iterable[str]) -> list[str]:
    """Names of classes in the order of their labels: as numbers if all are, else as text."""
    names = sorted(names)
    if all(name.isascii() and name.isdigit() for name in names):
        # By length and digits: a number of thousands of digits is none for ``int``.
        names.sort(key=lambda name: (len(name.lstrip("0")), name.lstrip("0")))
    return names


def with_classes(listing: Listing, classes: Sequence[str], place: str) -> Listing:
    """The same samples with the classes and labels of another data set.

    Args:
        listing: labels stand for its class names; if it has none, they are those of ``classes``.
        classes: names of label 0, 1, ...
        place: of the other data set, for messages.

    Raises:
        DataError: the other data set lacks a class or a label.
    """
    if listing.classes is None:
        highest = max(sample.label for sample in listing.samples)
        if highest >= len(classes):
            raise DataError(
                f"{place}: has the labels 0..{len(classes) - 1}, and here is a label {highest}",
                key="--classes-of",
                cure="name a data set with all classes",
            )
        return replace(listing, classes=tuple(classes))
    unknown = [name for name in listing.classes if name not in set(classes)]
    if unknown:
        raise DataError(
            f"{place}: has no class {unknown[0]!r}"
            + (f" ({len(unknown)} such classes in all)" if len(unknown) > 1 else ""),
            key="--classes-of",
            cure="name a data set with all classes, or remove what is none here",
        )
    label_of = {name: label for label, name in enumerate(classes)}
    label = [label_of[name] for name in listing.classes]
    samples = [sample._replace(label=label[sample.label]) for sample in listing.samples]
    return replace(listing, samples=samples, classes=tuple(classes))


def list_lines(path: Path) -> Listing:
    """List the lines of a file: a path relative to the file, a tab, and a label or class name."""
    names, labels = [], []
    try:
        lines = read_lines(path)
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path}: this is no list of lines `path<TAB>label`",
            cure="name a folder, a list or tars",
        ) from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        name, _, label = line.rpartition("\t")
        if not name or not label.strip() or not _image_type(name):
            raise DataError(
                f"{path}: line {number} is {line[:80]!r}",
                cure="write a .jpg, .jpeg, .png or .webp path, a tab and a label",
            )
        names.append(name)
        labels.append(label.strip())
    if not names:
        raise DataError(f"{path}: this list is empty", cure="write lines `path<TAB>label`")
    numeric = all(label.isascii() and label.isdigit() for label in labels)
    for label in labels if numeric else ():
        if len(label) > 10 or int(label) >= 2**31:
            raise DataError(
                f"{path}: the label {label[:40]} is too large",
                cure="number the classes from 0, below 2^31",
            )
    classes = None if numeric else tuple(in_order(set(labels)))
    number_of = {name: number for number, name in enumerate(classes or ())}
    samples = [
        Source(
            name,
            _image_type(name),
            int(label) if numeric else number_of[label],
            str(_beside(path.parent, name)),
        )
        for name, label in zip(names, labels, strict=True)
    ]
    return Listing(samples, classes, read_image)


def list_tars(shards: Sequence[str], fields: Fields, workers: int) -> Listing:
    """List the samples of tars; only their images and labels are used."""
    found, left_out = dict[str, list[Source]](), Counter[str]()
    for shard, listed, unused in run_jobs(partial(_list_tar, fields=fields), shards, workers):
        found[shard] = listed
        left_out.update(unused)
    samples = [sample for shard in shards for sample in found[shard]]
    if not samples:
        raise DataError(
            f"{shards[0]}: there are no samples in this source", cure="name another one"
        )
    return Listing(samples, _classes_beside(Path(shards[0])), read_image, left_out)


def read_image(sample: Source) -> bytes:
    """The content of an image's file.

    Raises:
        DataError: it cannot be read.
    """
    try:
        with Path(sample.path).open("rb") as file:
            file.seek(sample.offset)
            data = file.read(sample.size)
    except OSError as error:
        raise DataError(
            f"{sample.path}: cannot be read ({error.strerror})", cure="check the source"
        ) from error
    if not data or sample.size not in (-1, len(data)):
        raise DataError(
            f"{sample.path}: {sample.name} is empty or cut short", cure="check the source"
        )
    return data


def encode(image: Image.Image, kind: str, **options: int) -> bytes:
    """The content of an image's file, of a format that Pillow names, with its options."""
    buffer = io.BytesIO()
    image.save(buffer, format=kind, **options)
    return buffer.getvalue()


def _list_tar(shard: str, fields: Fields) -> tuple[str, list[Source], Counter[str]]:
    samples, left_out = [], Counter[str]()
    with open_shard(shard) as file:
        for sample in read_samples(file, shard, fields, left_out, images=False):
            kind, image = sample.image()
            label = sample.label()
            name = f"{Path(shard).name}/{sample.key}"
            kind = kind.rpartition(".")[2]
            samples.append(Source(name, kind, label, shard, image.offset, image.size))
    return shard, samples, left_out


def _beside(folder: Path, name: str) -> Path:
    """The file that a list in ``folder`` names, perhaps with the separators of Windows."""
    path = folder / name
    if "\\" in name and not path.exists():
        return folder / name.replace("\\", "/")
    return path


def _classes_beside(shard: Path) -> tuple[str, ...] | None:
    path = shard.parent / MANIFEST_NAME
    return Manifest.load(path).classes if path.exists() else None


def _image_type(name: str) -> str:
    """The extension, lower case, of an image that is not hidden; empty for other files."""
    kind = Path(name).suffix[1:].lower()
    return kind if kind in IMAGE_TYPES and not Path(name).name.startswith(".") else ""


def _is_leftover(folder: str) -> bool:
    """Whether a folder's name is that of no class: hidden, or made by a file server or system."""
    return folder.startswith(".") or folder in _LEFTOVERS


def _raise(error: OSError) -> None:
    raise error  # os.walk would skip the folder
