"""What every move has: the network it works on, and the moments of a step at which it is called."""

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rwp_dist.perturb.ahead import Times
from rwp_dist.perturb.methods import Method
from rwp_dist.perturb.normals import Backend
from rwp_dist.perturb.rows import Rows
from rwp_dist.perturb.scale import Scale
from rwp_dist.perturb.slots import Slot
from rwp_dist.perturb.weights import CleanWeights

Gradients = Callable[[Sequence[nn.Parameter]], list[Tensor | None]]
"""Gradients of parameters, averaged over all ranks; None for one that has none."""


@dataclass(frozen=True)
class Network:
    """The network of one rank, as a move sees it."""

    rows: Sequence[Rows]
    """Its perturbed parameters."""
    weights: CleanWeights
    device: torch.device
    seed: int
    """Seed of the noise, the same on all ranks."""
    slots: Sequence[Slot]
    """This rank's slots in the order of their passes."""
    num_perturbed: int
    """Perturbed slots of an update over all ranks."""
    gradients: Gradients
    """May be asked between the last backward pass of an update and the optimizer's step."""


@dataclass(frozen=True)
class Options:
    """What a user sets about moves. Each takes what it knows."""

    scale: Scale
    """Size of the noise (``rwp_dist.perturb.scale``)."""
    eta: float
    """How strongly adaptive noise shrinks where gradients are large."""
    beta: float
    """Decay of the gradient energy."""
    power: float
    """Adaptive noise is divided by ``(1 + eta F)^power``."""
    backend: Backend
    """What draws noise."""
    draw_ahead: bool
    """Draw noise while gradients are reduced."""


class Move:
    """Base class: a move that does nothing. Override what a move needs.

    A step calls, in this order: ``perturb`` and ``observe`` around every perturbed pass,
    ``gradients_done`` when the backward pass of the last one ends, ``passes_done`` when the
    gradient of the update is complete, ``step_done`` after the optimizer's step.
    """

    def __init__(self, network: Network, options: Options) -> None:
        self.network, self.options = network, options

    def perturb(
        self, slot: Slot, step: int, strength: float, loss: Callable[[], Tensor] | None
    ) -> None:
        """Write perturbed weights with ``network.weights.perturbing``, or leave them clean.

        Args:
            slot: role and noise of this pass.
            step: update, counted from 0.
            strength: how far to go: sigma or rho; above 0.
            loss: mean loss of the slot's samples at the present weights, for moves that ascend.
        """

    @property
    def ready(self) -> bool:
        """Whether ``perturb`` would move the weights now."""
        return True

    def observe(self, scale: float | None) -> None:
        """Look at the gradients of the backward passes that follow; None: stop looking.

        ``scale`` times such a gradient is that of the mean loss of the slot's samples.
        """

    def pass_failed(self) -> None:
        """A pass of this update raised: the update begins anew."""

    def gradients_done(self, next_step: int | None) -> None:
        """All gradients of this rank are there; their reduction over the ranks comes next.

        ``next_step``: the next update that is perturbed; None if there is none for a while. Called
        only if ``draws_ahead``.
        """

    @property
    def draws_ahead(self) -> bool:
        """Whether it has something to do while gradients are reduced."""
        return False

    def passes_done(self) -> None:
        """The gradient of the update is complete and averaged; the optimizer's step is next."""

    def step_done(self, applied: bool | Tensor) -> None:
        """The optimizer's step is over; ``applied``: it was not skipped."""

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps, tensors on the CPU. A collective."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what ``state_dict`` gave, on any number of ranks."""

    def adaptation(self) -> Tensor | None:
        """Mean factor by which noise is divided; None for a move that does not adapt."""
        return None

    def take_times(self) -> Times:
        """What drawing ahead has taken since the last call."""
        return Times()

    def join(self) -> None:
        """Wait for what runs beside the training."""

    @property
    def num_bytes(self) -> int:
        """Memory of tensors of the parameters' size that it keeps from one pass to the next.

        The perturbed copy is not counted.
        """
        return 0

    def close(self) -> None:
        """Release threads and hooks."""


def build_move(method: Method, network: Network, options: Options) -> Move:
    """The move of a method; one that does nothing for a method without."""
    if method.move is None or not network.rows:
        return Move(network, options)
    module, _, name = method.move.partition(":")
    kind = getattr(importlib.import_module(f"rwp_dist.perturb.moves.{module}"), name)
    move: Move = kind(network, options, **method.options)
    return move
