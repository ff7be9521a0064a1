"""The state of adaptive noise: how large it is, and what its three bytes do to it."""

import math

import pytest
import torch
from rwp_dist.perturb.float24 import Float24
from support.held import held_bytes
from torch import nn

from rwp_dist.config import load_settings
from rwp_dist.perturb.energy import FilterEnergy
from rwp_dist.perturb.rows import list_filters
from rwp_dist.run.models import build_model

CPU = torch.device("cpu")
ROUNDING = 2.0**-17


def written(values):
    table = Float24(len(values), CPU)
    table.write(values)
    return table


def test_three_bytes_keep_a_value_to_17_bits_over_the_whole_range_of_fp32():
    generator = torch.Generator().manual_seed(0)
    exponents = torch.arange(-126, 128, dtype=torch.float64).repeat_interleave(50)
    values = (torch.rand(len(exponents), generator=generator) + 1.0) * 2.0**exponents
    values = values.float()
    values = values[values.isfinite()]
    kept = written(values).read()
    errors = (kept.double() - values.double()).abs() / values.double()
    assert ROUNDING / 2 < errors.max() <= ROUNDING
    assert written(values).num_bytes == 3 * len(values)


def test_what_was_read_is_written_exactly_zero_and_the_smallest_values_too():
    ends = torch.tensor([0.0, 2.0**-149, 2.0**-126, 1.0, 2.0, 3.0e38, math.inf])
    kept = written(torch.cat([ends, torch.rand(1000)])).read()
    assert torch.equal(kept[[0, 3, 4, 6]], ends[[0, 3, 4, 6]])
    assert torch.equal(written(kept).read(), kept)


def observe(energy, param, gradient):
    energy.observe(1.0)
    (param * gradient).sum().backward()
    energy.observe(None)


@pytest.mark.parametrize("beta", [0.7, 0.99])
def test_rounding_adds_2_to_the_minus_17_of_the_energy_in_an_update_and_decays_with_it(beta):
    """Also where a filter gets no gradients any more, and so must forget."""
    generator = torch.Generator().manual_seed(0)
    param = nn.Parameter(torch.zeros(400))
    energy = FilterEnergy(list_filters([("w", param)]), beta, 1, CPU)
    sizes = 10.0 ** torch.linspace(-6, 6, 400)
    wanted = bound = torch.zeros(400).double()
    for step in range(600):
        gradient = torch.randn(400, generator=generator) * sizes * (step < 300)
        observe(energy, param, gradient)
        energy.update()
        wanted = beta * wanted + gradient.double().square()
        bound = beta * bound + 1.01 * ROUNDING * wanted  # arithmetic in fp32 takes its part, too
        assert ((energy.value.double() - wanted).abs() <= bound + 1e-38).all()


def resnet50():
    settings = ["model.name=resnet50", "model.num_classes=1000", "data.channels=3"]
    with torch.device("meta"):
        return build_model(load_settings(None, settings))


def test_what_stays_of_resnet50_between_updates_is_at_most_0_3_percent_of_its_bytes():
    net = resnet50()
    energy = FilterEnergy(list_filters(net.named_parameters()), 0.99, 1, torch.device("meta"))
    size = sum(4 * p.numel() for p in net.parameters())
    for applied in (True, False):
        observe(energy, next(net.parameters()), 1.0)
        assert held_bytes(energy) > 0.003 * size, "nothing was observed"
        energy.reduce()
        energy.update(applied)
        assert held_bytes(energy) == energy.num_bytes <= 0.003 * size
