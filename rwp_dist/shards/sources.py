"""What shards are made from: folders, lists or tars of images; listed first, then read."""

import errno
import io
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from PIL import Image

from rwp_dist.base.errors import DataError
from rwp_dist.base.files import open_file, read_lines
from rwp_dist.base.text import is_utf8, plural
from rwp_dist.data.format.manifest import MANIFEST_NAME, Manifest
from rwp_dist.data.format.sample import IMAGE_TYPES, MOST_IMAGE_BYTES, Fields, read_samples
from rwp_dist.data.format.tar import read_members
from rwp_dist.shards.location import open_shard
from rwp_dist.shards.parallel import run_jobs
from rwp_dist.shards.samples import Samples, Source

_LEFTOVERS = {
    *("@eaDir", "@Recycle", "#recycle", "#snapshot", "$RECYCLE.BIN", "System Volume Information"),
    *("__MACOSX", "__pycache__", "lost+found"),
}
"""Folders of file servers, archives and systems; hidden ones are left out as well."""

_NO_IMAGE = "name without an image's ending"

_SPLITS = {"train", "val", "valid", "validation", "test", "training"}


_WHOLE = re.compile(r"^([0-9]+)\.0*$")
"""A whole number as pandas writes it in a column with gaps, such as 3.0."""


@dataclass(frozen=True)
class Listing:
    """All samples of a source, in an order that depends only on the content of the source."""

    samples: Samples
    classes: tuple[str, ...] | None
    """Names of the labels; None: not known."""
    read: Callable[[Source], bytes]
    """Returns the content of a sample's image file. Worker processes import it."""
    left_out: Mapping[str, int] = field(default_factory=dict)
    """How many files of the source are in no sample, by kind."""
    skipped_folders: tuple[str, ...] = ()
    """Folders that are no classes, relative to the source."""
    note: str = ""
    """Where the classes come from, if that should be said."""


def list_folders(root: Path) -> Listing:
    """List a folder per class, as torchvision's ImageFolder: sorted names are labels 0, 1, ...

    If all names are numbers, they are sorted as numbers, so that 2 comes before 10.
    """
    with os.scandir(root) as entries:
        beside = [entry.name for entry in entries if image_type(entry.name)]
    with os.scandir(root) as entries:
        names = sorted(entry.name for entry in entries if _kind(entry) == "folder")
    classes = in_order([name for name in names if not _is_leftover(name)])
    skipped = [name for name in names if _is_leftover(name)]
    if not classes and beside:
        raise DataError(
            f"{root}: {plural(len(beside), 'image')} without classes",
            cure="put them into a folder for each class, or name a table with the label of each by "
            "--labels FILE",
        )
    if not classes:
        raise DataError(
            f"{root}: there is neither a folder per class nor a .tar file here",
            cure="name a folder with one of them",
        )
    if strange := next((name for name in classes if not is_utf8(name)), None):
        raise DataError(
            f"{root}: the name of the folder {strange!r} is not UTF-8",
            cure="rename it (convmv does many)",
        )
    if set(classes) <= _SPLITS:
        raise DataError(
            f"{root}: its folders ({', '.join(classes)}) are splits, not classes",
            cure=f"write each by itself, such as {root / classes[0]}",
        )
    samples, left_out = Samples(), Counter[str]()
    begin = str(root / "x").removesuffix("x")
    for label, name in enumerate(classes):
        before = len(samples)
        for inner in _walk(root, name, left_out, skipped):
            if kind := image_type(inner):
                samples.append(Source(inner, kind, label, begin + inner))
            else:
                left_out[_NO_IMAGE] += 1
        if len(samples) == before:
            raise DataError(
                f"{root / name}: this class has no images", cure="fill or remove the folder"
            )
    left_out["image beside the folders"] += len(beside)
    return Listing(samples, tuple(classes), read_image, +left_out, tuple(skipped))


def images_in(source: Path) -> tuple[list[Source], Counter[str]]:
    """All images in a folder or a tar, sorted by name, without labels; what was left out, by kind.

    Raises:
        DataError: there are none, or it is neither.
    """
    images, left_out = list[Source](), Counter[str]()
    if source.is_dir():
        for inner in _walk(source, "", left_out, []):
            images.append(Source(inner, image_type(inner), -1, str(source / inner)))
    else:
        with open_shard(str(source)) as tar:
            for member in read_members(tar, str(source), left_out):
                if member.unusable is not None:
                    left_out["link or sparse file"] += 1
                    continue
                place = (str(source), member.offset, member.size)
                images.append(Source(member.name, image_type(member.name), -1, *place))
    left_out[_NO_IMAGE] += sum(not image.kind for image in images)
    images = sorted(image for image in images if image.kind)
    if not images:
        raise DataError(
            f"{source}: there are no images here", cure="name a folder or tar of images"
        )
    return images, +left_out


def _walk(root: Path, name: str, left_out: Counter[str], skipped: list[str]) -> Iterator[str]:
    """Files of a class, relative to ``root``; each folder's own come before those below it.

    Without a ``name``, all files below ``root``.

    Links are followed, but no folder is read twice, nor one around the class: links in a circle
    end. What is neither file nor folder is counted in ``left_out`` by kind; folders that belong to
    no class are added to ``skipped``.
    """
    rest, known = [name], {_number(folder) for folder in root.resolve().parents}
    if name:
        known.add(_number(root))
    while rest:
        folder = rest.pop()
        number = _number(root / folder)
        if number in known:
            left_out["folder that a link leads to again"] += 1
            continue
        known.add(number)
        below = list[str]()
        with os.scandir(root / folder) as found:
            entries = sorted(found, key=lambda entry: entry.name)
        for entry in entries:
            path = f"{folder}/{entry.name}".removeprefix("/")
            kind = _kind(entry)
            if kind == "folder":
                (skipped if _is_leftover(entry.name) else below).append(path)
            elif kind == "file":
                yield path
            else:
                left_out[kind] += 1
        rest += reversed(below)


def _kind(entry: os.DirEntry[str]) -> str:
    """What an entry of a folder is, or what its link leads to."""
    try:
        if entry.is_dir():
            return "folder"
        if entry.is_file():
            return "file"
    except OSError:  # a link in a circle, or to where we may not look
        return "link to nowhere"
    return "link to nowhere" if not Path(entry).exists() else "pipe, socket or device"


def _number(folder: Path) -> tuple[int, int]:
    """The same for a folder by whatever path."""
    stat = folder.stat()
    return stat.st_dev, stat.st_ino


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
    label_of = {name: label for label, name in enumerate(classes)}
    unknown = [name for name in listing.classes if name not in label_of]
    if unknown:
        raise DataError(
            f"{place}: has no class {unknown[0]!r}"
            + (f" ({len(unknown)} such classes in all)" if len(unknown) > 1 else ""),
            key="--classes-of",
            cure="name a data set with all classes, or remove what is none here",
        )
    count = Counter(classes)
    if twice := [name for name in listing.classes if count[name] > 1]:
        raise DataError(
            f"{place}: two of its classes are called {twice[0]!r}, so a name does not tell the "
            "label",
            key="--classes-of",
            cure="give each class a name of its own (`rwp-dist shards index --classes FILE`)",
        )
    samples = listing.samples.relabelled([label_of[name] for name in listing.classes])
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
        if not name or not label.strip() or not image_type(name):
            raise DataError(
                f"{path}: line {number} is {line[:80]!r}",
                cure="write a .jpg, .jpeg, .png or .webp path, a tab and a label; for a table of "
                "images that lie in one folder, write that FOLDER --labels with this file",
            )
        names.append(name)
        labels.append(label.strip())
    if not names:
        raise DataError(f"{path}: this list is empty", cure="write lines `path<TAB>label`")
    numbers, classes = numbered(labels, path)
    samples = Samples(
        Source(name, image_type(name), number, str(_beside(path.parent, name)))
        for name, number in zip(names, numbers, strict=True)
    )
    return Listing(samples, classes, read_image)


def numbered(labels: Sequence[str], place: Path) -> tuple[list[int], tuple[str, ...] | None]:
    """Labels that a text gives, as numbers; and the names of the classes, unless it gives numbers.

    Raises:
        DataError: a number is too large; ``place`` is the text's.
    """
    labels = [_WHOLE.sub(r"\1", label) for label in labels]
    if not all(label.isascii() and label.isdigit() for label in labels):
        if all(map(_is_number, labels)):
            odd = next(label for label in labels if not (label.isascii() and label.isdigit()))
            raise DataError(
                f"{place}: the labels are numbers, but {odd[:40]!r} is no whole number from 0",
                cure="number the classes 0, 1, ..., or give their names",
            )
        classes = tuple(in_order(set(labels)))
        number_of = {name: number for number, name in enumerate(classes)}
        return [number_of[label] for label in labels], classes
    for label in labels:
        if len(label) > 10 or int(label) >= 2**31:
            raise DataError(
                f"{place}: the label {label[:40]} is too large",
                cure="number the classes from 0, below 2^31",
            )
    return [int(label) for label in labels], None


def _is_number(label: str) -> bool:
    try:
        float(label)
    except ValueError:
        return False
    return True


def list_tars(shards: Sequence[str], fields: Fields, workers: int) -> Listing:
    """List the samples of tars; only their images and labels are used."""
    found, left_out = dict[str, Samples](), Counter[str]()
    for shard, listed, unused in run_jobs(partial(_list_tar, fields=fields), shards, workers):
        found[shard] = listed
        left_out.update(unused)
    samples = Samples()
    for shard in shards:
        samples.extend(found[shard])
    if not samples:
        raise DataError(
            f"{shards[0]}: there are no samples in this source", cure="name another one"
        )
    return Listing(samples, _classes_beside(shards), read_image, left_out)


def read_image(sample: Source) -> bytes:
    """The content of an image's file.

    Raises:
        DataError: it cannot be read.
    """
    try:
        with open_file(sample.path) as file:
            size = sample.size if sample.size >= 0 else os.fstat(file.fileno()).st_size
            if size > MOST_IMAGE_BYTES:
                raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
            file.seek(sample.offset)
            data = file.read(size)
            while len(data) < size and (more := file.read(size - len(data))):
                data += more  # a disk may give less at a time
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


def _list_tar(shard: str, fields: Fields) -> tuple[str, Samples, Counter[str]]:
    samples, left_out = Samples(), Counter[str]()
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


def _classes_beside(shards: Sequence[str]) -> tuple[str, ...] | None:
    """The names of classes in the manifest beside shards, if it is a manifest of all of them."""
    folder = Path(shards[0]).parent
    if not (folder / MANIFEST_NAME).exists():
        return None
    manifest = Manifest.load(folder)
    known = {Path(location).resolve() for location in manifest.shard_locations()}
    return manifest.classes if known >= {Path(shard).resolve() for shard in shards} else None


def image_type(name: str) -> str:
    """The extension, lower case, of an image that is not hidden; empty for other files."""
    last = last_part(name)
    stem, _, kind = last.rpartition(".")
    kind = kind.lower()
    return kind if stem and kind in IMAGE_TYPES and not last.startswith(".") else ""


def last_part(name: str) -> str:
    """``Path(name).name``, in a tenth of its time."""
    last = name.rpartition("/")[2]
    return last if last not in ("", ".") else Path(name).name


def _is_leftover(folder: str) -> bool:
    """Whether a folder's name is that of no class: hidden, or made by a file server or system."""
    return folder.startswith(".") or folder in _LEFTOVERS
