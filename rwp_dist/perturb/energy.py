"""Gradient energy of each row, which makes noise adaptive (ARWP, Li et al., TMLR 2024).

``F_j <- beta F_j + mean over perturbed slots of |g_j|^2``, with ``g`` the mean gradient of one
slot's samples at its perturbed point. The state is one float for each row (for each element of
parameters of one dimension), about 0.3 % of ResNet-50's size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch import Tensor

from rwp_dist.perturb.normals.backend import Backend
from rwp_dist.perturb.rows import Rows

if TYPE_CHECKING:
    from rwp_dist.perturb.normals.triton.fused import FusedEnergy

ENERGY_BUCKET_BYTES = 2**23
"""Size of the gradients that Triton's kernel takes at once; they must not change meanwhile."""


class GradientEnergy:
    """Decayed sum of squared gradient norms of every row, equal on all ranks."""

    def __init__(
        self,
        rows: Sequence[Rows],
        beta: float,
        num_slots: int,
        device: torch.device,
        backend: Backend = "torch",
    ) -> None:
        """``num_slots``: perturbed slots of one update over all ranks."""
        self.beta = beta
        self.num_slots = num_slots
        self._rows = rows
        size = rows[-1].place.stop if rows else 0
        self.value = torch.zeros(size, device=device)
        """F, ``[rows of all parameters]``."""
        self._observed = torch.zeros(size, device=device)
        """What this update has observed so far."""
        self._scale: float | None = None
        self._work: dist.Work | None = None
        self._fused: FusedEnergy | None = None
        if backend == "triton":
            from rwp_dist.perturb.normals.triton.fused import FusedEnergy  # needs Triton

            self._fused = FusedEnergy(device, ENERGY_BUCKET_BYTES)
        # A leaf's hook sees this rank's own gradient before any reduction, under DDP and at every
        # ZeRO stage.
        self._hooks = [r.param.register_hook(self._hook(r)) for r in rows]

    def _hook(self, rows: Rows) -> Callable[[Tensor], None]:
        dims = tuple(range(1, len(rows.shape)))

        def observe(grad: Tensor) -> None:
            if self._scale is None:
                return
            if self._fused is not None:
                self._collect(self._fused, rows, grad.detach(), self._scale**2)
                return
            grad = grad.detach().float()
            if rows.is_matrix:
                energy = torch.linalg.vector_norm(grad, dim=dims).square_()
            else:
                energy = grad.square()
            self._observed[rows.place].add_(energy.view(-1), alpha=self._scale**2)

        return observe

    def _collect(self, fused: FusedEnergy, rows: Rows, grad: Tensor, factor: float) -> None:
        if fused.empty:
            # Runs as the backward pass ends, before anything reduces gradients where they are.
            torch.autograd.Variable._execution_engine.queue_callback(fused.flush)
        fused.collect(rows, grad, factor, self._observed)

    def observe(self, scale: float | None) -> None:
        """Count the gradients of the backward passes that follow, times ``scale``; None: do not."""
        self._scale = scale
        if self._fused is not None:
            self._fused.flush()  # what a backward pass that raised has left

    def reduce(self) -> None:
        """Start the sum over all ranks; one float for each row."""
        if dist.is_initialized() and dist.get_world_size() > 1:
            self._work = dist.all_reduce(self._observed, async_op=True)

    def update(self, applied: bool | Tensor) -> None:
        """Take up what was observed; forget it if the optimizer skipped the step.

        A row whose gradient was not finite keeps its decayed past.
        """
        if self._work is not None:
            self._work.wait()
            self._work = None
        seen = torch.nan_to_num_(self._observed, 0.0, 0.0, 0.0)
        following = (self.value * self.beta).add_(seen, alpha=1.0 / max(self.num_slots, 1))
        if isinstance(applied, Tensor):  # the host need not know
            torch.where(applied, following, self.value, out=self.value)
        elif applied:
            self.value.copy_(following)
        self._observed.zero_()

    def forget(self) -> None:
        """Forget what this update has observed so far, because one of its passes failed."""
        self.observe(None)
        self._observed.zero_()

    def divisor(self, eta: float, power: float) -> Tensor:
        """``(1 + eta F)^power`` of all rows, ``[rows]``."""
        return self.value.mul(eta).add_(1.0).pow_(power)

    def adaptation(self, eta: float) -> Tensor:
        """Mean of ``sqrt(1 + eta F)``: 1 as long as adaptation does nothing."""
        return self.divisor(eta, 0.5).mean()

    def state_dict(self) -> dict[str, Tensor]:
        """F of each parameter by name, ``[rows of the parameter]`` on the CPU."""
        value = self.value.cpu()
        return {r.name: value[r.place].clone() for r in self._rows}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take over what ``state_dict`` gave; parameters that it lacks keep theirs."""
        for r in self._rows:
            if r.name in state:
                self.value[r.place] = state[r.name].to(self.value)

    def close(self) -> None:
        """Remove the hooks."""
        for hook in self._hooks:
            hook.remove()
