"""The reference of the kernels' noise: published vectors, its mapping, and normal values by key."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import stats

from rwp_dist.perturb.normals.philox import PhiloxNormals, noise_key, philox, row_normals, to_normal

P_VALUE = 1e-6
"""Seeds are fixed, so results are; a right generator fails with this probability for another."""

# Random123, kat_vectors: philox4x32, 10 rounds. Counter, key, words.
KNOWN_ANSWERS = (
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    (
        (0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF),
        (0xFFFFFFFF, 0xFFFFFFFF),
        (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD),
    ),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
)


@pytest.mark.parametrize(("counter", "key", "words"), KNOWN_ANSWERS)
def test_words_are_those_that_its_authors_publish(counter, key, words):
    assert philox([counter], key).tolist() == [list(words)]


def test_a_value_is_what_the_documented_key_and_counter_say():
    key = noise_key(7, 3, 1)
    values = row_normals(key, parameter=5, rows=4, length=1300)
    for row, j in ((0, 0), (3, 127), (1, 128), (2, 511), (0, 512), (3, 1299)):
        counter = (128 * (j // 512) + j % 128, row, 5, 0)
        words = philox([counter], (key % 2**32, key // 2**32))
        assert values[row, j] == to_normal(words)[0, j // 128 % 4]


def test_words_map_to_normal_values_over_the_whole_range():
    """Extreme words: the radius is finite, at most 6.8, and zero only at its end."""
    ends = np.array([0, 1, 2**30 - 1, 2**30, 2**31 - 1, 2**31, 2**32 - 1], np.uint32)
    words = np.array(list(itertools.product(ends, ends, ends, ends)), np.uint32)
    values = to_normal(words)
    assert np.isfinite(values).all()
    assert 6.7 < np.abs(values).max() < 6.8
    radius = np.hypot(values[:, 0], values[:, 1])
    np.testing.assert_allclose(
        radius, np.sqrt(-2 * np.log((words[:, 0] + 0.5) / 2.0**32)), rtol=1e-5, atol=4e-4
    )


def test_a_tensor_of_one_dimension_is_one_row_and_replays_bit_for_bit():
    noise = PhiloxNormals(7)
    bias = noise.fill(torch.empty(300), 2, 1, 4)
    row = noise.fill(torch.empty(1, 300), 2, 1, 4)
    conv = noise.fill(torch.empty(3, 10, 5, 6), 2, 1, 4)
    assert torch.equal(bias, row[0])
    assert torch.equal(conv[0].flatten(), bias)
    assert torch.equal(conv, PhiloxNormals(7).fill(torch.empty(3, 10, 5, 6), 2, 1, 4))


def draw(step=0, slot=0, index=0, seed=7, shape=(100, 2_000)):
    return PhiloxNormals(seed).fill(torch.empty(shape), step, slot, index).double()


def test_values_are_standard_normal():
    for step in range(3):
        values = draw(step).numpy().ravel()
        n = len(values)
        assert stats.kstest(values, "norm").pvalue > P_VALUE
        for power, mean, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
            score = ((values**power).mean() - mean) * math.sqrt(n / variance)
            assert 2 * stats.norm.sf(abs(score)) > P_VALUE, (step, power)


def test_rows_steps_slots_seeds_and_parameters_are_independent():
    keys = list(itertools.product((7, 8, 7 + 2**32), (0, 1, 2), (0, 1), (0, 1)))
    size = 1_500
    rows = torch.cat([draw(t, s, i, seed, (2, size)) for seed, t, s, i in keys])
    correlations = (rows @ rows.T / size)[tuple(torch.triu_indices(len(rows), len(rows), 1))]
    pairs = len(correlations)
    largest = float(correlations.abs().max()) * math.sqrt(size)
    assert 2 * stats.norm.sf(largest) * pairs > P_VALUE  # Bonferroni
    assert stats.chi2.sf(float((correlations**2).sum() * size), pairs) > P_VALUE
    assert len(rows.flatten().unique()) > 0.99 * rows.numel(), "streams share values"


def test_elements_of_a_row_are_independent_also_where_they_share_a_counter():
    values = draw(shape=(50, 2_048))
    for lag in (1, 2, 64, 127, 128, 256, 384, 512):
        products = values[:, :-lag] * values[:, lag:]
        score = float(products.mean()) * math.sqrt(products.numel())
        assert 2 * stats.norm.sf(abs(score)) > P_VALUE, lag
        squares = (values[:, :-lag] ** 2 - 1) * (values[:, lag:] ** 2 - 1) / 2
        score = float(squares.mean()) * math.sqrt(squares.numel())
        assert 2 * stats.norm.sf(abs(score)) > P_VALUE, lag
