"""Per-filter gradient energy, which makes noise adaptive (ARWP, Li et al., TMLR 2024).

``F_j <- beta F_j + mean over perturbed slots of |g_j|^2``, with ``g`` the mean gradient of one
slot's samples at its perturbed point. The state is one float for each filter (for each element of
tensors of one dimension), never one for each parameter. It is kept in three bytes: their rounding
moves F by 2^-17 / (1 - beta) of the largest that it has been, at most. What one update observes
lives from its first perturbed backward pass to its end.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch import Tensor

from rwp_dist.perturb.float24 import Float24
from rwp_dist.perturb.normals.backend import Backend
from rwp_dist.perturb.rows import Filter

if TYPE_CHECKING:
    from rwp_dist.perturb.normals.triton.fused import FusedEnergy


class FilterEnergy:
    """Decayed sum of squared gradient norms of every filter, equal on all ranks."""

    def __init__(
        self,
        filters: Sequence[Filter],
        beta: float,
        num_slots: int,
        device: torch.device,
        backend: Backend = "torch",
    ) -> None:
        """``num_slots``: perturbed slots of one update over all ranks."""
        self.beta = beta
        self.num_slots = num_slots
        self._size = filters[-1].rows.stop if filters else 0
        self._device = device
        self._state = Float24(self._size, device)
        self._observed: Tensor | None = None
        self._scale: float | None = None
        self._work: dist.Work | None = None
        self._fused: FusedEnergy | None = None
        if backend == "triton":
            from rwp_dist.perturb.normals.triton.fused import FusedEnergy  # needs Triton

            self._fused = FusedEnergy(device)
        # A leaf's hook sees this rank's own gradient, before any reduction, at every ZeRO stage.
        self._hooks = [f.param.register_hook(self._hook(f)) for f in filters]

    @property
    def value(self) -> Tensor:
        """F, ``[rows of all filters]``; a copy."""
        return self._state.read()

    @value.setter
    def value(self, value: Tensor) -> None:
        self._state.write(value)

    @property
    def num_bytes(self) -> int:
        """What stays from one update to the next."""
        return self._state.num_bytes

    @property
    def most_bytes(self) -> int:
        """What there is in an update: that, and what is observed."""
        return self.num_bytes + 4 * self._size

    def _sums(self) -> Tensor:
        """What is observed in this update, ``[rows of all filters]``."""
        if self._observed is None:
            self._observed = torch.zeros(self._size, device=self._device)
        return self._observed

    def _hook(self, filter_: Filter) -> Callable[[Tensor], None]:
        dims = tuple(range(1, len(filter_.shape)))

        def observe(grad: Tensor) -> None:
            if self._scale is None:
                return
            if self._fused is not None:
                self._collect(self._fused, filter_, grad.detach(), self._scale**2)
                return
            grad = grad.detach().float()
            if filter_.many:
                energy = torch.linalg.vector_norm(grad, dim=dims).square_()
            else:
                energy = grad.square()
            self._sums()[filter_.rows].add_(energy, alpha=self._scale**2)

        return observe

    def _collect(self, fused: FusedEnergy, filter_: Filter, grad: Tensor, factor: float) -> None:
        if fused.empty:
            # Runs as the backward pass ends, before anything reduces gradients where they are.
            torch.autograd.Variable._execution_engine.queue_callback(fused.flush)
        fused.collect(filter_, grad, factor, self._sums())

    def observe(self, scale: float | None) -> None:
        """Count the gradients of the backward passes that follow, times ``scale``; None: do not."""
        self._scale = scale
        if self._fused is not None:
            self._fused.flush()  # what a backward pass that raised has left

    def reduce(self) -> None:
        """Start the sum over all ranks; one float for each filter."""
        if dist.is_initialized() and dist.get_world_size() > 1:
            self._work = dist.all_reduce(self._sums(), async_op=True)

    def update(self, applied: bool = True) -> None:
        """Take up what was observed; forget it if the optimizer skipped the step.

        A filter whose gradient was not finite keeps its decayed past.
        """
        if self._work is not None:
            self._work.wait()
            self._work = None
        if applied:
            seen = torch.nan_to_num_(self._sums(), 0.0, 0.0, 0.0)
            mean = 1.0 / max(self.num_slots, 1)
            self._state.write(self._state.read().mul_(self.beta).add_(seen, alpha=mean))
        self._observed = None

    def divisor(self, eta: float, power: float) -> Tensor:
        """``(1 + eta F)^power`` of all filters, ``[rows]``."""
        return self.value.mul_(eta).add_(1.0).pow_(power)

    def adaptation(self, eta: float) -> Tensor:
        """Mean of ``sqrt(1 + eta F)``: 1 as long as adaptation does nothing."""
        return self.divisor(eta, 0.5).mean()
