"""Perturb, observe, restore: what happens to the weights around one forward and backward pass.

Knows neither optimizer nor DeepSpeed: how clean weights come back is the business of the
``CleanWeights`` that it is given.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.profiler import record_function

from rwp_dist.base.timing import Stopwatch
from rwp_dist.perturb.ahead import Prefetch, Times, leave_out
from rwp_dist.perturb.energy import FilterEnergy
from rwp_dist.perturb.methods import Method
from rwp_dist.perturb.normals.backend import Backend
from rwp_dist.perturb.normals.generator import Noise, TorchNoise
from rwp_dist.perturb.normals.native import NativeNoise
from rwp_dist.perturb.rows import Filter
from rwp_dist.perturb.scale import Deviations, Scale
from rwp_dist.perturb.slots import Slot
from rwp_dist.perturb.statistics import frozen_statistics, tracking_layers
from rwp_dist.perturb.weights import CleanWeights

if TYPE_CHECKING:
    from rwp_dist.perturb.normals.triton.fused import FusedNoise

OBJECT_BYTES = 2**19
"""What hooks, views and a thread take beside tensors, for ResNet-50."""


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
        ahead: Sequence[Slot] = (),
        backend: Backend = "torch",
        scale: Scale = "filter",
        rho: float = 0.05,
        eta: float = 0.1,
        beta: float = 0.99,
        power: float = 0.5,
    ) -> None:
        """``ahead``: this rank's slots in an update, if their noise shall be drawn ahead.

        ``backend``: with triton there is nothing to draw ahead.
        """
        self.method = method
        self.weights = weights
        self.filters = filters
        self.energy: FilterEnergy | None = None
        self._rho, self._eta, self._power = rho, eta, power
        self._norm_layers = tracking_layers(model)
        if method.adaptive:
            self.energy = FilterEnergy(filters, beta, num_perturbed_slots, device, backend)
        self._device = device
        self.watch = Stopwatch(device)
        """Time that perturbing and restoring take; ARWP's energy is taken within the backward
        pass and not part of it."""
        self._noise = _noise(backend, seed, device)
        self._parts: list[tuple[Sequence[Filter], Deviations]] = []
        """What is perturbed in one go: everything, or one parameter after the other."""
        self._fused: list[FusedNoise] = []
        """Likewise, with triton."""
        self._ahead = [slot for slot in ahead if slot.perturbed]
        self._prefetch: Prefetch | None = None
        if method.direction == "noise" and filters:
            groups = [filters] if weights.whole else [[f] for f in filters]
            if backend == "triton":
                from rwp_dist.perturb.normals.triton.fused import FusedNoise  # needs Triton

                self._fused = [FusedNoise(group, scale, seed, device) for group in groups]
                return
            self._parts = [(group, Deviations(group, scale, device)) for group in groups]
            if self._ahead:
                tables = sum(deviations.num_bytes for _, deviations in self._parts)
                tables += self.energy.most_bytes if self.energy is not None else 0
                # Perturbing shall take no more memory than the parameters do.
                left_out = leave_out(filters, tables + OBJECT_BYTES)
                self._prefetch = Prefetch(_noise(backend, seed, device), filters, left_out)

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
            with record_function("perturb"), self.watch.running():
                self.perturb(slot, step, sigma, loss)
            # Ascent has had its clean pass just now; noise alone (RWP) has no other to learn from.
            keep = self._norm_layers if self.method.has_clean_pass else []
            try:
                with frozen_statistics(keep):
                    self._observe(grad_scale)
                    yield
            finally:
                self._observe(None)
        except BaseException:
            self.weights.recover()
            raise
        with record_function("restore"), self.watch.running():
            self.weights.restore(last=last)

    def perturb(self, slot: Slot, step: int, sigma: float, loss: Callable[[], Tensor]) -> None:
        """Move the weights."""
        if self.method.direction == "ascent":
            self._ascend(loss())
        elif sigma > 0:
            self._add_noise(slot, step, sigma)

    @torch.no_grad()
    def _add_noise(self, slot: Slot, step: int, sigma: float) -> None:
        sigma *= slot.sign
        if self._fused:
            energies = self.energy.value if self.energy is not None else None
            for fused in self._fused:
                with self.weights.perturbing(fused.params) as targets:
                    fused.add(targets, step, slot.draw, sigma, energies, self._eta, self._power)
            return
        units = self._prefetch.take(step, slot.draw) if self._prefetch is not None else None
        divisors = self.energy.divisor(self._eta, self._power) if self.energy is not None else None
        for filters, deviations in self._parts:
            divisor = divisors[deviations.rows] if divisors is not None else None
            with self.weights.perturbing(deviations.params) as targets:
                deviations.measure(sigma, divisor)
                if units is not None:
                    deviations.add_noise(targets, units[: len(filters)])
                    units = units[len(filters) :]
                else:
                    deviations.draw_noise(targets, filters, self._noise, step, slot.draw)
        if self._prefetch is not None:
            self._want_next(self._prefetch, slot, step)

    def _want_next(self, prefetch: Prefetch, slot: Slot, step: int) -> None:
        """Announce the noise that this rank needs after this slot's."""
        number = self._ahead.index(slot) + 1
        if number < len(self._ahead):
            # The gradients of this pass are not reduced yet, but the next pass will not wait.
            prefetch.want(step, self._ahead[number].draw)
            prefetch.start()
        else:
            prefetch.want(step + 1, self._ahead[0].draw)

    def reducing(self) -> None:
        """To be called when gradients begin to be reduced: time in which noise can be drawn."""
        if self._prefetch is not None:
            self._prefetch.start()

    def wait_for_noise(self) -> None:
        """Have what is being drawn ahead complete: for benchmarks whose methods take turns."""
        if self._prefetch is not None:
            with self.watch.running():
                self._prefetch.join()

    def take_noise_times(self) -> Times:
        """What noise that was drawn ahead has taken since the last call."""
        return self._prefetch.times() if self._prefetch is not None else Times()

    @property
    def noise_bytes(self) -> int:
        """Size of the buffer that noise is drawn into ahead."""
        return self._prefetch.num_bytes if self._prefetch is not None else 0

    def close(self) -> None:
        """End what draws noise."""
        if self._prefetch is not None:
            self._prefetch.close()

    def _ascend(self, loss: Tensor) -> None:
        """``w + rho g / |g|`` (SAM), or ``w + rho w^2 g / | |w| g |`` (ASAM, element-wise)."""
        found = torch.autograd.grad(loss, [f.param for f in self.filters], allow_unused=True)
        pairs = [(f.param, g) for f, g in zip(self.filters, found, strict=True) if g is not None]
        params = [param for param, _ in pairs]
        weights: list[Tensor] = list(params)
        grads = [grad for _, grad in pairs]
        with torch.no_grad():
            if self.method.elementwise:
                grads = list(torch._foreach_mul(grads, torch._foreach_abs(weights)))
            norm = torch.stack(torch._foreach_norm(grads)).norm()
            if self.method.elementwise:
                grads = list(torch._foreach_mul(grads, torch._foreach_abs(weights)))
            # A gradient of exactly zero has no direction: the weights stay.
            factor = torch.where(norm > 0, self._rho / norm, 0.0)
            moved = torch._foreach_mul(grads, factor)
            torch._foreach_add_(moved, weights)
            with self.weights.perturbing(params) as targets:
                torch._foreach_copy_(targets, moved)

    def _observe(self, grad_scale: float | None) -> None:
        if self.energy is not None:
            self.energy.observe(grad_scale)


def _noise(backend: Backend, seed: int, device: torch.device) -> Noise:
    return NativeNoise(seed) if backend == "native" else TorchNoise(seed, device)
