"""The operations of the released scheme, written anew: what this project is compared with.

Per parameter it takes the filters' norms, repeats them to full size, draws noise of that size,
reads one-dimensional norms back to the host, keeps the noise through the backward pass, and
subtracts it afterwards.
"""

import torch
from torch import Tensor, nn


@torch.no_grad()
def add_expanded_noise(model: nn.Module, sigma: float) -> list[tuple[nn.Parameter, Tensor]]:
    """Perturb all parameters; returns them with their noise."""
    kept = []
    for param in model.parameters():
        if param.ndim > 1:
            rows = param.view(param.shape[0], -1)
            deviation = rows.norm(dim=1, keepdim=True).repeat(1, rows.shape[1]).view_as(param)
            epsilon = torch.normal(0.0, sigma * deviation)
        else:
            deviation = torch.empty_like(param).fill_(sigma * (param.norm().item() + 1e-16))
            epsilon = torch.normal(0.0, deviation)
        param.add_(epsilon)
        kept.append((param, epsilon))
    return kept


@torch.no_grad()
def subtract_noise(kept: list[tuple[nn.Parameter, Tensor]]) -> None:
    """Take the noise off again, up to rounding."""
    for param, epsilon in kept:
        param.sub_(epsilon)
