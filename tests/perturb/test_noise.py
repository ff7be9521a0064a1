"""Property 2: noise is a pure function of its key, normal, independent, and nobody else's.

With every generator that runs here. The seeds are fixed, so these tests always give the same
answer. With a random seed a right generator would fail each statistical assertion with
probability 1e-6.
"""

import itertools
import math
import random

import numpy as np
import pytest
import torch
from rwp_dist.perturb.perturbation import Perturbation
from scipy import stats
from support.ranks import run_ranks
from support.small import run_steps, small_net, small_parts, small_settings, split_over
from torch import nn

from rwp_dist.perturb.methods import METHODS
from rwp_dist.perturb.normals.generator import key_seed
from rwp_dist.perturb.rows import list_filters
from rwp_dist.perturb.slots import Slot
from rwp_dist.perturb.weights import PerturbedCopy

P_VALUE = 1e-6
CPU = torch.device("cpu")


def draw(generator, step=0, slot=0, index=0, seed=7, size=50_000):
    noise = generator(seed)
    return noise.fill(torch.empty(size, device=noise.device), step, slot, index).cpu()


def test_a_key_gives_the_same_bits_in_any_order_of_calls(generator):
    keys = [(step, slot, index) for step in (0, 5) for slot in (0, 1) for index in (0, 3)]
    noise = generator(7)
    out = torch.empty(6, 4, device=noise.device)
    forth = {key: noise.fill(out.clone(), *key) for key in keys}
    back = {key: noise.fill(out.clone(), *key) for key in reversed(keys)}
    for key in keys:
        assert torch.equal(forth[key], back[key])
        assert torch.equal(forth[key], generator(7).fill(out.clone(), *key))


def test_values_are_standard_normal(generator):
    """Kolmogorov-Smirnov, the exact law of the sum of squares, and the first four moments."""
    for step in range(4):
        values = draw(generator, step, size=200_000).double().numpy()
        n = len(values)
        assert stats.kstest(values, "norm").pvalue > P_VALUE
        chi2 = float((values**2).sum())
        assert 2 * min(stats.chi2.sf(chi2, n), stats.chi2.cdf(chi2, n)) > P_VALUE
        # Mean and variance of x^k for a normal x.
        for power, mean, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
            score = ((values**power).mean() - mean) * math.sqrt(n / variance)
            assert 2 * stats.norm.sf(abs(score)) > P_VALUE, (step, power)


def test_seeds_steps_slots_and_layers_are_independent(generator):
    """Neighbouring keys, permuted keys, and seeds that differ in their high bits only."""
    keys = list(itertools.product((7, 8, 7 + 2**32, 7 + 2**62), (0, 1, 2), (0, 1, 2), (0, 1, 2)))
    size = 2_000
    rows = torch.stack(
        [draw(generator, t, slot, i, seed, size) for seed, t, slot, i in keys]
    ).double()
    correlations = (rows @ rows.T / size)[tuple(torch.triu_indices(len(keys), len(keys), 1))]
    pairs = len(correlations)
    largest = float(correlations.abs().max()) * math.sqrt(size)
    assert 2 * stats.norm.sf(largest) * pairs > P_VALUE  # Bonferroni
    assert len(rows.flatten().unique()) > 0.99 * rows.numel(), "streams share values"
    squares = float((correlations**2).sum() * size)
    assert stats.chi2.sf(squares, pairs) > P_VALUE


def test_filters_of_a_layer_are_independent(generator):
    filters = 64
    rows = draw(generator, size=filters * 2_000).view(filters, -1).double()
    correlations = (rows @ rows.T / 2_000)[tuple(torch.triu_indices(filters, filters, 1))]
    assert stats.chi2.sf(float((correlations**2).sum() * 2_000), len(correlations)) > P_VALUE


def test_neighbouring_elements_are_independent(generator):
    values = draw(generator, size=100_000).double()
    for lag in (1, 2, 8, 16, 128, 512, 624):
        correlation = float((values[:-lag] * values[lag:]).mean())
        assert 2 * stats.norm.sf(abs(correlation) * math.sqrt(len(values) - lag)) > P_VALUE


def perturbation_of(model, method="m-rwp", **options):
    return Perturbation(
        model,
        list_filters(model.named_parameters()),
        METHODS[method],
        PerturbedCopy(),
        device=CPU,
        seed=7,
        num_perturbed_slots=1,
        **options,
    )


def around(perturbation, step=0, sigma=0.1):
    slot = Slot(index=1, perturbed=True, share=0.5, draw=1)
    return perturbation.around(slot, step, sigma, loss=lambda: None, grad_scale=0.0, last=True)


@pytest.mark.parametrize(("scale", "share"), [("filter", 1.0), ("rms", 1.0 / math.sqrt(900))])
def test_the_noise_of_a_filter_has_sigma_times_its_norm_as_standard_deviation(scale, share):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(100, 4, 3), nn.Linear(900, 3), nn.BatchNorm1d(900))
    with torch.no_grad():
        model[0].weight *= torch.tensor([0.1, 1.0, 5.0, 20.0]).view(4, 1, 1, 1)
    perturbation = perturbation_of(model, scale=scale)
    big = {"0.weight", "1.weight", "2.weight"}
    clean = {n: p.detach().clone() for n, p in model.named_parameters() if n in big}
    for step in range(3):
        with around(perturbation, step):
            noisy = {n: p.detach().clone() for n, p in model.named_parameters() if n in big}
        for name, before in clean.items():
            rows = before.flatten(1) if before.ndim > 1 else before[None]
            noise = noisy[name].view_as(rows).double() - rows.double()
            std = 0.1 * share * rows.double().norm(dim=1, keepdim=True)
            chi2 = (noise / std).square().sum(1)
            for value in chi2.tolist():
                assert stats.chi2.sf(value, 900) > P_VALUE
                assert stats.chi2.cdf(value, 900) > P_VALUE


@pytest.mark.parametrize("ahead", [False, True])
@pytest.mark.parametrize("scale", ["filter", "element"])
def test_a_parameter_without_dimensions_is_perturbed_and_keeps_its_shape(scale, ahead):
    model = nn.ParameterDict({"factor": nn.Parameter(torch.tensor(3.0))})
    slot = Slot(index=1, perturbed=True, share=0.5, draw=1)
    perturbation = perturbation_of(model, scale=scale, ahead=[slot] if ahead else ())
    with around(perturbation):
        assert model.factor.shape == ()
        assert model.factor != 3.0
        (model.factor * 2.0).backward()
    assert model.factor.grad.shape == () and model.factor == 3.0
    perturbation.close()


def test_an_error_of_what_ends_a_pass_leaves_clean_weights_too(monkeypatch):
    model = small_net()
    perturbation = perturbation_of(model, "m-arwp")
    clean = [p.detach().clone() for p in model.parameters()]

    def observe(scale):
        if scale is None:
            raise RuntimeError("out of memory")

    monkeypatch.setattr(perturbation.energy, "observe", observe)
    with pytest.raises(RuntimeError, match="out of memory"), around(perturbation):
        assert not torch.equal(next(model.parameters()), clean[0])
    assert all(torch.equal(p, c) for p, c in zip(model.parameters(), clean, strict=True))


def test_a_perturbed_pass_leaves_the_global_generators_alone():
    model = small_net()
    perturbation = perturbation_of(model, "m-arwp")
    for step in range(2):
        before = global_state()
        with around(perturbation, step):
            assert global_state() == before
        assert global_state() == before


def global_state():
    numpy_state = np.random.get_state()
    return (
        torch.get_rng_state().numpy().tobytes(),
        random.getstate(),
        (numpy_state[1].tobytes(), *numpy_state[2:]),
    )


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
