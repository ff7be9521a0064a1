"""All methods in plain float64 on one process: any number of ranks, their roles, optimizers.

How weights are moved is in ``rwp_dist.perturb.reference``, written from the formulas alone. Beside
that, only the unit noise of a key is the package's: equality is claimed *given the same noise*.
"""

import math
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from rwp_dist.perturb import reference
from rwp_dist.perturb.normals.generator import TorchNormals
from rwp_dist.perturb.normals.philox import PhiloxNormals

Tensors = dict[str, Tensor]

ROLES = {
    # micro-batches of each rank: roles of each rank, clean (c) and perturbed (p), by world size
    1: {
        1: ["c"],
        2: ["c", "p"],
        3: ["c", "p", "c"],
        4: ["c", "p", "c", "p"],
        5: ["c", "p", "c", "p", "c"],
    },
    2: {
        1: ["cp"],
        2: ["cp", "cp"],
        3: ["cp", "cp", "cp"],
        4: ["cp", "cp", "cp", "cp"],
        5: ["cp", "cp", "cp", "cp", "cp"],
    },
    3: {
        1: ["ccp"],
        2: ["ccp", "cpp"],
        3: ["ccp", "cpp", "ccp"],
        4: ["ccp", "cpp", "ccp", "cpp"],
        5: ["ccp", "cpp", "ccp", "cpp", "ccp"],
    },
}
"""Roles of a mixed method, written by hand: half of all passes are perturbed, one fewer if their
number is odd; clean ones come first on each rank, and ranks alternate."""


METHODS = ("sgd", "sam", "asam", "rwp", "arwp", "m-rwp", "m-arwp", "last-sam")
"""Methods that have a formula here."""


@dataclass(frozen=True)
class Formula:
    """What is computed; the names are those of the formulas."""

    method: str
    total_steps: int
    seed: int = 0
    bce: bool = False
    lambda_: float = 0.5
    sigma: float = 0.05
    sigma_increase: float = 2.0
    warmup_steps: int = 0
    every: int = 1
    start: float = 0.0
    stop: float = 1.0
    rho: float = 0.3
    eta: float = 20.0
    beta: float = 0.7
    power: float = 0.5
    scale: str = "filter"
    exclude: tuple[str, ...] = ()
    antithetic: bool = False
    shared_noise: bool = False
    philox: bool = False
    optimizer: str = "sgd"
    lr: float = 0.1
    momentum: float = 0.9
    nesterov: bool = False
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 5e-4
    only_matrices: bool = False
    """Parameters of one dimension are neither decayed nor, by LAMB, adapted."""
    lr_factors: tuple[tuple[str, float], ...] = ()
    """Patterns of names, and factors of the learning rate; those of several patterns multiply."""
    clip_norm: float = 0.0
    average: str = "none"
    decay: float = 0.9999
    average_warmup: bool = True
    average_start: int = 0
    average_every: int = 1
    newest: int = 5
    mean: float = 0.4
    std: float = 0.3

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ValueError(f"the oracle has no formula of {self.method}")

    def mixed(self) -> bool:
        return self.method in ("m-rwp", "m-arwp")

    def adaptive(self) -> bool:
        return self.method in ("arwp", "m-arwp")

    def lr_at(self, step: int) -> float:
        return self.lr * (1.0 + math.cos(math.pi * step / self.total_steps)) / 2.0

    def strength_at(self, step: int) -> float:
        """sigma or rho; 0 where the pass is clean."""
        share = step / self.total_steps
        if step < self.warmup_steps or step % self.every or not self.start <= share < self.stop:
            return 0.0
        if self.method in ("sam", "asam", "last-sam"):
            return self.rho
        if self.mixed():
            return self.sigma
        ramp = (1.0 - math.cos(math.pi * step / self.total_steps)) / 2.0
        return self.sigma * (1.0 + self.sigma_increase * ramp)


@dataclass
class Slot:
    """One micro-batch of one rank."""

    rank: int
    index: int
    perturbed: bool
    draw: int
    sign: float


@dataclass
class Oracle:
    """Weights, buffers of every rank, energy and optimizer state of one run."""

    formula: Formula
    net: nn.Module
    world_size: int
    micro_batches: int
    weights: Tensors = field(init=False)
    buffers: list[Tensors] = field(init=False)
    energy: Tensors = field(init=False)
    last: Tensors | None = field(init=False, default=None)
    """The last update's gradient."""
    taken: list[Tensors] = field(init=False, default_factory=list)
    """Weights that the average is made of, the oldest first."""

    def __post_init__(self) -> None:
        self.net = self.net.double().train()
        self.weights = {n: p.detach().clone() for n, p in self.net.named_parameters()}
        self.buffers = [
            {n: b.detach().clone() for n, b in self.net.named_buffers()}
            for _ in range(self.world_size)
        ]
        self.energy = {n: torch.zeros(len(w)).double() for n, w in self.weights.items()}
        self._memory: dict[str, Tensors] = {"m": {}, "v": {}}
        self._updates = 0
        self._noise: TorchNormals | PhiloxNormals = TorchNormals(
            self.formula.seed, torch.device("cpu")
        )
        if self.formula.philox:
            self._noise = PhiloxNormals(self.formula.seed)
        self.slots = self._assign()

    # --- roles ---

    def _assign(self) -> list[Slot]:
        M, slots, partner = self.micro_batches, [], None
        for rank in range(self.world_size):
            for m in range(M):
                index = rank * M + m
                draw = m if self.formula.shared_noise else index
                perturbed = self.formula.method != "sgd"
                if self.formula.mixed():
                    perturbed = ROLES[M][self.world_size][rank][m] == "p"
                slot = Slot(rank, index, perturbed, draw, 1.0)
                if slot.perturbed and self.formula.antithetic:
                    if partner is None:
                        partner = slot
                    else:
                        slot.draw, slot.sign, partner = partner.draw, -1.0, None
                slots.append(slot)
        return slots

    # --- one step ---

    def step(self, step: int, batches: list[tuple[Tensor, Tensor, Tensor]]) -> None:
        """One update; for every slot uint8 images, labels and weights of samples (1 or 0)."""
        f = self.formula
        total = {name: torch.zeros_like(w) for name, w in self.weights.items()}
        perturbed: list[Tensors] = []
        for slot, (images, labels, counts) in zip(self.slots, batches, strict=True):
            batch = ((images.double() / 255 - f.mean) / f.std, labels, counts.double())
            statistics = self.buffers[slot.rank]
            weights, strength = self.weights, f.strength_at(step)
            if slot.perturbed and f.method in ("sam", "asam"):
                if strength > 0:  # else one pass, which is the clean one
                    ascent = self._mean_gradient(weights, batch, statistics)
                    weights = self._ascended(ascent)
                    statistics = {n: b.clone() for n, b in statistics.items()}
            elif slot.perturbed and f.method == "last-sam":
                if strength > 0 and self.last is not None:
                    weights = self._ascended(self.last)
            elif slot.perturbed:
                weights = self._noisy(slot, step)
                if f.mixed():
                    statistics = {n: b.clone() for n, b in statistics.items()}
            gradient = self._mean_gradient(weights, batch, statistics)
            role = sum(
                float(batches[s.index][2].sum())
                for s in self.slots
                if s.perturbed == slot.perturbed
            )
            share = (f.lambda_ if slot.perturbed else 1.0 - f.lambda_) if f.mixed() else 1.0
            for name, g in gradient.items():
                # lambda * mean over all perturbed samples + (1 - lambda) * mean over clean ones
                total[name] += share * g * float(counts.sum()) / role
            if slot.perturbed:
                perturbed.append(gradient)
        if not all(g.isfinite().all() for g in total.values()):
            return
        self.last = total
        if f.adaptive():
            self.energy = reference.next_energy(self.energy, perturbed, f.beta)
        self._update(total, f.lr_at(step))
        if step >= f.average_start and (step + 1) % f.average_every == 0:
            self.taken.append({name: w.clone() for name, w in self.weights.items()})

    def average(self) -> Tensors:
        """Of the weights that were taken."""
        f, number = self.formula, len(self.taken)
        if f.average == "ema":
            factors = [1.0]
            for n in range(1, number):
                kept = min(f.decay, (1 + n) / (10 + n)) if f.average_warmup else f.decay
                factors = [*(kept * factor for factor in factors), 1.0 - kept]
        else:
            used = min(number, f.newest) if f.average == "lawa" else number
            factors = [0.0] * (number - used) + [1.0 / used] * used
        return {
            name: sum(c * w[name] for c, w in zip(factors, self.taken, strict=True))
            for name in self.weights
        }

    def _mean_gradient(self, weights: Tensors, batch: tuple, statistics: Tensors) -> Tensors:
        """Gradient of the mean loss of a slot's samples; moves running statistics along."""
        images, labels, counts = batch
        leaves = {n: w.detach().clone().requires_grad_() for n, w in weights.items()}
        logits = functional_call(self.net, leaves | statistics, (images,))
        losses = F.cross_entropy(logits, labels, reduction="none")
        if self.formula.bce:  # sum_k log(1 + exp(z_k)) - z_label
            losses = F.softplus(logits).sum(1) - logits.gather(1, labels[:, None])[:, 0]
        loss = (losses * counts).sum() / counts.sum()
        return dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))

    # --- perturbations ---

    def _ascended(self, gradient: Tensors) -> Tensors:
        adaptive = self.formula.method == "asam"
        return reference.ascended(self.weights, gradient, self.formula.rho, adaptive=adaptive)

    def _noisy(self, slot: Slot, step: int) -> Tensors:
        f, sigma = self.formula, self.formula.strength_at(step)
        if sigma == 0:
            return self.weights
        weights, unit = {}, {}
        for index, (name, w) in enumerate(self.weights.items()):
            excluded = any(fnmatchcase(name, pattern) for pattern in f.exclude)
            if excluded or ("ndim<2" in f.exclude and w.ndim < 2):
                continue
            values = self._noise.fill(torch.empty(w.shape), step, slot.draw, index)
            weights[name], unit[name] = w, slot.sign * values.double()
        if f.adaptive():
            moved = reference.adaptive_noisy(
                weights, unit, sigma, self.energy, f.eta, f.power, f.scale
            )
        else:
            moved = reference.noisy(weights, unit, sigma, f.scale)
        return self.weights | moved

    # --- optimizers ---

    def _update(self, gradient: Tensors, lr: float) -> None:
        f = self.formula
        norm = math.sqrt(sum(float(g.square().sum()) for g in gradient.values()))
        clip = f.clip_norm / norm if 0 < f.clip_norm < norm else 1.0
        self._updates += 1
        for name, g in gradient.items():
            g = g * clip
            rate = lr * math.prod(x for pattern, x in f.lr_factors if fnmatchcase(name, pattern))
            left_out = f.only_matrices and g.ndim < 2
            decay = 0.0 if left_out else f.weight_decay
            w, m, v = self.weights[name], self._memory["m"].get(name), self._memory["v"].get(name)
            if f.optimizer == "sgd":
                g = g + decay * w
                m = g if m is None else f.momentum * m + g
                self.weights[name] = w - rate * (g + f.momentum * m if f.nesterov else m)
            else:
                b1, b2 = f.betas
                m = (1 - b1) * g + (0.0 if m is None else b1 * m)
                v = (1 - b2) * g**2 + (0.0 if v is None else b2 * v)
                m_hat, v_hat = m / (1 - b1**self._updates), v / (1 - b2**self._updates)
                update = m_hat / (v_hat.sqrt() + f.eps)
                if f.optimizer == "lamb":
                    update = update + decay * w
                    trust = 1.0 if left_out else float(w.norm() / update.norm())
                    self.weights[name] = w - rate * trust * update
                else:
                    self.weights[name] = w * (1 - rate * decay) - rate * update
                self._memory["v"][name] = v
            self._memory["m"][name] = m
