"""What the labels of data sets mean, and what to tell of them before the first step."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import reduce
from typing import Any, NamedTuple

from rwp_dist.base.errors import DataError
from rwp_dist.base.urls import shown
from rwp_dist.config import Settings, Split
from rwp_dist.data.format.manifest import Manifest


@dataclass(frozen=True)
class Classes:
    """The classes of one or of several data sets, in the order of their labels."""

    num: int
    """0: not known, because the shards are adopted."""
    names: tuple[str, ...] | None
    """None: not known."""
    place: str
    """The folder or URL of the data, for messages."""

    @classmethod
    def of(cls, manifests: Iterable[Manifest]) -> "Classes":
        """Those of a mixture.

        Raises:
            DataError: a label means different classes in two of them.
        """
        each = (cls(m.num_classes, m.classes, shown(m.location)) for m in manifests)
        return reduce(cls.joined, each)

    def joined(self, other: "Classes") -> "Classes":
        """The classes of both, of which one may have more than the other.

        Raises:
            DataError: a label means different classes in them.
        """
        if self.names is None or other.names is None:
            named = other if self.names is None else self
            return Classes(max(self.num, other.num), named.names, named.place)
        for label, (one, two) in enumerate(zip(self.names, other.names, strict=False)):
            if one != two:
                lacks_some = set(self.names) < set(other.names)
                again, model = (self, other) if lacks_some else (other, self)
                raise DataError(
                    f"labels do not mean the same: {label} is {one[:80]!r} in {self.place} and "
                    f"{two[:80]!r} in {other.place}",
                    cure=f"write {again.place} again with `rwp-dist shards write SOURCE --out DIR "
                    f"--classes-of {model.place}`",
                )
        return self if self.num >= other.num else other

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return asdict(self)

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> "Classes":
        """From what ``state`` gave."""
        names = state["names"]
        return cls(state["num"], None if names is None else tuple(names), state["place"])


class Note(NamedTuple):
    """Settings that run, but perhaps not as they are meant."""

    key: str
    problem: str
    cure: str

    def __str__(self) -> str:
        return f"{self.key}: {self.problem}; {self.cure}."


def notes(settings: Settings, split: Split, train: Classes, val: Classes) -> list[Note]:
    """What to tell a person before the first step."""
    found = []
    outputs = settings.model.num_classes
    if train.num and outputs not in (train.num, max(train.num, val.num)):
        named = f" ({_some(train.names)})" if train.names else ""
        found.append(
            Note(
                "model.num_classes",
                f"{outputs:,} outputs for the {_count(train.num)} of {train.place}{named}",
                f"set it to {max(train.num, val.num)} unless that is meant",
            )
        )
    if train.names and val.names and val.num < train.num:
        missing = _some(train.names[val.num :])
        found.append(
            Note(
                "data.val",
                f"{val.place} has {_count(val.num)} and {train.place} has {train.num:,}, also "
                f"{missing}",
                "check that these are its validation data",
            )
        )
    mixing = [key for key in ("mixup", "cutmix") if getattr(settings.augment, key)]
    if mixing and split.size == 1:
        keys = " and ".join(f"augment.{key}" for key in mixing)
        found.append(
            Note(
                keys,
                "micro-batches of one image mix nothing, because images are mixed within one",
                "set batch.per_rank to 2 or more (and batch.global, so that a rank has two), or "
                f"{keys} to 0",
            )
        )
    return found


def _count(number: int) -> str:
    return f"{number:,} class" if number == 1 else f"{number:,} classes"


def _some(names: tuple[str, ...]) -> str:
    """The first names of a list."""
    more = ", ..." if len(names) > 4 else ""
    return ", ".join(name[:40] for name in names[:4]) + more
