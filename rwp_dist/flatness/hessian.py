"""Largest eigenvalue, trace and spectral density of the Hessian, by Hessian-vector products.

The algorithms and the products are those of the library hessian-eigenthings. It takes means over
batches of one rank; here they are made sums over the images of all ranks.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from rwp_dist.base.errors import ConfigError
from rwp_dist.data.batch import Batch
from rwp_dist.flatness.landscape import Landscape
from rwp_dist.flatness.pieces import PRODUCT_PASSES, Advance, Piece

LANCZOS_STEPS = (20, 40, 80)
"""Products for the largest eigenvalue: the next number if it has not converged."""
TOLERANCE = 0.01
"""It has if the residual, which bounds its error, is below this share of it."""
TRACE_PRODUCTS = 99
DENSITY_RUNS, DENSITY_STEPS = 2, 50


def check_library() -> None:
    """Refuse to begin without the library.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        import hessian_eigenthings  # noqa: F401
    except ImportError:
        raise ConfigError(
            "hessian-eigenthings is not installed",
            key="--hessian",
            cure="pip install 'rwp-dist[flatness]', or leave --hessian out",
        ) from None


def hessian_pieces(landscape: Landscape, advance: Advance) -> list[Piece]:
    """A piece for each of ``MEASURES``, which all ranks compute together."""

    def compute(measure: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
        return measure(hessian(landscape, lambda: advance(PRODUCT_PASSES)))

    return [
        Piece(
            name,
            products * PRODUCT_PASSES,
            landscape.identity | {"products": products},
            partial(compute, measure),
            together=True,
        )
        for name, (measure, products) in MEASURES.items()
    ]


def top_eigenvalue(operator: Any) -> dict[str, Any]:
    """The largest eigenvalue, by Lanczos's method with full orthogonalisation."""
    from hessian_eigenthings import lanczos

    for number in LANCZOS_STEPS:
        steps = min(number, operator.size)
        found = lanczos(operator, k=1, max_iter=steps, which="LA", seed=0, reorthogonalize=True)
        value, residual = float(found.eigenvalues[0]), float(found.residuals[0])
        if converged := residual < TOLERANCE * abs(value):
            break
    return {"value": value, "residual": residual, "converged": converged, "products": steps}


def trace(operator: Any) -> dict[str, Any]:
    """The trace and its standard error, by Hutch++ (Meyer et al., SOSA 2021, arXiv 2010.09649)."""
    from hessian_eigenthings import hutch_plus_plus

    found = hutch_plus_plus(operator, num_matvecs=TRACE_PRODUCTS, seed=0)
    return {"value": found.estimate, "error": found.stderr, "products": TRACE_PRODUCTS}


def density(operator: Any) -> dict[str, Any]:
    """Eigenvalues and their weights ``[runs, steps]``, by stochastic Lanczos quadrature.

    The weights of a run add up to 1. Source: Ubaru, Chen and Saad, SIMAX 2017.
    """
    from hessian_eigenthings import spectral_density

    found = spectral_density(
        operator,
        num_runs=DENSITY_RUNS,
        lanczos_steps=min(DENSITY_STEPS, operator.size),
        num_grid_points=2,  # the picture has a grid of its own
        seed=0,
    )
    return {"eigenvalues": found.raw_eigenvalues.tolist(), "weights": found.raw_weights.tolist()}


MEASURES = {
    "top_eigenvalue": (top_eigenvalue, LANCZOS_STEPS[0]),
    "trace": (trace, TRACE_PRODUCTS),
    "density": (density, DENSITY_RUNS * DENSITY_STEPS),
}
"""What is measured, and how many products that takes if it converges at once."""


def hessian(landscape: Landscape, product_done: Callable[[], object] = lambda: None) -> Any:
    """The Hessian of the sample's mean loss, as an operator; all ranks multiply together.

    Every rank has as many batches of one size, filled up with images of weight 0. Parameters that
    the loss does not depend on are left out.
    """
    from hessian_eigenthings import HessianOperator, LambdaOperator

    rank, world_size = dist.get_rank(), dist.get_world_size()
    batches = list(landscape.sample.batches)
    first = batches[0]
    used = _used(landscape, first)
    empty = Batch(first.images, first.labels, torch.zeros_like(first.weights))
    mine = [*batches, *[empty] * (-len(batches) % world_size)][rank::world_size]
    share = len(mine) / landscape.sample.num_images  # the library takes the mean over mine

    def loss(model: nn.Module, number: int) -> Tensor:
        return landscape.loss({}, mine[number]) * share

    operator = HessianOperator(
        landscape.model, range(len(mine)), loss, param_filter=lambda name, _: name in used
    )

    def multiply(vector: Tensor) -> Tensor:
        product: Tensor = operator.matvec(vector)
        dist.all_reduce(product)
        product_done()
        return product

    return LambdaOperator(multiply, operator.size, operator.device, operator.dtype)


def _used(landscape: Landscape, batch: Batch) -> set[str]:
    """Names of the parameters that the loss depends on."""
    params = {name: p for name, p in landscape.model.named_parameters() if p.requires_grad}
    loss = landscape.loss({}, batch)
    found = torch.autograd.grad(loss, list(params.values()), allow_unused=True)
    return {name for name, gradient in zip(params, found, strict=True) if gradient is not None}
