"""The gradient energy of adaptive noise: its formula, and how large its state is."""

import math

import pytest
import torch
from torch import nn

from rwp_dist.config import load_settings
from rwp_dist.perturb.energy import GradientEnergy
from rwp_dist.perturb.rows import list_rows
from rwp_dist.run.models import build_shapes

CPU = torch.device("cpu")


def energy_of(beta=0.9, num_slots=1, **params):
    named = nn.ParameterDict({name: nn.Parameter(value) for name, value in params.items()})
    return GradientEnergy(list_rows(named.named_parameters()), beta, num_slots, CPU), named


def observe(energy, param, gradient, scale=1.0):
    energy.observe(scale)
    (param * gradient).sum().backward()
    energy.observe(None)


@pytest.mark.parametrize("beta", [0.7, 0.99])
def test_it_is_the_decayed_sum_of_squares_and_forgets_where_no_gradient_comes_any_more(beta):
    generator = torch.Generator().manual_seed(0)
    energy, named = energy_of(beta, w=torch.zeros(400))
    sizes = 10.0 ** torch.linspace(-6, 6, 400)
    wanted = torch.zeros(400).double()
    for step in range(600):
        gradient = torch.randn(400, generator=generator) * sizes * (step < 300)
        observe(energy, named.w, gradient)
        energy.update(applied=True)
        wanted = beta * wanted + gradient.double().square()
        torch.testing.assert_close(energy.value.double(), wanted, rtol=1e-4, atol=1e-38)


def test_a_matrix_has_one_value_for_each_row_and_a_vector_one_for_each_element():
    energy, named = energy_of(w=torch.zeros(2, 3, 1), b=torch.zeros(3), num_slots=4)
    gradient = torch.arange(6.0).view(2, 3, 1)
    observe(energy, named.w, gradient, scale=2.0)
    observe(energy, named.b, torch.tensor([1.0, -2.0, 3.0]))
    energy.update(applied=True)
    state = energy.state_dict()
    # 2^2 (0 + 1 + 4) / 4 and 2^2 (9 + 16 + 25) / 4
    assert state["w"].tolist() == pytest.approx([5.0, 50.0])
    assert state["b"].tolist() == pytest.approx([0.25, 1.0, 2.25])


def test_gradients_outside_of_perturbed_passes_and_of_skipped_steps_do_not_count():
    energy, named = energy_of(w=torch.zeros(2))
    (named.w * 3.0).sum().backward()
    energy.update(applied=True)
    assert energy.value.tolist() == [0.0, 0.0]
    observe(energy, named.w, torch.ones(2))
    energy.update(applied=True)
    before = energy.value.clone()
    observe(energy, named.w, torch.ones(2))
    energy.update(applied=False)
    assert torch.equal(energy.value, before)
    observe(energy, named.w, torch.ones(2))
    energy.update(applied=torch.tensor(False))
    assert torch.equal(energy.value, before)
    observe(energy, named.w, torch.zeros(2))
    energy.update(applied=torch.tensor(True))
    assert torch.equal(energy.value, 0.9 * before)


def test_a_row_whose_gradient_is_not_finite_keeps_its_decayed_past():
    energy, named = energy_of(0.5, w=torch.zeros(3, 2))
    observe(energy, named.w, torch.ones(3, 2))
    energy.update(applied=True)
    observe(energy, named.w, torch.tensor([[1.0, math.inf], [math.nan, 1.0], [1.0, 1.0]]))
    energy.update(applied=True)
    assert energy.value.tolist() == pytest.approx([1.0, 1.0, 3.0])


def test_its_state_goes_by_names_and_what_is_missing_stays():
    energy, _ = energy_of(a=torch.zeros(2, 5), b=torch.zeros(3))
    energy.load_state_dict({"b": torch.tensor([1.0, 2.0, 3.0]), "other": torch.ones(9)})
    assert energy.value.tolist() == [0.0, 0.0, 1.0, 2.0, 3.0]
    assert {name: value.tolist() for name, value in energy.state_dict().items()} == {
        "a": [0.0, 0.0],
        "b": [1.0, 2.0, 3.0],
    }


def test_noise_is_divided_by_the_root_of_1_plus_eta_times_it():
    energy, _ = energy_of(w=torch.zeros(3))
    assert energy.adaptation(eta=0.5) == 1.0
    energy.load_state_dict({"w": torch.tensor([0.0, 6.0, 16.0])})
    assert energy.divisor(0.5, 0.5).tolist() == [1.0, 2.0, 3.0]
    assert float(energy.adaptation(0.5)) == 2.0
    torch.testing.assert_close(energy.divisor(0.5, 0.25).square(), torch.tensor([1.0, 2.0, 3.0]))


def test_closing_it_releases_the_parameters():
    energy, named = energy_of(w=torch.zeros(2))
    energy.close()
    observe(energy, named.w, torch.ones(2))
    energy.update(applied=True)
    assert energy.value.tolist() == [0.0, 0.0]


def test_the_state_of_resnet50_is_one_float_for_each_row():
    settings = ["model.name=resnet50", "model.num_classes=1000", "data.channels=3"]
    net = build_shapes(load_settings(None, settings))
    energy = GradientEnergy(list_rows(net.named_parameters()), 0.99, 1, torch.device("meta"))
    size = sum(4 * p.numel() for p in net.parameters())
    assert 0.003 * size < energy.value.nbytes < 0.0033 * size
    assert energy._observed.shape == energy.value.shape
