"""Whether the kernels on a device do what their plain references say, before they are timed.

Noise against the NumPy implementation of the same Philox stream, weights and energies against the
formulas in float64, and the law of the noise by itself: Kolmogorov-Smirnov and four moments, each
of which a right generator fails with a probability of 1e-6.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from rwp_dist.perturb import Rows, list_rows
from rwp_dist.perturb.normals import PhiloxNormals
from rwp_dist.perturb.normals.triton import FusedEnergy, FusedNoise

LARGE = ((64, 3, 7, 7), (256, 64, 1, 1), (512, 512, 3, 3), (1000, 2048), (2048,), (1, 197, 1024))
"""Rows of ResNet-50 and a very long one, the position embedding of a ViT-L."""
SMALL = ((4, 3, 7, 7), (6, 5, 1, 1), (3, 8200), (7,), (1, 5, 4096))
SEED, STEP, DRAW, SIGMA, ETA, POWER = 7, 3, 1, 0.1, 0.7, 0.25
CLOSE, RARE, FAR = 1e-4, 1e-3, 1e-3
"""Of unit noise: what most values differ by at most; how many may differ more, where the logarithm
of a number next to 1 is a fast approximation; and by how much at most."""


def find_difference(device: torch.device, *, small: bool) -> str | None:
    """What differs, in one sentence; None if nothing does."""
    shapes = SMALL if small else LARGE
    return (
        _in_noise(shapes, device)
        or _in_weights(shapes, torch.float32, device)
        or _in_weights(shapes, torch.bfloat16, device)
        or _in_energy(shapes, torch.float32, device)
        or _in_energy(shapes, torch.bfloat16, device)
    )


def _some_rows(
    shapes: Sequence[Sequence[int]], dtype: torch.dtype, device: torch.device, value: float | None
) -> list[Rows]:
    """Parameters of one value, or random ones."""
    tensors = [torch.randn(*s) * 0.02 if value is None else torch.full(s, value) for s in shapes]
    return list_rows((f"p{n}", nn.Parameter(t.to(device, dtype))) for n, t in enumerate(tensors))


def _matrix(values: Tensor) -> Tensor:
    """``[rows, elements]``, on the CPU in float64."""
    values = values.detach().cpu().double()
    return values.flatten(1) if values.ndim > 1 else values[None]


def _reference(r: Rows) -> Tensor:
    return _matrix(PhiloxNormals(SEED).fill(torch.empty(r.shape), STEP, DRAW, r.index))


def _disagree(errors: Tensor) -> bool:
    return bool((errors > FAR).any()) or float((errors > CLOSE).double().mean()) > RARE


def _in_noise(shapes: Sequence[Sequence[int]], device: torch.device) -> str | None:
    rows = _some_rows(shapes, torch.float32, device, 1.0)
    # Weights of 1, moved element by element, show the noise itself.
    noise = FusedNoise(rows, "element", SEED, device)
    noise.add(noise.params, STEP, DRAW, 1.0)
    units = [_matrix(r.param) - 1.0 for r in rows]
    errors = torch.cat([
        (u - _reference(r)).abs().flatten() for u, r in zip(units, rows, strict=True)
    ])  # fmt: skip
    if _disagree(errors):
        return f"The kernel's noise differs from its reference in NumPy by {errors.max():.2g}."
    values = torch.cat([u.flatten() for u in units])
    n = len(values)
    ranks = torch.arange(n + 1, dtype=torch.float64) / n
    law = torch.special.ndtr(values.sort().values)
    distance = float(torch.maximum(ranks[1:] - law, law - ranks[:-1]).max())
    if 2.0 * math.exp(-2.0 * n * distance**2) < 1e-6:
        return f"The kernel's noise is not normal: Kolmogorov-Smirnov finds {distance:.2g}."
    for power, mean, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        score = (float((values**power).mean()) - mean) * math.sqrt(n / variance)
        if math.erfc(abs(score) / math.sqrt(2.0)) < 1e-6:
            return f"Moment {power} of the kernel's noise is {score:.1f} deviations off."
    return None


@torch.no_grad()
def _in_weights(
    shapes: Sequence[Sequence[int]], dtype: torch.dtype, device: torch.device
) -> str | None:
    rows = _some_rows(shapes, dtype, device, None)
    energies = torch.rand(rows[-1].place.stop)
    clean = [r.param.clone() for r in rows]
    noise = FusedNoise(rows, "filter", SEED, device)
    found = []
    for step in (STEP, STEP + 1, STEP):
        for r, w in zip(rows, clean, strict=True):
            r.param.copy_(w)
        # Elsewhere, as at stage 0, then in place.
        elsewhere = [torch.empty_like(r.param) for r in rows]
        noise.add(elsewhere, step, DRAW, SIGMA, energies.to(device), ETA, POWER)
        noise.add(noise.params, step, DRAW, SIGMA, energies.to(device), ETA, POWER)
        if not all(torch.equal(r.param, e) for r, e in zip(rows, elsewhere, strict=True)):
            return f"Weights in {dtype} are others when they are written elsewhere than in place."
        found.append([r.param.clone() for r in rows])
    for r, w, first, other, again in zip(rows, clean, *found, strict=True):
        where = f"of a parameter {list(r.shape)} in {dtype}"
        if not torch.equal(first, again):
            return f"The noise {where} is another when it is drawn again."
        if torch.equal(first, other):
            return f"The noise {where} is the same in two steps."
        divisors = (1.0 + ETA * energies[r.place].double()) ** POWER
        matrix = _matrix(w)
        std = (
            SIGMA
            * matrix.norm(dim=1, keepdim=True)
            / divisors.view(-1, 1 if r.is_matrix else r.length)
        )
        wanted = matrix + _reference(r) * std
        rounding = wanted.abs() * torch.finfo(dtype).eps  # the interpreter cuts off
        errors = ((_matrix(first) - wanted).abs() - rounding) / std
        if _disagree(errors):
            return f"Weights {where} differ by {errors.max():.2g} of their noise's deviation."
    return None


def _in_energy(
    shapes: Sequence[Sequence[int]], dtype: torch.dtype, device: torch.device
) -> str | None:
    rows = _some_rows(shapes, dtype, device, None)
    energies = torch.zeros(rows[-1].place.stop, device=device)
    fused = FusedEnergy(device, bucket_bytes=2**62)
    for r in rows:
        fused.collect(r, r.param.detach(), 2.0, energies)
    fused.flush()
    for r in rows:
        matrix = _matrix(r.param) if r.is_matrix else _matrix(r.param).T
        wanted = 2.0 * matrix.square().sum(1)
        errors = (energies[r.place].cpu() - wanted).abs() / wanted
        if not errors.max() < 1e-5:
            where = f"of a gradient {list(r.shape)} in {dtype}"
            return f"The energy {where} differs by {errors.max():.2g} of itself."
    return None
