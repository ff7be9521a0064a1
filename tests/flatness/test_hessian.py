"""The Hessian's numbers are those of the dense Hessian, for any number of ranks."""

import sys
from functools import cache
from typing import Any

import pytest
import torch
from support.landscapes import small_landscape
from support.ranks import run_ranks
from support.small import same_bits
from torch import nn

from rwp_dist.base.errors import ConfigError
from rwp_dist.flatness import hessian as module
from rwp_dist.flatness.hessian import MEASURES, check_library, hessian, top_eigenvalue
from rwp_dist.flatness.landscape import exact_arithmetic


@cache
def dense_hessian() -> torch.Tensor:
    """Of the mean loss over the sample, ``[n, n]`` in float64, a row at a time."""
    landscape = small_landscape()
    weights = list(landscape.model.parameters())
    total = sum(landscape.loss({}, batch) for batch in landscape.sample.batches)
    slopes = torch.autograd.grad(total / landscape.sample.num_images, weights, create_graph=True)
    flat = torch.cat([slope.flatten() for slope in slopes])
    rows = [torch.autograd.grad(value, weights, retain_graph=True) for value in flat]
    return torch.stack([torch.cat([part.flatten() for part in row]) for row in rows]).double()


def measure() -> dict[str, Any]:
    with exact_arithmetic():
        operator = hessian(small_landscape())
        found = {name: compute(operator) for name, (compute, _) in MEASURES.items()}
        return found | {"size": operator.size}


@pytest.mark.parametrize("world_size", [1, 2])
def test_eigenvalue_and_trace_are_those_of_the_dense_hessian(world_size: int) -> None:
    dense = dense_hessian()
    eigenvalues = torch.linalg.eigvalsh(dense)
    top = float(eigenvalues[-1])
    first, *others = run_ranks(measure, world_size)
    assert all(other == first for other in others)
    assert first["size"] == len(dense)
    assert first["top_eigenvalue"]["converged"]
    assert first["top_eigenvalue"]["value"] == pytest.approx(top, rel=0.01)
    assert first["trace"]["value"] == pytest.approx(float(dense.trace()), rel=0.03)
    places = torch.tensor(first["density"]["eigenvalues"])
    weights = torch.tensor(first["density"]["weights"]) / len(places)
    assert float(places.max()) == pytest.approx(top, rel=0.01)
    for share in (-0.01, 0.01, 0.1):  # of the largest eigenvalue
        exact = (eigenvalues > share * top).double().mean()
        assert float(weights[places > share * top].sum()) == pytest.approx(float(exact), abs=0.05)


def test_a_product_is_the_dense_one_and_leaves_the_network_alone() -> None:
    vector = torch.randn(len(dense_hessian()), generator=torch.Generator().manual_seed(0))
    [product] = run_ranks(product_with, 1, vector)
    expected = dense_hessian() @ vector.double()
    assert float((product - expected).norm() / expected.norm()) < 1e-5


def product_with(vector: torch.Tensor) -> torch.Tensor:
    landscape = small_landscape()
    before = {name: value.clone() for name, value in landscape.model.state_dict().items()}
    product: torch.Tensor = hessian(landscape).matvec(vector)
    assert same_bits(before, landscape.model.state_dict())
    return product


class WithUnused(nn.Module):
    """A network with parameters that its output does not depend on."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.unused, self.inner = nn.Linear(3, 3), inner

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.inner(images)


def test_parameters_that_the_loss_does_not_depend_on_are_left_out() -> None:
    sizes = run_ranks(size_with_unused, 1)
    assert sizes == [len(dense_hessian())]


def size_with_unused() -> int:
    inner = small_landscape().model
    operator = hessian(small_landscape(WithUnused(inner)))
    operator.matvec(torch.ones(operator.size))
    return operator.size


def test_an_eigenvalue_that_has_not_converged_is_no_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LANCZOS_STEPS", (2, 3))
    found = top_eigenvalue(diagonal_operator(torch.linspace(0, 1, 200)))
    assert not found["converged"]
    assert found["products"] == 3


def test_more_products_are_tried_until_it_has_converged() -> None:
    found = top_eigenvalue(diagonal_operator(torch.linspace(-1, 1, 5000)))
    assert found["converged"]
    assert found["products"] > 20
    assert found["value"] == pytest.approx(1.0, rel=0.01)


def test_a_negative_eigenvalue_is_not_the_largest_whatever_its_magnitude() -> None:
    found = top_eigenvalue(diagonal_operator(torch.linspace(-2, 1, 200)))
    assert found["value"] == pytest.approx(1.0, rel=0.01)


def diagonal_operator(values: torch.Tensor) -> object:
    from hessian_eigenthings import LambdaOperator

    return LambdaOperator(lambda vector: values * vector, len(values))


def test_a_missing_library_is_said_with_its_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "hessian_eigenthings", None)
    with pytest.raises(ConfigError, match=r"not installed; pip install 'rwp-dist\[flatness\]'"):
        check_library()
