"""Random directions by number: the same for every run of one network, on any device."""

import torch

from rwp_dist.flatness.landscape import Landscape
from rwp_dist.perturb.normals import PhiloxNormals, choose_backend, open_normals
from rwp_dist.perturb.reference import Tensors, noise_std
from rwp_dist.perturb.rows import list_rows


def direction(landscape: Landscape, number: int) -> Tensors:
    """Normal values by key, scaled so that each filter's part is as long as the filter.

    So ``w + r d`` moves every filter by ``r`` of its own norm, whatever its scale. A parameter of
    one dimension (a bias, scale and shift of a normalisation) is one filter. Source: Li et al.,
    NeurIPS 2018 (arXiv 1712.09913), "filter normalisation".
    """
    device, found = landscape.device, {}
    backend = choose_backend("auto", device)
    # torch's own values would differ between devices.
    normals = PhiloxNormals(0) if backend == "torch" else open_normals(backend, 0, device)
    for rows in list_rows(landscape.model.named_parameters()):
        unit = torch.empty(rows.shape, device=normals.device)
        unit = normals.fill(unit, number, 0, rows.index).to(device)
        weight = landscape.weights[rows.name]
        found[rows.name] = unit * (noise_std(weight, "filter") / noise_std(unit, "filter"))
    return found


def moved(weights: Tensors, *steps: tuple[float, Tensors]) -> Tensors:
    """Weights plus some directions, each times a number."""
    new = list(weights.values())
    for length, along in steps:
        new = list(torch._foreach_add(new, [along[name] for name in weights], alpha=length))
    return dict(zip(weights, new, strict=True))
