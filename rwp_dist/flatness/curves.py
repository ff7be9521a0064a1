"""Loss and top-1 against the radius of a perturbation, random and adversarial."""

import math
from functools import partial

import torch

from rwp_dist.data.batch import Batch
from rwp_dist.flatness.directions import direction, moved
from rwp_dist.flatness.landscape import Landscape, Sums
from rwp_dist.flatness.pieces import GRADIENT_PASSES, Piece
from rwp_dist.perturb.reference import Tensors, noise_std

RANDOM_RADII = (0.0, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5)
"""Every filter moves by so much of its own norm."""

ADVERSARIAL_RADII = (0.0, 0.001, 0.002, 0.005, 0.01, 0.02)
"""Root mean square over the filters of the same."""

ASCENT_STEPS = 5


def random_pieces(landscape: Landscape, directions: int) -> list[Piece]:
    """A piece for each direction."""
    request, passes = landscape.identity | {"radii": RANDOM_RADII}, len(RANDOM_RADII)
    return [
        Piece(f"random-{n}", passes, request, partial(random_curve, landscape, n))
        for n in range(directions)
    ]


def random_curve(landscape: Landscape, number: int) -> list[Sums]:
    """The whole sample along a random direction, at each of ``RANDOM_RADII``."""
    weights, along = landscape.weights, direction(landscape, number)
    return [landscape.sums(moved(weights, (radius, along))) for radius in RANDOM_RADII]


def adversarial_pieces(landscape: Landscape) -> list[Piece]:
    """A piece for each batch of the sample."""
    request = landscape.identity | {"radii": ADVERSARIAL_RADII, "steps": ASCENT_STEPS}
    count = len(landscape.sample.batches)
    passes = len(ADVERSARIAL_RADII) * (ASCENT_STEPS * GRADIENT_PASSES + 1) / count
    return [
        Piece(f"adversarial-{n}", passes, request, partial(adversarial_curve, landscape, n))
        for n in range(count)
    ]


def adversarial_curve(landscape: Landscape, number: int) -> list[Sums]:
    """One batch at weights that raise its own loss, at each of ``ADVERSARIAL_RADII``.

    As in m-SAM (Foret et al., ICLR 2021), each batch has a perturbation of its own. It is found by
    ``ASCENT_STEPS`` normalised gradient steps, each projected onto the ball. All is measured in
    the filters' norms: with ``e_j = |w_j| u_j`` for each of F filters, the radius is
    ``|u| / sqrt(F)``, and the gradient is the one by ``u``.
    """
    batch = landscape.sample.batches[number]
    norms = {name: noise_std(weight, "filter") for name, weight in landscape.weights.items()}
    root = math.sqrt(sum(norm.numel() for norm in norms.values()))
    curve = []
    for radius in ADVERSARIAL_RADII:
        ball = radius * root
        move = {name: torch.zeros_like(weight) for name, weight in landscape.weights.items()}
        for _ in range(ASCENT_STEPS if radius else 0):
            slope = _slope(landscape, move, norms, batch)
            move = moved(move, (2 * ball / ASCENT_STEPS / _length(slope), slope))
            shrink = min(1.0, ball / _length(move))
            move = {name: value * shrink for name, value in move.items()}
        curve.append(landscape.sums(_at(landscape, move, norms), [batch]))
    return curve


def _at(landscape: Landscape, move: Tensors, norms: Tensors) -> Tensors:
    return {name: w + norms[name] * move[name] for name, w in landscape.weights.items()}


def _slope(landscape: Landscape, move: Tensors, norms: Tensors, batch: Batch) -> Tensors:
    """Gradient of a batch's loss by ``move``."""
    leaves = {name: value.detach().requires_grad_() for name, value in move.items()}
    loss = landscape.loss(_at(landscape, leaves, norms), batch)
    found = torch.autograd.grad(loss, list(leaves.values()), materialize_grads=True)
    return dict(zip(leaves, found, strict=True))


def _length(move: Tensors) -> float:
    norms = torch._foreach_norm(list(move.values()))
    return max(float(torch.stack(norms).norm()), torch.finfo(torch.float32).tiny)
