"""The methods as data: which passes make an update, and how the perturbed ones move the weights.

Formulas: Li et al., "Revisiting Random Weight Perturbation for Efficiently Improving
Generalization", TMLR 2024 (arXiv 2404.00357). Imports no torch.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Role = Literal["clean", "perturbed"]


@dataclass(frozen=True)
class Method:
    """What one update computes. The loop knows these fields, never a method's name."""

    roles: tuple[Role, ...]
    """Roles that the micro-batches of an update take in turn."""
    move: str | None = None
    """``module:class`` in ``rwp_dist.perturb.moves``: how perturbed passes move the weights."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Keyword arguments of that class."""
    strength: Literal["sigma", "rho"] | None = None
    """The setting that says how far the move goes."""
    default_strength: float = 0.0
    """Its value unless the user gives one."""
    increasing: bool = False
    """Whether the strength grows along the run, unless the user says otherwise."""
    ascends: bool = False
    """A perturbed pass takes a clean pass of its own first, for the gradient that it follows."""
    observes_gradients: bool = False
    """The move collects the gradients of each perturbed pass, before anything reduces them."""
    needs_whole_weights: bool = False
    """Every rank must hold all parameters."""
    buffers: int = 0
    """Buffers of the network's size that the move fills, for a move that draws no noise."""

    @property
    def mixed(self) -> bool:
        """Clean and perturbed micro-batches in one update, independent of each other."""
        return len(self.roles) > 1

    @property
    def draws_noise(self) -> bool:
        """Whether its move is random."""
        return self.strength == "sigma"

    @property
    def settings(self) -> frozenset[str]:
        """The settings of the section ``method`` that change what it computes."""
        if self.strength is None:
            return frozenset({"name"})
        used = {"name", self.strength, "warmup_epochs", "warmup_steps", "every", "start", "stop"}
        if self.draws_noise:
            used |= {"sigma_schedule", "sigma_increase", "scale", "exclude", "antithetic"}
        if self.observes_gradients:
            used |= {"eta", "beta", "power"}
        return frozenset(used | {"lambda"} if self.mixed else used)

    @property
    def has_clean_pass(self) -> bool:
        """Whether some pass sees the clean weights, so that BatchNorm can learn from it."""
        return "clean" in self.roles or self.ascends

    @property
    def passes(self) -> str:
        """Forward and backward passes of one update, in words."""
        if self.ascends:
            return "2 sequential"
        return "1 clean + 1 perturbed" if self.mixed else "1"


def _noise(*roles: Role, adaptive: bool = False) -> Method:
    options = {"adaptive": True} if adaptive else {}
    alone = len(roles) == 1
    return Method(
        roles,
        "noise:Noise",
        options,
        strength="sigma",
        # Half of a mixture's gradient is clean, so it bears more. docs/evidence.md has the study.
        default_strength=0.3 if alone else 0.4,
        increasing=alone,
        observes_gradients=adaptive,
    )


def _ascent(elementwise: bool = False) -> Method:
    return Method(
        ("perturbed",),
        "ascent:Ascent",
        {"elementwise": True} if elementwise else {},
        strength="rho",
        default_strength=0.05,
        ascends=True,
        needs_whole_weights=True,
        buffers=4 if elementwise else 2,  # the gradient and the moved weights; asam scales both
    )


METHODS: dict[str, Method] = {
    "sgd": Method(("clean",)),
    "sam": _ascent(),
    "asam": _ascent(elementwise=True),
    "rwp": _noise("perturbed"),
    "arwp": _noise("perturbed", adaptive=True),
    "m-rwp": _noise("clean", "perturbed"),
    "m-arwp": _noise("clean", "perturbed", adaptive=True),
    "last-sam": Method(
        ("perturbed",),
        "last_gradient:LastGradient",
        strength="rho",
        default_strength=0.05,
        needs_whole_weights=True,
        buffers=1,
    ),
}
