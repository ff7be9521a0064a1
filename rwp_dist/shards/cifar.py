"""CIFAR-100 as a source of shards, read from its authors' archive ``cifar-100-python.tar.gz``.

::

    cifar-100-python/meta     a pickle: {"fine_label_names": 100 names, ...}
    cifar-100-python/train    a pickle: {"data": uint8 [50000, 3072], "fine_labels": [...], ...}
    cifar-100-python/test     the same with 10,000 images

A row of ``data`` is an image of 32x32 pixels: all red values, then all green, then all blue.
"""

import pickle
import tarfile
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from rwp_dist.base.errors import DataError
from rwp_dist.base.files import open_file
from rwp_dist.shards.samples import Samples, Source
from rwp_dist.shards.sources import Listing, encode

FOLDER = "cifar-100-python"
SPLITS = ("train", "test")

_HARMLESS = {
    ("numpy", "dtype"),
    ("numpy", "ndarray"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("_codecs", "encode"),
}
"""What a pickled array needs. An unrestricted pickle can run any program."""


class _ArrayUnpickler(pickle.Unpickler):
    """Reads arrays, numbers and texts, and refuses everything else."""

    def find_class(self, module: str, name: str) -> Any:
        module = module.replace("numpy.core.", "numpy._core.")  # its name in numpy 1
        if (module, name) not in _HARMLESS:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return super().find_class(module, name)


def cifar100_listing(archive: Path, split: str) -> Listing:
    """The images of one of ``SPLITS`` with their fine labels, in the archive's order.

    Raises:
        DataError: the archive is another one, or damaged.
    """
    content = _member(archive, split)
    names = tuple(str(name) for name in _member(archive, "meta")["fine_label_names"])
    try:
        labels = [int(label) for label in content["fine_labels"]]
        samples = Samples(
            Source(f"{split}/{row:05d}", "png", label, str(archive), row)
            for row, label in enumerate(labels)
        )
        if not samples or len(_pixels(archive, split)) != len(samples):
            raise ValueError("there are not as many images as labels")
        if not set(labels) <= set(range(len(names))):
            raise ValueError("a label has no name")
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise _damaged(archive, error) from error
    return Listing(samples, names, partial(_read_png, split=split))


def _read_png(sample: Source, split: str) -> bytes:
    return encode(Image.fromarray(_pixels(Path(sample.path), split)[sample.offset]), "png")


@lru_cache(maxsize=2)
def _pixels(archive: Path, split: str) -> NDArray[np.uint8]:
    """``[N, 32, 32, 3]``; each worker process reads them once."""
    rows = np.asarray(_member(archive, split)["data"], dtype=np.uint8)
    return np.ascontiguousarray(rows.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))


def _member(archive: Path, name: str) -> dict[str, Any]:
    """One pickled dictionary of the archive."""
    try:
        with open_file(archive) as whole, tarfile.open(fileobj=whole) as tar:
            file = tar.extractfile(f"{FOLDER}/{name}")
            content = None if file is None else _ArrayUnpickler(file, encoding="latin1").load()
    except OSError:
        raise
    except Exception as error:  # a pickle raises whatever broken bytes lead it to
        raise _damaged(archive, error) from error
    if not isinstance(content, dict):
        raise _damaged(archive, f"{FOLDER}/{name} holds no dictionary")
    return content


def _damaged(archive: Path, why: object) -> DataError:
    return DataError(
        f"{archive}: is not the CIFAR-100 archive, or is damaged ({why})",
        cure="fetch cifar-100-python.tar.gz again",
    )
