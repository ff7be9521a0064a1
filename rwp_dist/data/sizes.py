"""How large training images are along a run: progressive resizing."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from rwp_dist.config import Settings


@dataclass(frozen=True)
class Sizes:
    """The side of the images of every step, in pixels: a function of the step alone.

    So a step that a worker reads ahead has its own size, and a run that goes on has the same.
    """

    begins: Sequence[int]
    """First step of each side; the first of all is 0."""
    sides: Sequence[int]

    @classmethod
    def of(cls, settings: Settings, steps_per_epoch: int) -> "Sizes":
        """Those of ``data.sizes``, whose fractions of the run are rounded to steps."""
        d, total = settings.data, settings.schedule.total_steps(steps_per_epoch)
        sizes = d.sizes or ((0.0, d.image_size),)
        return cls([round(begin * total) for begin, _ in sizes], [side for _, side in sizes])

    def at(self, step: int) -> int:
        """Side of the images of one step, counted from 0."""
        return self.sides[bisect_right(self.begins, step) - 1]
