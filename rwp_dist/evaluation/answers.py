"""Which of a network's answers are right for each sample of other data. Imports no torch."""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np
from numpy.typing import NDArray

from rwp_dist.base.errors import ConfigError
from rwp_dist.data.classes import Classes
from rwp_dist.evaluation.class_map import KEY, ClassMap, Name, Names

ROW = re.compile(r"^\d{7,}_")
"""What ``shards write`` puts before a file's name in the key of its sample."""
ODD = re.compile(r"[^A-Za-z0-9_-]")
"""What it replaces by ``_`` there."""
NUMBER = re.compile(r"\d+$")
MOST = 80
"""Characters of a name that such a key has at least."""

Right = tuple[int, ...]
"""Outputs of the network that are right; none: the sample is left out."""


@dataclass(frozen=True)
class Answers:
    """What a network may answer, and what is right for each sample."""

    choices: tuple[int, ...] | None
    """Outputs of the network that are possible answers, ascending; None: all of them."""
    sets: tuple[Right, ...]
    """Different sets of right outputs."""
    of_sample: NDArray[np.int64]
    """Number in ``sets`` of each sample; -1: it is left out."""
    note: str = ""
    """What to tell of how classes were matched; may be empty."""


class Network:
    """The classes of a network, found by name or number."""

    def __init__(self, classes: Classes, num_outputs: int) -> None:
        self.names, self.num_outputs = classes.names, num_outputs
        names = classes.names or ()
        self._numbers = {name: number for number, name in enumerate(names)}
        self._twice = len(self._numbers) < len(names)
        self._takes_digits = not any(map(_is_number, names))

    def find(self, name: Name) -> int | None:
        """The output of a class; None: there is none.

        A text is a number only where no class has a number as its name.
        """
        if isinstance(name, str):
            if name in self._numbers:
                if self._twice and (self.names or ()).count(name) > 1:
                    raise ConfigError(
                        f"the network has several classes {name[:80]!r}",
                        key=KEY,
                        cure="give their numbers",
                    )
                return self._numbers[name]
            if not (self._takes_digits and _is_number(name)):
                return None
        number = int(name)
        return number if 0 <= number < self.num_outputs else None

    def right(self, names: Names, place: str) -> Right:
        """The outputs of some classes, ascending.

        Raises:
            ConfigError: the network has no such class; ``place`` says it.
        """
        return tuple(sorted({self.must_find(name, place) for name in names}))

    def must_find(self, name: Name, place: str) -> int:
        """The output of a class.

        Raises:
            ConfigError: the network has no such class; ``place`` says it.
        """
        number = self.find(name)
        if number is None:
            known = "whose names are not known"
            if self.names:
                known = f"such as {self.names[0][:40]!r}"
            raise ConfigError(
                f"{place}: {name!r:.80} is none of the network's {self.num_outputs:,} classes",
                key=KEY,
                cure=f"name one of them ({known}), or its number from 0",
            )
        return number


def answers_of(
    class_map: ClassMap | None,
    network: Network,
    data: Classes,
    labels: NDArray[np.int32],
    sample_names: Callable[[], Sequence[str]],
) -> Answers:
    """What is right for each sample.

    Args:
        class_map: what the user says; None: classes are matched by their names.
        network: its classes.
        data: the classes of the data.
        labels: of its samples.
        sample_names: keys of its samples in their tars; asked for only by maps of images.

    Raises:
        ConfigError: classes or images do not fit each other.
    """
    if class_map is None:
        return _by_own_names(network, data, labels)
    if class_map.classes is not None:
        return _of_listed(class_map.classes, class_map.place, network, data, labels)
    by_name = class_map.by_name
    names = data.names if data.names is not None else map(str, range(data.num))
    if by_name is not None and not by_name.keys().isdisjoint(names):
        return _of_classes(by_name, class_map.place, network, data, labels)
    if by_name is not None:
        return _of_images(by_name, class_map.place, network, sample_names())
    assert class_map.by_number is not None, "a class map has one of three parts"
    return _of_numbers(class_map.by_number, class_map.place, network, sample_names())


def _by_own_names(network: Network, data: Classes, labels: NDArray[np.int32]) -> Answers:
    """Classes have the same names; or the data's are numbers of the network's."""
    if data.names is not None and network.names is not None:
        missing = [name for name in data.names if network.find(name) is None]
        if missing:
            raise ConfigError(
                f"{data.place}: {len(missing):,} of its {_classes(len(data.names))} "
                f"{'is' if len(missing) == 1 else 'are'} none of the network's, such as "
                f"{missing[0][:80]!r}",
                key=KEY,
                cure="name a file that says which of the network's each is (docs/evaluation.md)",
            )
    numbers = data.names is not None and all(map(_is_number, data.names))
    if data.names is not None and (network.names is not None or numbers):
        right = [network.right((name,), data.place) for name in data.names]
        if len(set(right)) < len(right):
            raise ConfigError(
                f"{data.place}: two of its classes are the same one of the network's",
                key=KEY,
                cure="name a file that says which of the network's each is (docs/evaluation.md)",
            )
        note = ""
        if numbers and not set(data.names) & set(network.names or ()):
            note = "the names of its classes are numbers, and taken as those of the network's"
        elif len(right) < network.num_outputs:
            note = (
                f"it has {len(right):,} of the network's {network.num_outputs:,} classes, and all "
                f"of these are possible answers ({KEY} {data.place}: only its own)"
            )
        return _of_labels(right, labels, None, note)
    if data.num != network.num_outputs:
        whose = "the network" if data.names is not None else data.place
        raise ConfigError(
            f"{data.place}: has {_classes(data.num)} and the network "
            f"{network.num_outputs:,}, and the names of {whose} are not known",
            key=KEY,
            cure="name a file with the network's classes that the data have",
        )
    return _of_labels([(number,) for number in range(data.num)], labels, None)


def _of_listed(
    classes: Names, place: str, network: Network, data: Classes, labels: NDArray[np.int32]
) -> Answers:
    """Images of these of the network's classes count."""
    listed = [network.must_find(name, place) for name in classes]
    if data.names is None:
        if data.num > len(listed):
            raise ConfigError(
                f"{data.place}: has labels up to {data.num - 1:,}, and {place} has "
                f"{_classes(len(listed))}",
                key=KEY,
                cure='give a JSON file {"label": class} with what each label means',
            )
        return _of_labels([(number,) for number in listed], labels, listed)
    found = [network.must_find(name, data.place) for name in data.names]
    right = [(number,) if number in set(listed) else () for number in found]
    return _of_labels(right, labels, listed)


def _of_classes(
    by_name: dict[str, Names],
    place: str,
    network: Network,
    data: Classes,
    labels: NDArray[np.int32],
) -> Answers:
    """Each class of the data means these of the network's."""
    right = []
    for name in data.names or map(str, range(data.num)):
        if name not in by_name:
            raise ConfigError(
                f"{place}: does not say what the class {name[:80]!r} of {data.place} is",
                key=KEY,
                cure="add it; null leaves its images out",
            )
        right.append(network.right(by_name[name], place))
    choices = {number for names in by_name.values() for number in network.right(names, place)}
    return _of_labels(right, labels, choices)


def _of_images(
    by_name: dict[str, Names], place: str, network: Network, samples: Sequence[str]
) -> Answers:
    """Right classes of each image by its file's name."""
    stems: dict[str, Names] = {}
    for name, classes in by_name.items():
        if (stem := _stem(name)) in stems:
            raise ConfigError(
                f"{place}: two images are called {name[:80]!r}",
                key=KEY,
                cure="give each image a name of its own",
            )
        stems[stem] = classes
    right = []
    for sample in samples:
        own = ROW.sub("", PurePosixPath(sample).name)
        found = stems.get(_stem(sample), stems.get(_stem(own)))
        if found is None:
            raise ConfigError(
                f"{place}: names neither the classes of the data nor its image {own[:80]!r}",
                key=KEY,
                cure="give every class of the data or every image; null or [] leaves it out",
            )
        right.append(network.right(found, place))
    return _of_each(right)


def _of_numbers(
    by_number: tuple[Names, ...], place: str, network: Network, samples: Sequence[str]
) -> Answers:
    """Right classes of image 1, 2, ..., by the number that its file's name ends with."""
    right, known = [], set[int]()
    for sample in samples:
        name = PurePosixPath(sample).name
        found = NUMBER.search(name)
        number = int(found[0]) if found else 0
        if not 0 < number <= len(by_number) or number in known:
            why = "which another one ends with too" if number in known else "which is none of these"
            what = f"ends with {number:,}, {why}" if found else "ends with no number"
            raise ConfigError(
                f"{place}: has the images 1 to {len(by_number):,}, and the name of "
                f"{ROW.sub('', name)[:80]!r} {what}",
                key=KEY,
                cure="give a JSON file {file name: [right classes]}, or write the shards anew from "
                "files that have their numbers",
            )
        known.add(number)
        right.append(network.right(by_number[number - 1], place))
    return _of_each(right)


def _is_number(name: str) -> bool:
    return name.isascii() and name.isdigit() and len(name) < 10


def _stem(name: str) -> str:
    """A file's name without its folder and ending, as ``shards write`` makes a key of it."""
    path = PurePosixPath(name.replace("\\", "/"))
    return ODD.sub("_", path.stem)[:MOST]


def _of_labels(
    right: Sequence[Right],
    labels: NDArray[np.int32],
    choices: Iterable[int] | None,
    note: str = "",
) -> Answers:
    """From the right outputs of each label."""
    sets = np.array([number if found else -1 for number, found in enumerate(right)], np.int64)
    chosen = None if choices is None else tuple(sorted(set(choices)))
    return Answers(chosen, tuple(right), sets[labels], note)


def _of_each(right: Sequence[Right]) -> Answers:
    """From the right outputs of each sample."""
    numbers: dict[Right, int] = {}
    for found in right:
        numbers.setdefault(found, len(numbers))
    of_sample = np.array([numbers[found] if found else -1 for found in right], np.int64)
    return Answers(None, tuple(numbers), of_sample)


def _classes(number: int) -> str:
    return f"{number:,} class" if number == 1 else f"{number:,} classes"
