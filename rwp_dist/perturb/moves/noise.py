"""Random noise: RWP, and ARWP, whose noise shrinks where past gradients were large."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rwp_dist.perturb.ahead import DrawAhead, Times
from rwp_dist.perturb.energy import GradientEnergy
from rwp_dist.perturb.moves.move import Move, Network, Options
from rwp_dist.perturb.normals import Normals, open_normals
from rwp_dist.perturb.rows import Rows
from rwp_dist.perturb.scale import NoiseScale
from rwp_dist.perturb.slots import Slot

if TYPE_CHECKING:
    from rwp_dist.perturb.normals.triton.fused import FusedNoise


class Noise(Move):
    """``w + sigma s_j z`` for each row j of the weights, with ``z`` standard normal.

    ``s_j`` is the row's norm or what ``Options.scale`` says. Adaptive noise divides it by
    ``(1 + eta F_j)^power``, with F_j the row's gradient energy.

    Source: Li et al., TMLR 2024 (arXiv 2404.00357), RWP and ARWP.
    """

    def __init__(self, network: Network, options: Options, *, adaptive: bool = False) -> None:
        """Make the tables, and the buffer for noise drawn ahead on ranks with perturbed slots."""
        super().__init__(network, options)
        rows, device, backend = network.rows, network.device, options.backend
        self.energy: GradientEnergy | None = None
        if adaptive:
            self.energy = GradientEnergy(rows, options.beta, network.num_perturbed, device, backend)
        self._slots = [slot for slot in network.slots if slot.perturbed]
        self._normals: Normals | None = None
        self._fused: list[FusedNoise] = []
        self._scales: list[tuple[Sequence[Rows], NoiseScale]] = []
        self._ahead: DrawAhead | None = None
        # What is perturbed in one go: everything, or one parameter after the other.
        groups = [rows] if network.weights.whole else [[r] for r in rows]
        if backend == "triton":
            from rwp_dist.perturb.normals.triton.fused import FusedNoise  # needs Triton

            self._fused = [FusedNoise(g, options.scale, network.seed, device) for g in groups]
            return
        self._normals = open_normals(backend, network.seed, device)
        self._scales = [(g, NoiseScale(g, options.scale, device)) for g in groups]
        if options.draw_ahead and self._slots:
            self._ahead = DrawAhead(open_normals(backend, network.seed, device), rows)

    @torch.no_grad()
    def perturb(
        self, slot: Slot, step: int, strength: float, loss: Callable[[], Tensor] | None
    ) -> None:
        sigma = strength * slot.sign
        if self._fused:
            self._perturb_fused(slot, step, sigma)
            return
        units = self._ahead.take(step, slot.draw) if self._ahead is not None else None
        divisors = None
        if self.energy is not None:
            divisors = self.energy.divisor(self.options.eta, self.options.power)
        for rows, scale in self._scales:
            with self.network.weights.perturbing(scale.params) as targets:
                scale.measure(sigma, None if divisors is None else divisors[scale.place])
                if units is not None:
                    scale.add_noise(targets, units[: len(rows)])
                    units = units[len(rows) :]
                else:
                    assert self._normals is not None
                    scale.draw_noise(targets, rows, self._normals, step, slot.draw)
        following = self._slots[self._slots.index(slot) + 1 :]
        if self._ahead is not None and following:
            # Gradients of this pass are not reduced yet, but the next pass will not wait.
            self._ahead.announce(step, following[0].draw)
            self._ahead.start()

    def _perturb_fused(self, slot: Slot, step: int, sigma: float) -> None:
        energies = self.energy.value if self.energy is not None else None
        eta, power = self.options.eta, self.options.power
        for fused in self._fused:
            with self.network.weights.perturbing(fused.params) as targets:
                fused.add(targets, step, slot.draw, sigma, energies, eta, power)

    def observe(self, scale: float | None) -> None:
        if self.energy is not None:
            self.energy.observe(scale)

    def pass_failed(self) -> None:
        if self.energy is not None:
            self.energy.forget()

    @property
    def draws_ahead(self) -> bool:
        return self._ahead is not None

    def gradients_done(self, next_step: int | None) -> None:
        if self._ahead is not None and next_step is not None:
            self._ahead.announce(next_step, self._slots[0].draw)
            self._ahead.start()

    def passes_done(self) -> None:
        if self.energy is not None:
            self.energy.reduce()

    def step_done(self, applied: bool | Tensor) -> None:
        if self.energy is not None:
            self.energy.update(applied)

    def state_dict(self) -> dict[str, Any]:
        return {"energy": self.energy.state_dict()} if self.energy is not None else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if self.energy is not None:
            self.energy.load_state_dict(state.get("energy", {}))

    def adaptation(self) -> Tensor | None:
        return self.energy.adaptation(self.options.eta) if self.energy is not None else None

    def take_times(self) -> Times:
        return self._ahead.take_times() if self._ahead is not None else Times()

    def join(self) -> None:
        if self._ahead is not None:
            self._ahead.join()

    @property
    def num_bytes(self) -> int:
        """The buffer that noise is drawn into ahead."""
        return self._ahead.num_bytes if self._ahead is not None else 0

    def close(self) -> None:
        if self._ahead is not None:
            self._ahead.close()
        if self.energy is not None:
            self.energy.close()
