"""Ways to perturb weights, each a function that returns the gradient of one update.

``@variant`` says what its strength is, and what one update costs: passes one after another, and
samples, in multiples of sgd's. Formulas without a source are those of rwp_dist.perturb.reference.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from rwp_dist.perturb import increasing
from rwp_dist.perturb.reference import GradientAt, Tensors, ascended, noisy

Batch = tuple[Tensor, Tensor]


@dataclass
class Update:
    """What an update may use."""

    at: GradientAt
    """Gradient of the mean loss at some weights on a batch."""
    weights: Tensors
    batch: Batch
    other: Callable[[], Batch]
    """Another batch of the epoch, for methods that take two."""
    strength: float
    time: float
    """Share of the run that is over, in [0, 1)."""
    unit: Callable[[], Tensors]
    """New standard normal values; none for norm layers and biases."""
    unit_of_all: Callable[[], Tensors]
    """New standard normal values for all weights."""
    momentum: Tensors
    """The optimizer's; empty before the first update."""
    memory: dict[str, Any] = field(default_factory=dict)
    """What the variant keeps from one update to the next."""

    def noisy(self, unit: Tensors, scale: str = "rms", factor: float = 1.0) -> Tensors:
        """``w + strength * factor * std * unit``."""
        return noisy(self.weights, unit, self.strength * factor, scale)

    def halves(self) -> tuple[Batch, Batch]:
        """The batch in two halves, as on two ranks."""
        (x, y), n = self.batch, len(self.batch[1]) // 2
        return (x[:n], y[:n]), (x[n:], y[n:])


Rule = Callable[[Update], Tensors]


@dataclass(frozen=True)
class Variant:
    """One row of the table."""

    name: str
    rule: Rule
    centre: float
    """The strength in the middle of the grid; 0: it has none."""
    passes: float
    """Passes of an update that wait for each other."""
    samples: float
    """Samples of an update over those of sgd, times the passes over each."""
    steps: float = 1.0
    """Updates, in multiples of sgd's."""
    average: bool = False
    """Score an exponential average of the weights."""


VARIANTS: dict[str, Variant] = {}


def variant(
    name: str, centre: float = 0.0, *, passes: float = 1, samples: float = 1, **more: Any
) -> Callable[[Rule], Rule]:
    """Register a rule under a name; several may share a rule."""

    def register(rule: Rule) -> Rule:
        VARIANTS[name] = Variant(name, rule, centre, passes, samples, **more)
        return rule

    return register


def mean(gradients: list[Tensors], shares: tuple[float, ...] = ()) -> Tensors:
    """Their weighted sum; equal shares unless given."""
    shares = shares or (1 / len(gradients),) * len(gradients)
    names = gradients[0]
    pairs = list(zip(shares, gradients, strict=True))
    return {n: torch.stack([share * g[n] for share, g in pairs]).sum(0) for n in names}


def negative(tensors: Tensors) -> Tensors:
    """``-t`` of each."""
    return {name: -value for name, value in tensors.items()}


# --- one plain pass, and SAM's two ---


@variant("sgd")
@variant("sgd, twice the steps", steps=2)
@variant("sgd + average", average=True)
def sgd(u: Update) -> Tensors:
    return u.at(u.weights, u.batch)


@variant("sam", 0.2, passes=2, samples=2)
@variant("sam, half the steps", 0.2, passes=2, samples=2, steps=0.5)
@variant("sam + average", 0.2, passes=2, samples=2, average=True)
def sam(u: Update) -> Tensors:
    return u.at(ascended(u.weights, u.at(u.weights, u.batch), u.strength), u.batch)


@variant("sam, last 20 %", 0.2, passes=1.2, samples=1.2)
def late_sam(u: Update) -> Tensors:
    return sam(u) if u.time >= 0.8 else sgd(u)


@variant("sam, norm layers and biases only", 0.2, passes=2, samples=2)
def norm_sam(u: Update) -> Tensors:
    """Mueller et al., NeurIPS 2023: the ascent of normalisation parameters alone."""
    gradient = u.at(u.weights, u.batch)
    norms = {n: g if g.ndim < 2 else torch.zeros_like(g) for n, g in gradient.items()}
    return u.at(ascended(u.weights, norms, u.strength), u.batch)


# --- noise in one pass ---


@variant("rwp", 0.3)
@variant("rwp + average", 0.3, average=True)
def rwp(u: Update) -> Tensors:
    return u.at(u.noisy(u.unit()), u.batch)


@variant("rwp, authors' scale", 0.03)
def filter_rwp(u: Update) -> Tensors:
    return u.at(u.noisy(u.unit(), "filter"), u.batch)


@variant("rwp, one scale per tensor", 0.3)
def tensor_rwp(u: Update) -> Tensors:
    return u.at(u.noisy(u.unit(), "tensor"), u.batch)


@variant("rwp, scale of each element", 0.2)
def element_rwp(u: Update) -> Tensors:
    return u.at(u.noisy(u.unit(), "element"), u.batch)


@variant("rwp, increasing", 0.3)
def increasing_rwp(u: Update) -> Tensors:
    factor = increasing(1 / 11, 10.0, u.time, 1)  # the strength is that of the end
    return u.at(u.noisy(u.unit(), factor=factor), u.batch)


@variant("rwp, last 20 %", 0.3)
def late_rwp(u: Update) -> Tensors:
    return rwp(u) if u.time >= 0.8 else sgd(u)


@variant("rwp, first 80 %", 0.3)
def early_rwp(u: Update) -> Tensors:
    return rwp(u) if u.time < 0.8 else sgd(u)


@variant("rwp, norm layers and biases too", 0.15)
def all_rwp(u: Update) -> Tensors:
    return u.at(u.noisy(u.unit_of_all()), u.batch)


@variant("rwp, norm layers and biases only", 0.15)
def norm_rwp(u: Update) -> Tensors:
    unit = {n: e if e.ndim < 2 else torch.zeros_like(e) for n, e in u.unit_of_all().items()}
    return u.at(u.noisy(unit), u.batch)


@variant("rwp, two draws", 0.3)
def two_draws(u: Update) -> Tensors:
    return mean([u.at(u.noisy(u.unit()), half) for half in u.halves()])


@variant("rwp, +e and -e on half a batch each", 0.3)
def antithetic(u: Update) -> Tensors:
    unit, (first, second) = u.unit(), u.halves()
    return mean([u.at(u.noisy(unit), first), u.at(u.noisy(negative(unit)), second)])


@variant("rwp, +e and -e on the same samples", 0.3, samples=2)
def two_points(u: Update) -> Tensors:
    unit = u.unit()
    return mean([u.at(u.noisy(e), u.batch) for e in (unit, negative(unit))])


# --- a clean and a perturbed pass that do not wait for each other ---


@variant("m-rwp", 0.5)
@variant("m-rwp + average", 0.5, average=True)
def m_rwp(u: Update) -> Tensors:
    clean, perturbed = u.halves()
    return mean([u.at(u.weights, clean), u.at(u.noisy(u.unit()), perturbed)])


@variant("m-rwp, two batches", 0.5, samples=2)
def m_rwp_two(u: Update) -> Tensors:
    return mean([u.at(u.weights, u.batch), u.at(u.noisy(u.unit()), u.other())])


@variant("m-rwp, lambda from 0 to 1", 0.5)
def rising_m_rwp(u: Update) -> Tensors:
    clean, perturbed = u.halves()
    gradients = [u.at(u.weights, clean), u.at(u.noisy(u.unit()), perturbed)]
    return mean(gradients, (1 - u.time, u.time))


def adaptive(u: Update, gradient: Tensors) -> Tensors:
    """The size of m-arwp's noise in each row, after its energy has seen a perturbed gradient."""
    energy = u.memory.setdefault("energy", {})
    for name, g in gradient.items():
        rows = g.square().flatten(1).sum(1) if g.ndim > 1 else g.square()
        energy[name] = 0.99 * energy.get(name, 0.0) + rows.view([-1] + [1] * (g.ndim - 1))
    return {name: (1 + 0.1 * value).rsqrt() for name, value in energy.items()}


@variant("m-arwp", 0.5)
def m_arwp(u: Update) -> Tensors:
    shrink, unit = u.memory.get("shrink"), u.unit()
    if shrink is not None:
        unit = {name: shrink[name] * value for name, value in unit.items()}
    clean, half = u.halves()
    perturbed = u.at(u.noisy(unit), half)
    u.memory["shrink"] = adaptive(u, perturbed)
    return mean([u.at(u.weights, clean), perturbed])


@variant("sampa's roles", 0.2)
def sampa(u: Update) -> Tensors:
    """A clean half and one up the clean half's last gradient, neither of which waits.

    After Xie et al., "SAMPa: Sharpness-aware Minimization Parallelized", NeurIPS 2024.
    """
    (clean, half), last = u.halves(), u.memory.get("clean")
    gradient = u.at(u.weights, clean)
    u.memory["clean"] = gradient
    if last is None:
        return gradient
    return mean([gradient, u.at(ascended(u.weights, last, u.strength), half)])


@variant("up the clean half's own deviation", 0.2)
def deviation(u: Update) -> Tensors:
    """As ``sampa``, along the last clean gradient less its running mean: its noise alone."""
    (clean, half), last = u.halves(), u.memory.get("deviation")
    gradient = u.at(u.weights, clean)
    before = u.memory.get("mean", gradient)
    u.memory["mean"] = {n: 0.9 * before[n] + 0.1 * g for n, g in gradient.items()}
    u.memory["deviation"] = {n: g - before[n] for n, g in gradient.items()}
    if last is None or not any(bool(d.any()) for d in last.values()):
        return gradient
    return mean([gradient, u.at(ascended(u.weights, last, u.strength), half)])


# --- one pass, up an old gradient ---


@variant("last-sam", 0.2)
def last_sam(u: Update) -> Tensors:
    last = u.memory.get("last")
    weights = u.weights if last is None else ascended(u.weights, last, u.strength)
    gradient: Tensors = u.at(weights, u.batch)
    u.memory["last"] = gradient
    return gradient


@variant("momentum-sam", 0.5)
def momentum_sam(u: Update) -> Tensors:
    """Against the momentum. After Becker et al., "Momentum-SAM", 2024 (arXiv 2401.12033)."""
    if not u.momentum:
        return u.at(u.weights, u.batch)
    return u.at(ascended(u.weights, negative(u.momentum), u.strength), u.batch)
