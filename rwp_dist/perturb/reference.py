"""What each method computes, slowly and plainly, on one process.

To read, and for tests: the fast code equals these functions, given the same noise. Each of the
last functions returns the gradient that the optimizer gets in one update.

Sources: Li et al., TMLR 2024 (arXiv 2404.00357) for rwp, arwp and their mixtures; Foret et al.,
ICLR 2021 for sam; Kwon et al., ICML 2021 for asam.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Tensors = dict[str, Tensor]
"""A value of each parameter, by its name."""
GradientAt = Callable[[Tensors, Any], Tensors]
"""Gradient of the mean loss at some weights on a batch."""


# --- how weights are moved ---


def noise_std(weight: Tensor, scale: str = "rms") -> Tensor:
    """Standard deviation of a parameter's noise at sigma 1, which broadcasts over it.

    A parameter of several dimensions has one for each row (a filter of a convolution), a parameter
    of one dimension one for all.
    """
    rows = weight.flatten(1) if weight.ndim > 1 else weight.reshape(1, -1)
    of_rows = {
        "filter": rows.square().sum(1).sqrt(),
        "rms": rows.square().mean(1).sqrt(),
        "tensor": rows.square().mean().sqrt().repeat(len(rows)),
    }
    if scale == "element":
        return weight.abs()
    return of_rows[scale].view([-1] + [1] * (weight.ndim - 1)) if weight.ndim else of_rows[scale][0]


def noisy(weights: Tensors, unit: Tensors, sigma: float, scale: str = "rms") -> Tensors:
    """Weights of rwp: ``w + sigma * std * unit``, with standard normal values ``unit``."""
    return {n: w + sigma * noise_std(w, scale) * unit[n] for n, w in weights.items()}


def adaptive_noisy(
    weights: Tensors,
    unit: Tensors,
    sigma: float,
    energy: Tensors,
    eta: float,
    power: float = 0.5,
    scale: str = "rms",
) -> Tensors:
    """Weights of arwp: the noise of each row is divided by ``(1 + eta * energy) ** power``."""
    moved = {}
    for name, w in weights.items():
        shrink = (1 + eta * energy[name]) ** power
        std = sigma * noise_std(w, scale) / shrink.view([-1] + [1] * (w.ndim - 1))
        moved[name] = w + std * unit[name]
    return moved


def next_energy(energy: Tensors, gradients: list[Tensors], beta: float) -> Tensors:
    """``beta * energy + mean over perturbed passes of |g|^2``, for each row or single element."""
    new = {}
    for name, before in energy.items():
        squares = [g[name].square().reshape(len(before), -1).sum(1) for g in gradients]
        new[name] = beta * before + torch.stack(squares).mean(0)
    return new


def ascended(weights: Tensors, gradient: Tensors, rho: float, *, adaptive: bool = False) -> Tensors:
    """Weights of sam: ``w + rho g / |g|``. Of asam, with ``T = |w|``: ``w + rho T^2 g / |T g|``."""
    scale = {n: w.abs() if adaptive else torch.ones_like(w) for n, w in weights.items()}
    norm = torch.stack([(scale[n] * g).square().sum() for n, g in gradient.items()]).sum().sqrt()
    return {n: w + rho * scale[n] ** 2 * gradient[n] / norm for n, w in weights.items()}


# --- the gradient of an update ---


def sgd(at: GradientAt, weights: Tensors, batch: Any) -> Tensors:
    """The plain gradient."""
    return at(weights, batch)


def sam(at: GradientAt, weights: Tensors, batch: Any, rho: float) -> Tensors:
    """Two passes over the same batch, the second where the first's gradient points."""
    return at(ascended(weights, at(weights, batch), rho), batch)


def asam(at: GradientAt, weights: Tensors, batch: Any, rho: float) -> Tensors:
    """sam with steps in proportion to each weight."""
    return at(ascended(weights, at(weights, batch), rho, adaptive=True), batch)


def last_sam(
    at: GradientAt, weights: Tensors, batch: Any, rho: float, last: Tensors | None
) -> Tensors:
    """One pass, where the last update's gradient points; the first update is clean."""
    return at(weights if last is None else ascended(weights, last, rho), batch)


def rwp(at: GradientAt, weights: Tensors, batch: Any, sigma: float, unit: Tensors) -> Tensors:
    """One pass with noise."""
    return at(noisy(weights, unit, sigma), batch)


def m_rwp(
    at: GradientAt,
    weights: Tensors,
    batches: tuple[Any, Any],
    sigma: float,
    unit: Tensors,
    lambda_: float = 0.5,
) -> Tensors:
    """A clean pass and one with noise, each on a batch of its own, in any order."""
    clean, perturbed = at(weights, batches[0]), at(noisy(weights, unit, sigma), batches[1])
    return {n: (1 - lambda_) * clean[n] + lambda_ * perturbed[n] for n in weights}


def arwp(
    at: GradientAt,
    weights: Tensors,
    batch: Any,
    sigma: float,
    unit: Tensors,
    energy: Tensors,
    eta: float,
    beta: float,
) -> tuple[Tensors, Tensors]:
    """rwp with less noise where gradients have been large; the gradient and the next energy."""
    gradient = at(adaptive_noisy(weights, unit, sigma, energy, eta), batch)
    return gradient, next_energy(energy, [gradient], beta)


def m_arwp(
    at: GradientAt,
    weights: Tensors,
    batches: tuple[Any, Any],
    sigma: float,
    unit: Tensors,
    energy: Tensors,
    eta: float,
    beta: float,
    lambda_: float = 0.5,
) -> tuple[Tensors, Tensors]:
    """m_rwp with the noise of arwp; the gradient and the next energy."""
    clean = at(weights, batches[0])
    perturbed = at(adaptive_noisy(weights, unit, sigma, energy, eta), batches[1])
    mixed = {n: (1 - lambda_) * clean[n] + lambda_ * perturbed[n] for n in weights}
    return mixed, next_energy(energy, [perturbed], beta)
