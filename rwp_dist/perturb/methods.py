"""A method as data: which passes an update consists of and how their weights are perturbed.

Formulas: Li et al., "Revisiting Random Weight Perturbation for Efficiently Improving
Generalization", TMLR 2024 (arXiv 2404.00357). Imports no torch.
"""

import math
from dataclasses import dataclass
from typing import Literal

Role = Literal["clean", "perturbed"]


@dataclass(frozen=True)
class Method:
    """What one update computes. The executor knows these fields, never a method's name."""

    roles: tuple[Role, ...]
    """Roles that the micro-batches of an update take in turn."""
    direction: Literal["none", "noise", "ascent"] = "none"
    """Where perturbed passes move the weights: nowhere, at random, or up the gradient."""
    adaptive: bool = False
    """Divide the noise by what past gradients of each filter say (ARWP)."""
    elementwise: bool = False
    """Ascent in the geometry of |w| (ASAM)."""
    sigma_schedule: Literal["constant", "increase"] = "constant"
    """What ``method.sigma_schedule: auto`` means."""

    @property
    def mixed(self) -> bool:
        """Clean and perturbed micro-batches in one update, independent of each other."""
        return len(self.roles) > 1

    @property
    def has_clean_pass(self) -> bool:
        """Whether some pass sees the clean weights, so that BatchNorm can learn from it."""
        return "clean" in self.roles or self.direction == "ascent"

    @property
    def passes(self) -> str:
        """Forward and backward passes of one update, in words."""
        if self.direction == "ascent":
            return "2 sequential"
        return "1 clean + 1 perturbed" if self.mixed else "1"


METHODS: dict[str, Method] = {
    "sgd": Method(("clean",)),
    "sam": Method(("perturbed",), "ascent"),
    "asam": Method(("perturbed",), "ascent", elementwise=True),
    "rwp": Method(("perturbed",), "noise", sigma_schedule="increase"),
    "arwp": Method(("perturbed",), "noise", adaptive=True, sigma_schedule="increase"),
    "m-rwp": Method(("clean", "perturbed"), "noise"),
    "m-arwp": Method(("clean", "perturbed"), "noise", adaptive=True),
}


def sigma_at(
    step: int,
    total_steps: int,
    sigma: float,
    *,
    schedule: Literal["constant", "increase"],
    increase: float,
    warmup_steps: int,
) -> float:
    """Noise level of one step: ``sigma (1 + increase (1 - cos(pi t / T)) / 2)``, or constant.

    Zero during the first ``warmup_steps`` steps.
    """
    if step < warmup_steps:
        return 0.0
    if schedule == "constant":
        return sigma
    return sigma * (1.0 + increase * (1.0 - math.cos(math.pi * step / total_steps)) / 2.0)
