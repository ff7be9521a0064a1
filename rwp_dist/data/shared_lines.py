"""Lines of epochs that one process of a node makes, and all others map.

::

    STEM.SEED-EPOCH.line     shards, ends and table, one after another as ``np.save`` writes them

The line of balanced classes has a place for each sample, and making it takes a second for ten
million. Every worker needs it at the beginning of an epoch.
"""

import mmap
import os
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from rwp_dist.base.files import atomic_file, open_file, remove_leftovers
from rwp_dist.data.format.index import read_array
from rwp_dist.data.remote import locked
from rwp_dist.data.selection import Line, Selection

WAIT_FOR_OTHERS_S = 600.0
"""How long to wait for another process that makes the same line, before doing it as well."""
KEPT_EPOCHS = 2
"""At the end of an epoch the next one's line is needed, too."""
UNUSED_S = 7 * 24 * 3600.0
"""Lines of other seeds that no process has mapped for so long are removed."""
_DTYPES = ("<i8", "<i8", "<u4")


@dataclass(frozen=True)
class SharedLines:
    """A selection whose lines have a table, which the processes of a node share."""

    selection: Selection
    stem: Path
    """How the names of the files begin: other data or another selection have another."""

    @property
    def repeats(self) -> bool:
        return self.selection.repeats

    @cached_property
    def num_samples(self) -> int:
        return self.selection.num_samples

    def line(self, seed: int, epoch: int) -> Line:
        path = self._path(seed, epoch)
        try:
            if path.parts[0] == "~":  # of a user without a home
                return self.selection.line(seed, epoch)
            path.parent.mkdir(parents=True, exist_ok=True)
            with suppress(FileNotFoundError, ValueError):
                return _mapped(path)
            with locked(path.with_name(f"{self.stem.name}.lock"), WAIT_FOR_OTHERS_S):
                with suppress(FileNotFoundError, ValueError):
                    return _mapped(path)  # another process has made it just now
                remove_leftovers(path.parent, f"{self.stem.name}.*")
                self._write(path, self.selection.line(seed, epoch))
                self._path(seed, epoch - KEPT_EPOCHS).unlink(missing_ok=True)
                now = path.stat().st_mtime
                for old in path.parent.glob(f"{self.stem.name}.*.line"):
                    if now - old.stat().st_mtime > UNUSED_S:
                        old.unlink()
                return _mapped(path)
        except OSError:  # the disk is full, or may not be written
            return self.selection.line(seed, epoch)

    def _path(self, seed: int, epoch: int) -> Path:
        return self.stem.with_name(f"{self.stem.name}.{seed}-{epoch}.line")

    @staticmethod
    def _write(path: Path, line: Line) -> None:
        with atomic_file(path) as temporary, temporary.open("wb") as file:
            for array in (line.shards, line.ends, line.table):
                assert array is not None, "lines without a table are not shared"
                np.save(file, array, allow_pickle=False)


def _mapped(path: Path) -> Line:
    """A line in memory that all processes share.

    Raises:
        OSError: there is none.
        ValueError: it is damaged.
    """
    with open_file(path) as file:
        os.utime(path)  # it is used
        content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    arrays, end = [], 0
    for dtype in _DTYPES:
        array, end = read_array(content, end, np.dtype(dtype))
        arrays.append(array)
    return Line(*arrays)
