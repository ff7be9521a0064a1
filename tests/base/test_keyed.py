import itertools
import math
from collections import Counter

import numpy as np

from rwp_dist.base.keyed import Keyed, key_seed, numpy_generator

# A normal value exceeds this once in 10,000 times.
SIGMAS = 3.9


def test_stream_is_splitmix64():
    """Vectors of the reference implementation for the state 1234567."""
    draw = Keyed(0)
    draw._state = 1234567
    assert [draw.bits() for _ in range(3)] == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
    ]


def test_values_stay_the_same_for_ever():
    """A resumed run must continue the one that an older version began."""
    assert Keyed(1, 2, 3).bits() == 15139382244769264552
    assert Keyed(1, 2, 3, purpose=b"mix").bits() == 6300550049027466092
    assert Keyed(1, 2, 3).beta(0.2, 0.2) == 0.9722795428887783
    assert numpy_generator(7, 1, 2, 3).permutation(8).tolist() == [1, 2, 4, 6, 0, 5, 7, 3]
    assert key_seed(7, 100, -1, 3) == -865171257987667098
    assert key_seed(0, 0, 0, 0) == -6826982551633916475


def test_every_part_of_the_key_counts():
    keys = [*itertools.product(range(12), repeat=3), (-1, 2**80 + 5, 0), (2**63, 0, 0)]
    assert len({Keyed(*key).bits() for key in keys}) == len(keys)
    assert Keyed(1, 2, 3).bits() != Keyed(1, 2, 3, purpose=b"other").bits()


def test_first_draws_of_neighbours_are_uniform_and_uncorrelated():
    values = np.array([Keyed(7, 0, sample).uniform() for sample in range(20_000)])
    cells = np.bincount((values * 64).astype(int), minlength=64)
    chi2 = ((cells - len(values) / 64) ** 2).sum() / (len(values) / 64)
    assert abs(chi2 - 63) < SIGMAS * math.sqrt(2 * 63) * 1.1
    for other in (np.roll(values, 1), [Keyed(7, 1, s).uniform() for s in range(20_000)]):
        assert abs(np.corrcoef(values, other)[0, 1]) < SIGMAS / math.sqrt(len(values))


def test_draws_have_their_distributions():
    draw, count = Keyed(0, 0, 0), 20_000
    dice = Counter(draw.integers(7) for _ in range(count))
    chi2 = sum((dice[face] - count / 7) ** 2 for face in range(7)) / (count / 7)
    assert set(dice) == set(range(7))
    assert chi2 < 27.9  # 6 degrees of freedom, once in 10,000 times
    normal = np.array([draw.normal() for _ in range(count)])
    assert abs(normal.mean()) < SIGMAS / math.sqrt(count)
    assert abs(normal.var() - 1) < SIGMAS * math.sqrt(2 / count)
    assert abs((np.abs(normal) < 1).mean() - 0.6827) < SIGMAS * math.sqrt(0.2166 / count)
    bounded = [draw.uniform(-2.0, 3.0) for _ in range(1000)]
    assert -2 <= min(bounded) < -1.9
    assert 2.9 < max(bounded) < 3
