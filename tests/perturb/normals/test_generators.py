"""Property 2: noise is a pure function of its key, normal and independent.

With every generator that runs here. The seeds are fixed, so these tests always give the same
answer. With a random seed a right generator would fail each statistical assertion with
probability 1e-6.
"""

import itertools
import math

import torch
from scipy import stats

P_VALUE = 1e-6


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


def test_rows_of_a_layer_are_independent(generator):
    count = 64
    rows = draw(generator, size=count * 2_000).view(count, -1).double()
    correlations = (rows @ rows.T / 2_000)[tuple(torch.triu_indices(count, count, 1))]
    assert stats.chi2.sf(float((correlations**2).sum() * 2_000), len(correlations)) > P_VALUE


def test_neighbouring_elements_are_independent(generator):
    values = draw(generator, size=100_000).double()
    for lag in (1, 2, 8, 16, 128, 512, 624):
        correlation = float((values[:-lag] * values[lag:]).mean())
        assert 2 * stats.norm.sf(abs(correlation) * math.sqrt(len(values) - lag)) > P_VALUE
