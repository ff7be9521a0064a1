"""What was measured of one run: curves, Hessian, and the few numbers made of them."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rwp_dist.flatness.curves import ADVERSARIAL_RADII, RANDOM_RADII
from rwp_dist.flatness.hessian import MEASURES

Values = NDArray[np.float64]

RANDOM_AT, ADVERSARIAL_AT = 0.1, 0.005
"""Radii at which the rise of the loss is a number."""

LOST_POINTS = 10.0
"""``flatness.radius`` is where so many points of top-1 are lost."""


@dataclass(frozen=True)
class Curve:
    """Loss and top-1 against a radius, each ``[curves, radii]``; nan where it is not finite."""

    radii: tuple[float, ...]
    loss: Values
    """Mean cross-entropy, in nats."""
    top1: Values
    """In percent."""

    @classmethod
    def of(cls, radii: tuple[float, ...], sums: Values) -> "Curve":
        """From ``Sums``, ``[curves, radii, 3]``."""
        total, hits, count = np.moveaxis(sums, -1, 0)
        return cls(radii, total / count, 100 * hits / count)

    @property
    def rise(self) -> Values:
        """How far the loss is above that at radius 0."""
        return self.loss - self.loss[:, :1]

    def mean_rise(self, radius: float) -> float:
        """The same at one of the radii, mean over the curves."""
        return float(self.rise[:, self.radii.index(radius)].mean())

    def radius_of_loss(self, points: float) -> float | None:
        """Where the mean top-1 has fallen by so many points; None: nowhere among the radii."""
        lost = (self.top1[:, :1] - self.top1).mean(0)
        [beyond] = np.nonzero(lost >= points)
        if not len(beyond):
            return None
        pair = slice(beyond[0] - 1, beyond[0] + 1)
        return float(np.interp(points, lost[pair], self.radii[pair]))

    def as_dict(self) -> dict[str, Any]:
        """For ``flatness.json``."""
        return {"radii": self.radii, "loss": self.loss.tolist(), "top1": self.top1.tolist()}


@dataclass(frozen=True)
class Measured:
    """One run."""

    num_images: int
    """Of the sample, without those that could not be read."""
    random: Curve
    """A curve for each direction."""
    adversarial: Curve
    """One curve, of all batches."""
    hessian: dict[str, Any]
    """Results of ``hessian.MEASURES``; empty if it was left out."""

    @classmethod
    def of(cls, values: dict[str, Any]) -> "Measured":
        """From the values of a run's pieces."""
        random, adversarial = (
            np.array([value for name, value in values.items() if name.startswith(kind)], float)
            for kind in ("random-", "adversarial-")
        )
        return cls(
            int(random[0, 0, 2]),
            Curve.of(RANDOM_RADII, random),
            Curve.of(ADVERSARIAL_RADII, adversarial.sum(0, keepdims=True)),
            {name: values[name] for name in MEASURES if name in values},
        )

    def numbers(self) -> dict[str, float]:
        """Columns for ``rwp-dist compare``, all of the same sample of training images.

        ========================================= ==============================================
        ``flatness.loss``                         mean loss at the run's weights, in nats
        ``flatness.random_loss_increase``         by how many nats it rises if every filter moves
                                                  by 0.1 of its norm; mean over random directions
        ``flatness.adversarial_loss_increase``    the same at adversarial radius 0.005
        ``flatness.radius``                       random radius at which the mean top-1 has lost
                                                  10 points; absent if none of the radii does
        ``flatness.top_eigenvalue``               largest eigenvalue of the Hessian of the loss;
                                                  absent if it has not converged
        ``flatness.trace``                        trace of the Hessian
        ========================================= ==============================================
        """
        top = self.hessian.get("top_eigenvalue", {"converged": False})
        found = {
            "loss": float(self.random.loss[0, 0]),
            "random_loss_increase": self.random.mean_rise(RANDOM_AT),
            "adversarial_loss_increase": self.adversarial.mean_rise(ADVERSARIAL_AT),
            "radius": self.random.radius_of_loss(LOST_POINTS),
            "top_eigenvalue": top["value"] if top["converged"] else None,
            "trace": self.hessian.get("trace", {}).get("value"),
        }
        return {f"flatness.{name}": value for name, value in found.items() if value is not None}

    def as_dict(self) -> dict[str, Any]:
        """``flatness.json``."""
        return {
            "numbers": self.numbers(),
            "images": self.num_images,
            "random": self.random.as_dict(),
            "adversarial": self.adversarial.as_dict(),
            "hessian": self.hessian,
        }
