"""The samples of a source, held in a few arrays until they are read."""

from array import array
from collections.abc import Iterable, Sequence
from copy import copy
from typing import NamedTuple, overload


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


class _Group(NamedTuple):
    """What many samples have in common."""

    folder: str
    """The beginning of their names, with the slash."""
    kind: str
    path: str
    """Of the tar that holds them; or the beginning of each path, which ends with the name."""
    in_tar: bool


class Samples(Sequence[Source]):
    """A list of ``Source`` that takes some 40 bytes for each, and not 700.

    It keeps the last parts of names, and numbers; a ``Source`` is made when it is asked for.
    """

    def __init__(self, samples: Iterable[Source] = ()) -> None:
        self._names = bytearray()
        self._ends, self._labels, self._groups = array("q"), array("i"), array("i")
        self._numbers: dict[_Group, int] = {}
        self._table: list[_Group] = []
        self._offsets, self._sizes = array("q"), array("q")
        """Up to the last sample that is not a whole file."""
        self.extend(samples)

    def append(self, sample: Source) -> None:
        """Add a sample at the end."""
        head, slash, tail = sample.name.rpartition("/")
        begin = sample.path.removesuffix(sample.name)
        group = _Group(head + slash, sample.kind, begin, begin == sample.path)
        number = self._numbers.setdefault(group, len(self._numbers))
        if number == len(self._table):
            self._table.append(group)
        if sample.offset or sample.size != -1:
            missing = len(self) - len(self._offsets)
            self._offsets.extend([0] * missing + [sample.offset])
            self._sizes.extend([-1] * missing + [sample.size])
        self._groups.append(number)
        self._names += tail.encode(errors="surrogatepass")
        self._ends.append(len(self._names))
        self._labels.append(sample.label)

    def extend(self, samples: Iterable[Source]) -> None:
        """Add samples at the end."""
        for sample in samples:
            self.append(sample)

    def relabelled(self, labels: Sequence[int]) -> "Samples":
        """The same samples, of which label 0 becomes ``labels[0]``, and so on; shares memory."""
        other = copy(self)
        other._labels = array("i", map(labels.__getitem__, self._labels))
        return other

    def __len__(self) -> int:
        return len(self._ends)

    @overload
    def __getitem__(self, row: int) -> Source: ...

    @overload
    def __getitem__(self, row: slice) -> Sequence[Source]: ...

    def __getitem__(self, row: int | slice) -> Source | Sequence[Source]:
        if isinstance(row, slice):
            return [self[each] for each in range(len(self))[row]]
        row = range(len(self))[row]
        group = self._table[self._groups[row]]
        begin = self._ends[row - 1] if row else 0
        tail = self._names[begin : self._ends[row]].decode(errors="surrogatepass")
        name = group.folder + tail
        path = group.path if group.in_tar else group.path + name
        place = (self._offsets[row], self._sizes[row]) if row < len(self._offsets) else ()
        return Source(name, group.kind, self._labels[row], path, *place)
