"""Perturb, observe, restore: what happens to the weights around one forward and backward pass.

Knows neither optimizer nor DeepSpeed: how clean weights come back is the business of the
``CleanWeights`` that it is given.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

import torch
from torch import Tensor, nn

from rwp_dist.perturb.batchnorm import frozen_statistics, tracking_layers
from rwp_dist.perturb.energy import FilterEnergy
from rwp_dist.perturb.filters import Filter, Scale, noise_scale
from rwp_dist.perturb.methods import Method
from rwp_dist.perturb.noise import Noise
from rwp_dist.perturb.roles import Slot
from rwp_dist.timing import Stopwatch


class CleanWeights(Protocol):
    """Remembers the clean weights, by a copy or because something else will bring them back."""

    def save(self) -> None:
        """Called before weights are perturbed."""

    def writable(self, param: nn.Parameter) -> AbstractContextManager[object]:
        """The whole parameter is there inside, and what is written to it stays."""

    def restore(self, *, last: bool) -> None:
        """Called after the pass. ``last``: the optimizer's step is next."""

    def recover(self) -> None:
        """Called instead of restore when the pass raised."""


class Perturbation:
    """One method's perturbation of one network."""

    def __init__(
        self,
        model: nn.Module,
        filters: Sequence[Filter],
        method: Method,
        weights: CleanWeights,
        *,
        device: torch.device,
        seed: int,
        num_perturbed_slots: int,
        scale: Scale = "filter",
        rho: float = 0.05,
        eta: float = 0.1,
        beta: float = 0.99,
        power: float = 0.5,
    ) -> None:
        self.method = method
        self.weights = weights
        self.filters = filters
        self.energy: FilterEnergy | None = None
        self._scale, self._rho, self._eta, self._power = scale, rho, eta, power
        self._norm_layers = tracking_layers(model)
        if method.adaptive:
            self.energy = FilterEnergy(filters, beta, num_perturbed_slots, device)
        self._device = device
        self.watch = Stopwatch(device)
        """Time that perturbing and restoring take: what a step without them would not."""
        self._noise = Noise(seed, device)

    @contextmanager
    def around(
        self,
        slot: Slot,
        step: int,
        sigma: float,
        *,
        loss: Callable[[], Tensor],
        grad_scale: float,
        last: bool,
    ) -> Iterator[None]:
        """Perturbed weights inside, clean weights outside; nothing at all for a clean slot.

        Args:
            slot: role and key of this pass.
            step: update, counted from 0.
            sigma: noise level of this step.
            loss: mean loss of the slot's samples at the current weights; ascent needs it.
            grad_scale: what turns the gradient of the backward pass inside into that of the mean
                loss of the slot's samples; 0 where that is impossible.
            last: no pass of this rank follows before the optimizer's step.
        """
        if not slot.perturbed:
            yield
            return
        try:
            with self.watch.running():
                self.weights.save()
                self.perturb(slot, step, sigma, loss)
            # Ascent has had its clean pass just now; noise alone (RWP) has no other to learn from.
            keep = self._norm_layers if self.method.has_clean_pass else []
            with frozen_statistics(keep):
                self._observe(grad_scale)
                yield
        except BaseException:
            self.weights.recover()
            raise
        finally:
            self._observe(None)
        with self.watch.running():
            self.weights.restore(last=last)

    def perturb(self, slot: Slot, step: int, sigma: float, loss: Callable[[], Tensor]) -> None:
        """Move the weights, in place."""
        if self.method.direction == "ascent":
            self._ascend(loss())
        elif sigma > 0:
            self._add_noise(slot, step, sigma)

    @torch.no_grad()
    def _add_noise(self, slot: Slot, step: int, sigma: float) -> None:
        for filter_ in self.filters:
            unit = torch.empty(filter_.shape, device=self._device)
            self._noise.fill(unit, step, slot.draw, filter_.index)
            with self.weights.writable(filter_.param):
                std = noise_scale(filter_, self._scale) * (sigma * slot.sign)
                if self.energy is not None:
                    std = std / self.energy.divisor(filter_, self._eta, self._power)
                filter_.param.addcmul_(unit, std)

    def _ascend(self, loss: Tensor) -> None:
        """``w + rho g / |g|`` (SAM), or ``w + rho w^2 g / | |w| g |`` (ASAM, element-wise)."""
        found = torch.autograd.grad(loss, [f.param for f in self.filters], allow_unused=True)
        pairs = [(f.param, g) for f, g in zip(self.filters, found, strict=True) if g is not None]
        params: list[Tensor] = [param for param, _ in pairs]
        grads = [grad for _, grad in pairs]
        with torch.no_grad():
            if self.method.elementwise:
                grads = list(torch._foreach_mul(grads, torch._foreach_abs(params)))
            norm = torch.stack(torch._foreach_norm(grads)).norm()
            if self.method.elementwise:
                grads = list(torch._foreach_mul(grads, torch._foreach_abs(params)))
            # A gradient of exactly zero has no direction: the weights stay.
            factor = torch.where(norm > 0, self._rho / norm, 0.0)
            torch._foreach_add_(params, torch._foreach_mul(grads, factor))

    def _observe(self, grad_scale: float | None) -> None:
        if self.energy is not None:
            self.energy.observe(grad_scale)
