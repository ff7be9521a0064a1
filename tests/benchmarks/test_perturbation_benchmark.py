"""The benchmark of ways to perturb times what it says."""

import sys
from pathlib import Path

import pytest
import torch
from support.small import small_net

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import perturbation


@pytest.fixture
def model():
    return small_net()


def weights(model):
    return [p.detach().clone() for p in model.parameters()]


def test_every_way_moves_weights_and_those_that_restore_do(model, monkeypatch):
    clean = weights(model)
    for name, (way, before) in perturbation.ways(model).items():
        for _ in range(3):
            before()
            way()
            kept = "ZeRO" in name  # the optimizer's step would bring them back
            same = all(
                torch.allclose(a, b, atol=1e-6) for a, b in zip(weights(model), clean, strict=True)
            )
            assert same != kept, name
            with torch.no_grad():
                torch._foreach_copy_(list(model.parameters()), clean)
