"""The noise of rwp, arwp, m-rwp and m-arwp."""

import math
import random

import numpy as np
import pytest
import torch
from scipy import stats
from support.properties import (
    P_VALUE,
    assert_one_pass,
    assert_unbiased,
    global_state,
    library_of,
)
from support.ranks import run_ranks
from support.small import run_steps, same_bits, small_net, small_parts, small_settings, split_over
from torch import nn

from rwp_dist.base.keyed import key_seed
from rwp_dist.perturb import METHODS, Perturbed

NOISY = [name for name, method in METHODS.items() if method.draws_noise]


@pytest.mark.parametrize("method", NOISY)
def test_a_perturbed_micro_batch_takes_one_pass(method):
    assert_one_pass(method)


@pytest.mark.parametrize("method", NOISY)
def test_noise_is_unbiased(method):
    assert_unbiased(method)


@pytest.mark.parametrize(("scale", "share"), [("filter", 1.0), ("rms", 1.0 / math.sqrt(900))])
def test_the_noise_of_a_row_has_sigma_times_its_norm_as_standard_deviation(scale, share):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(100, 4, 3), nn.Linear(900, 3), nn.BatchNorm1d(900))
    with torch.no_grad():
        model[0].weight *= torch.tensor([0.1, 1.0, 5.0, 20.0]).view(4, 1, 1, 1)
    noisy = Perturbed(model, "rwp", sigma=0.1, scale=scale, exclude=(), seed=7)
    clean = {
        n: model.get_parameter(n).detach().clone() for n in ("0.weight", "1.weight", "2.weight")
    }
    for step in range(3):
        with noisy(step):
            found = {name: model.get_parameter(name).detach().clone() for name in clean}
        noisy.end_step()
        for name, before in clean.items():
            rows = before.flatten(1) if before.ndim > 1 else before[None]
            noise = found[name].view_as(rows).double() - rows.double()
            std = 0.1 * share * rows.double().norm(dim=1, keepdim=True)
            for chi2 in (noise / std).square().sum(1).tolist():
                assert stats.chi2.sf(chi2, 900) > P_VALUE
                assert stats.chi2.cdf(chi2, 900) > P_VALUE
    noisy.close()


def test_antithetic_passes_get_noise_and_its_negative():
    library = library_of("rwp", "method.antithetic=true")
    clean, noise = library.weights(), []
    for _ in library.passes(3):
        noise.append({n: w.double() - clean[n].double() for n, w in library.weights().items()})
    for name, first in noise[0].items():
        torch.testing.assert_close(noise[1][name], -first, rtol=1e-4, atol=1e-7)
    library.close()


@pytest.mark.parametrize("draw_ahead", [False, True])
@pytest.mark.parametrize("scale", ["filter", "element"])
def test_a_parameter_without_dimensions_is_perturbed_and_keeps_its_shape(scale, draw_ahead):
    model = nn.ParameterDict({"factor": nn.Parameter(torch.tensor(3.0))})
    options = {"scale": scale, "exclude": (), "draw_ahead": draw_ahead}
    noisy = Perturbed(model, "rwp", sigma=0.1, **options)
    with noisy(0):
        assert model.factor.shape == ()
        assert model.factor != 3.0
        (model.factor * 2.0).backward()
    assert model.factor.grad.shape == () and model.factor == 3.0
    noisy.close()


def test_an_error_of_what_ends_a_pass_leaves_clean_weights_too(monkeypatch):
    library = library_of("m-arwp")
    clean, observe = library.weights(), library.noisy.move.observe

    def failing(scale):
        observe(scale)
        if scale is None:
            raise RuntimeError("out of memory")

    monkeypatch.setattr(library.noisy.move, "observe", failing)
    with library.noisy(0, 0):
        pass
    with pytest.raises(RuntimeError, match="out of memory"), library.noisy(0, 1):
        assert not same_bits(library.weights(), clean)
    assert same_bits(library.weights(), clean)
    library.close()


def states_over_train_steps():
    """The global generators after each step, and what they should be: a function of the step."""
    results = []
    with small_parts(small_settings("method.name=m-arwp", split_over(1, 4))) as parts:
        random.seed(1)
        np.random.seed(1)
        begin = global_state()
        for step in run_steps(parts, 0, 3):
            got = global_state()
            torch.manual_seed(key_seed(parts.settings.run.seed, step, -1, 0))
            results.append((got, (torch.get_rng_state().numpy().tobytes(), *begin[1:])))
    return results


def test_a_whole_train_step_draws_nothing_from_the_global_generators():
    for got, wanted in run_ranks(states_over_train_steps, 1)[0]:
        assert got == wanted


def test_another_seed_gets_other_noise_and_the_same_seed_the_same():
    found = {}
    for seed in (7, 7, 8):
        net = small_net()
        noisy = Perturbed(net, "rwp", sigma=0.1, seed=seed)
        with noisy(2):
            weights = {n: p.detach().clone() for n, p in net.named_parameters()}
        noisy.close()
        same = found.setdefault(seed, weights)
        assert same_bits(same, weights)
    assert not same_bits(found[7], found[8])
