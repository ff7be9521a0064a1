"""A step along the gradient of the update before: SAM in one pass."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from rwp_dist.perturb.moves.move import Move, Network, Options
from rwp_dist.perturb.slots import Slot


class LastGradient(Move):
    """``w + rho g / |g|`` with ``g`` the last update's gradient, averaged over all ranks.

    The first step is clean, because there is no gradient yet. A gradient that is not finite, or
    zero, is not taken: the direction before it stays.

    Source: the idea is that of S2-SAM (Ji et al., NeurIPS 2024,
    https://openreview.net/forum?id=MJgMMqMDu4), which trains sparse networks with it.
    """

    def __init__(self, network: Network, options: Options) -> None:
        super().__init__(network, options)
        self._params = [r.param for r in network.rows]
        self._direction: list[Tensor] = []
        """``g / |g|``, one tensor per parameter; empty before the first update."""

    @property
    def ready(self) -> bool:
        return bool(self._direction)

    @torch.no_grad()
    def perturb(
        self, slot: Slot, step: int, strength: float, loss: Callable[[], Tensor] | None
    ) -> None:
        if not self.ready:
            return
        with self.network.weights.perturbing(self._params) as targets:
            for target, param, unit in zip(targets, self._params, self._direction, strict=True):
                torch.add(param, unit, alpha=strength, out=target)

    @torch.no_grad()
    def passes_done(self) -> None:
        found = self.network.gradients(self._params)
        pairs = zip(found, self._params, strict=True)
        self._take([torch.zeros_like(p) if g is None else g.float() for g, p in pairs])

    def _take(self, gradient: list[Tensor]) -> None:
        """Make a gradient the direction, without asking the device whether it is finite."""
        norm = torch.stack(torch._foreach_norm(gradient)).norm()
        usable = norm.isfinite() & (norm > 0)
        if not self._direction:
            self._direction = [torch.zeros_like(g) for g in gradient]
        for unit, g in zip(self._direction, gradient, strict=True):
            torch.where(usable, g / norm, unit, out=unit)

    def state_dict(self) -> dict[str, Any]:
        rows = self.network.rows if self._direction else []
        pairs = zip(rows, self._direction, strict=True)
        return {"direction": {r.name: unit.cpu().clone() for r, unit in pairs}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        saved = state["direction"]
        self._direction = []
        if saved:
            pairs = ((saved.get(r.name), r.param) for r in self.network.rows)
            self._direction = [
                torch.zeros_like(p) if unit is None else unit.to(p.device, copy=True)
                for unit, p in pairs
            ]

    @property
    def num_bytes(self) -> int:
        return sum(unit.nbytes for unit in self._direction)
