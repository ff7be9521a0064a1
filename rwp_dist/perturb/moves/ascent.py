"""A step up the gradient: SAM and ASAM."""

from collections.abc import Callable

import torch
from torch import Tensor

from rwp_dist.perturb.moves.move import Move, Network, Options
from rwp_dist.perturb.slots import Slot


class Ascent(Move):
    """``w + rho g / |g|`` with ``g`` the gradient of the slot's own samples at ``w`` (SAM).

    Element-wise, in the geometry of ``|w|``: ``w + rho w^2 g / | |w| g |`` (ASAM).

    Sources: Foret et al., ICLR 2021 (arXiv 2010.01412); Kwon et al., ICML 2021 (arXiv 2102.11600).
    """

    def __init__(self, network: Network, options: Options, *, elementwise: bool = False) -> None:
        super().__init__(network, options)
        self._elementwise = elementwise

    def perturb(
        self, slot: Slot, step: int, strength: float, loss: Callable[[], Tensor] | None
    ) -> None:
        assert loss is not None, "checked before"
        leaves = [r.param for r in self.network.rows]
        found = torch.autograd.grad(loss(), leaves, allow_unused=True)
        pairs = [(p, g) for p, g in zip(leaves, found, strict=True) if g is not None]
        params = [param for param, _ in pairs]
        weights: list[Tensor] = list(params)
        grads = [grad for _, grad in pairs]
        with torch.no_grad():
            if self._elementwise:
                grads = list(torch._foreach_mul(grads, torch._foreach_abs(weights)))
            norm = torch.stack(torch._foreach_norm(grads)).norm()
            if self._elementwise:
                grads = list(torch._foreach_mul(grads, torch._foreach_abs(weights)))
            # A gradient of exactly zero has no direction: the weights stay.
            factor = torch.where(norm > 0, strength / norm, 0.0)
            moved = torch._foreach_mul(grads, factor)
            torch._foreach_add_(moved, weights)
            with self.network.weights.perturbing(params) as targets:
                torch._foreach_copy_(targets, moved)
