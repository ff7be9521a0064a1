"""What a run asks of an engine, which computes gradients and updates the weights."""

from collections.abc import Sequence
from typing import Any, Protocol

from torch import Tensor, nn

from rwp_dist.engine.loss_scale import LossScale
from rwp_dist.engine.state import OptimizerState
from rwp_dist.perturb.weights import CleanWeights


class Engine(Protocol):
    """Forward, backward of weighted losses, one update."""

    module: nn.Module
    """The network itself."""
    params: dict[str, nn.Parameter]
    trained: dict[str, nn.Parameter]
    """Parameters by name: all of them, and those that have gradients."""
    shapes: dict[str, tuple[int, ...]]
    """Of whole parameters, by name."""
    num_parameters: int
    """Elements of all trained parameters."""
    weights: CleanWeights
    """How the clean weights come back after a perturbed pass."""
    num_passes: int
    """Passes of this rank in one update."""
    loss_scale: LossScale | None
    """What keeps gradients in fp16 from becoming zero; None in other precisions."""

    @property
    def skipped_steps(self) -> int:
        """Updates that were left out because their gradient was not finite.

        It waits for the device: at log steps only.
        """
        ...

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``[B, num_classes]`` in fp32, for a ``backward``. Images ``[B, C, H, W]``."""

    def forward_only(self, images: Tensor) -> Tensor:
        """Logits in fp32 past the engine's hooks: for evaluation and for ascent."""

    def backward(self, loss: Tensor) -> None:
        """Add this pass's gradient; the update's gradient is the mean over all passes and ranks.

        The last pass of an update reduces the gradient over all ranks.
        """

    def scaled(self, loss: Tensor) -> Tensor:
        """A loss to differentiate without ``backward``, as ascent does, in any precision."""

    def gradients(self, params: Sequence[nn.Parameter]) -> list[Tensor | None]:
        """Whole gradients of the update, between its last ``backward`` and ``step``.

        A collective where gradients are shared out: one for each parameter.
        """

    def step(self, lr: float) -> bool | Tensor:
        """Update the weights, unless the gradient is not finite.

        Args:
            lr: learning rate; each group of parameters multiplies it by its ``lr_factor``.

        Returns:
            False if the update was skipped. A tensor of one bool if only the device knows.
        """

    def grad_norm(self) -> float | None:
        """Norm of the last update's gradient, averaged over passes and ranks, before clipping.

        The one that was computed for the update anyway. Not finite if that was skipped; None if
        there was none yet, or none is computed.

        It waits for the device: at log steps only.
        """

    def optimizer_state(self, *, keep: bool) -> OptimizerState:
        """Whole optimizer state in fp32 on the CPU. A collective; ``keep``: on this rank too."""

    def optimizer_groups(self) -> list[dict[str, Any]]:
        """What the optimizer keeps for each group of parameters beside the settings."""

    def full_weights(self, *, keep: bool = True) -> dict[str, Tensor]:
        """Whole clean fp32 weights by name on the CPU; empty unless ``keep``. A collective."""

    def load(
        self,
        weights: dict[str, Tensor],
        state: OptimizerState,
        groups: list[dict[str, Any]] | None = None,
    ) -> None:
        """Take over whole weights and optimizer state, whatever ranks and engine wrote them."""

    def close(self) -> None:
        """Release hooks and buffers, so that a process can run another engine."""
