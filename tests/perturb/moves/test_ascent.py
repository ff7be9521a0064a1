"""The ascent of sam and asam."""

import pytest
import torch
from support.properties import assert_passes, library_of
from support.small import same_bits, small_net
from torch import nn

from rwp_dist.base.errors import ConfigError
from rwp_dist.perturb import Perturbed

both = pytest.mark.parametrize("method", ["sam", "asam"])


@both
def test_a_perturbed_micro_batch_takes_two_passes(method):
    assert_passes(method, 2)


@both
def test_strength_0_takes_one_pass_and_batchnorm_learns_from_it(method):
    assert_passes(method, 1, "method.rho=0")
    library, plain = library_of(method, "method.rho=0"), library_of("sgd")
    for step in range(3):
        library.step(step)
        plain.step(step)
    assert same_bits(library.weights(), plain.weights())
    assert same_bits(library.buffers(), plain.buffers())


@both
def test_batchnorm_learns_from_the_ascent_alone(method):
    """From one clean pass a micro-batch, as sgd does; the weights differ after one step only."""
    library, plain = library_of(method), library_of("sgd")
    library.step(0)
    plain.step(0)
    assert same_bits(library.buffers(), plain.buffers())
    assert not same_bits(library.weights(), plain.weights())


@both
def test_a_gradient_of_zero_has_no_direction_and_weights_stay(method):
    model = nn.ParameterDict({"w": nn.Parameter(torch.tensor([1.0, -2.0]))})
    noisy = Perturbed(model, method, rho=0.5)
    with noisy(0, loss=lambda: (model.w * 0.0).sum()):
        assert model.w.tolist() == [1.0, -2.0]
    noisy.close()


def test_weights_go_up_the_gradient_by_rho():
    model = nn.ParameterDict({"w": nn.Parameter(torch.tensor([1.0, -2.0]))})
    factors = torch.tensor([3.0, 4.0])
    for method, wanted in (
        ("sam", [1.0 + 0.5 * 0.6, -2.0 + 0.5 * 0.8]),
        # |w| g = [3, 8], of norm sqrt(73); w^2 g = [3, 16]
        ("asam", [1.0 + 0.5 * 3 / 73**0.5, -2.0 + 0.5 * 16 / 73**0.5]),
    ):
        noisy = Perturbed(model, method, rho=0.5)
        with noisy(0, loss=lambda: (model.w * factors).sum()):
            assert model.w.tolist() == pytest.approx(wanted)
        assert model.w.tolist() == [1.0, -2.0]
        noisy.close()


def test_a_parameter_that_the_loss_does_not_use_stays():
    net = nn.ParameterDict({"a": nn.Parameter(torch.ones(2)), "b": nn.Parameter(torch.ones(2))})
    noisy = Perturbed(net, "sam", rho=0.5)
    with noisy(0, loss=lambda: net.a.sum()):
        assert (net.a != 1.0).all() and (net.b == 1.0).all()
    noisy.close()


@both
def test_without_a_loss_it_is_refused_with_the_form_that_has_one(method):
    net = small_net()
    noisy = Perturbed(net, method)
    with pytest.raises(ConfigError) as caught, noisy(0):
        pass
    assert caught.value.key == "loss" and "loss=lambda" in caught.value.cure
    noisy.close()
