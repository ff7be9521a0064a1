"""What shards are made from: a folder per class, a list file, or tars; listed, then read."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

from rwp_dist.base.errors import DataError
from rwp_dist.data.format.index import sample_image, sample_label
from rwp_dist.data.format.manifest import MANIFEST_NAME, Manifest
from rwp_dist.data.format.tar import IMAGE_TYPES, read_samples
from rwp_dist.data.remote.openers import local_path
from rwp_dist.shards.opening import expand_shards, open_shard
from rwp_dist.shards.parallel import run_jobs

_SPLITS = {"train", "val", "valid", "validation", "test", "training"}


class Source(NamedTuple):
    """One sample, not yet read."""

    name: str
    """What errors and keys call it: unique, and the same wherever the source lies."""
    kind: str
    """Extension of its image, lower case."""
    label: int
    path: str
    """The file, or the tar, that holds the image."""
    offset: int = 0
    size: int = -1
    """Bytes of the image; -1: all of the file."""


@dataclass(frozen=True)
class Listing:
    """All samples of a source, in an order that depends on its content alone."""

    samples: Sequence[Source]
    classes: tuple[str, ...] | None
    """Names of the labels, or None where nobody knows them."""
    read: Callable[[Source], bytes]
    """Importable: worker processes call it."""
    num_skipped: int = 0
    """Files that are no images."""


def read_source(sample: Source) -> bytes:
    """The image's file content.

    Raises:
        DataError: it cannot be read.
    """
    try:
        with Path(sample.path).open("rb") as file:
            file.seek(sample.offset)
            data = file.read(sample.size)
    except OSError as error:
        raise DataError(
            f"{sample.path}: cannot be read ({error.strerror}); check the source."
        ) from error
    if not data or sample.size not in (-1, len(data)):
        raise DataError(f"{sample.path}: {sample.name} is empty or cut short; check the source.")
    return data


def list_source(source: str, label_key: str | None = None, workers: int = 1) -> Listing:
    """List a folder with a folder per class, a list file, or tars (a folder, a file, braces).

    Raises:
        DataError: it is none of these, or holds no samples.
    """
    path = local_path(source)
    if path is None:
        raise DataError(
            f"{source}: shards are made from local files; copy it first, or leave the tars where "
            "they are and use `rwp-dist shards index`."
        )
    if path.is_dir() and not any(path.glob("*.tar")):
        try:
            return list_folders(path)
        except OSError as error:
            raise DataError(
                f"{error.filename}: cannot be read ({error.strerror}); check its permissions."
            ) from error
    if path.is_file() and path.suffix != ".tar":
        return list_lines(path)
    return list_tars(expand_shards([source]), label_key, workers)


def list_folders(root: Path) -> Listing:
    """A folder per class, as torchvision's ImageFolder: labels are places in the sorted names."""
    classes = sorted(entry.name for entry in os.scandir(root) if entry.is_dir())
    if not classes:
        raise DataError(
            f"{root}: there is neither a folder per class nor a .tar file here; name a folder "
            "with one of them."
        )
    if set(classes) <= _SPLITS:
        raise DataError(
            f"{root}: its folders ({', '.join(classes)}) are splits, not classes; "
            f"write each by itself, such as {root / classes[0]}."
        )
    samples, num_skipped = list[Source](), 0
    for label, name in enumerate(classes):
        before = len(samples)
        for folder, folders, files in os.walk(root / name, onerror=_fail, followlinks=True):
            folders.sort()
            for file in sorted(files):
                if kind := _image_type(file):
                    path = str(Path(folder, file))
                    samples.append(Source(os.path.relpath(path, root), kind, label, path))
                else:
                    num_skipped += 1
        if len(samples) == before:
            raise DataError(f"{root / name}: this class has no images; fill or remove the folder.")
    return Listing(samples, tuple(classes), read_source, num_skipped)


def _fail(error: OSError) -> None:
    raise error  # os.walk alone would leave the folder out


def list_lines(path: Path) -> Listing:
    """A list file: a path (relative to the file), a tab and a label (number or name) per line."""
    names, labels = [], []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path}: this is no list of lines `path<TAB>label`; name a folder, a list or tars."
        ) from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        name, _, label = line.rpartition("\t")
        if not name or not label.strip() or not _image_type(name):
            raise DataError(
                f"{path}: line {number} is {line[:80]!r}; write a .jpg, .jpeg, .png or .webp path, "
                "a tab and a label."
            )
        names.append(name)
        labels.append(label.strip())
    if not names:
        raise DataError(f"{path}: this list is empty; write lines `path<TAB>label`.")
    numeric = all(label.isascii() and label.isdigit() for label in labels)
    classes = None if numeric else tuple(sorted(set(labels)))
    number_of = {name: number for number, name in enumerate(classes or ())}
    samples = [
        Source(
            name,
            _image_type(name),
            int(label) if numeric else number_of[label],
            str(path.parent / name),
        )
        for name, label in zip(names, labels, strict=True)
    ]
    return Listing(samples, classes, read_source)


def list_tars(shards: Sequence[str], label_key: str | None, workers: int) -> Listing:
    """Tars of samples; only images and labels are taken over."""
    found = dict(run_jobs(partial(_list_tar, label_key=label_key), shards, workers))
    samples = [sample for shard in shards for sample in found[shard]]
    if not samples:
        raise DataError(f"{shards[0]}: there are no samples in this source; name another one.")
    return Listing(samples, _classes_beside(Path(shards[0])), read_source)


def _list_tar(shard: str, label_key: str | None) -> tuple[str, list[Source]]:
    samples = []
    label_type = "json" if label_key else "cls"
    with open_shard(shard) as file:
        for sample in read_samples(file, shard, keep=lambda kind: kind == label_type):
            kind, image = sample_image(sample, shard)
            label = sample_label(sample, shard, label_key)
            name = f"{Path(shard).name}/{sample.key}"
            samples.append(Source(name, kind, label, shard, image.offset, image.size))
    return shard, samples


def _classes_beside(shard: Path) -> tuple[str, ...] | None:
    path = shard.parent / MANIFEST_NAME
    return Manifest.load(path).classes if path.exists() else None


def _image_type(name: str) -> str:
    """The extension, lower case, of an image that is not hidden; nothing for other files."""
    kind = Path(name).suffix[1:].lower()
    return kind if kind in IMAGE_TYPES and not Path(name).name.startswith(".") else ""
