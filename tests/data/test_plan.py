import numpy as np
import pytest

from rwp_dist.data.plan import Plan, evaluation_rows


def epoch_of(plan, epoch=0):
    """All rows and weights of an epoch: ``[steps, slots, size]`` each."""
    steps = [plan.step(epoch, index) for index in range(plan.steps_per_epoch)]
    return np.stack([rows for rows, _ in steps]), np.stack([weights for _, weights in steps])


@pytest.mark.parametrize("num_samples", [1, 5, 24, 25, 97])
@pytest.mark.parametrize("slots", [1, 2, 3, 4, 12])
def test_every_sample_has_weight_one_exactly_once_an_epoch(num_samples, slots):
    plan = Plan(num_samples, 24, slots, seed=3)
    rows, weights = epoch_of(plan)
    assert rows.shape == weights.shape == (-(-num_samples // 24), slots, 24 // slots)
    assert rows.dtype == np.int64 and weights.dtype == np.float32
    assert sorted(rows[weights == 1]) == list(range(num_samples))
    assert set(np.unique(weights)) <= {0.0, 1.0}


@pytest.mark.parametrize("num_samples", [1, 5, 25, 47, 97])
def test_padding_is_good_rows_dealt_out_evenly(num_samples):
    rows, weights = epoch_of(Plan(num_samples, 24, 4, seed=0))
    assert rows.min() >= 0 and rows.max() < num_samples
    valid = weights.sum(axis=2)
    assert np.all(valid.max(axis=1) - valid.min(axis=1) <= 1)


def test_padding_comes_from_the_start_of_the_epoch():
    rows, weights = epoch_of(Plan(30, 24, 1, seed=0))
    assert list(rows[1][weights[1] == 0]) == list(rows[0, 0, :18])


def test_a_global_batch_is_the_same_set_for_any_number_of_slots():
    one = Plan(97, 24, 1, seed=7)
    for slots in (2, 3, 4, 6, 8, 12, 24):
        other = Plan(97, 24, slots, seed=7)
        for index in range(one.steps_per_epoch):
            expected, weights = one.step(2, index)
            rows, dealt = other.step(2, index)
            assert sorted(rows[dealt == 1]) == sorted(expected[weights == 1])
            assert sorted(rows.flat) == sorted(expected.flat)


def test_a_step_depends_on_seed_epoch_and_index_alone():
    expected = Plan(1000, 50, 2, seed=1).step(3, 4)[0]
    plan = Plan(1000, 50, 2, seed=1)
    plan.step(9, 0)
    assert np.array_equal(plan.step(3, 4)[0], expected)
    for other in (plan.step(3, 5), plan.step(2, 4), Plan(1000, 50, 2, seed=2).step(3, 4)):
        assert not np.array_equal(np.sort(other[0].flat), np.sort(expected.flat))


def test_a_long_seed_is_not_taken_for_another_epoch():
    seed = 5
    long = Plan(1000, 1000, 1, seed=seed + (3 << 32)).step(0, 0)[0]
    assert not np.array_equal(long, Plan(1000, 1000, 1, seed=seed).step(3, 0)[0])


def test_the_order_of_an_epoch_never_changes_between_versions():
    # A resumed run relies on it: a change here breaks every checkpoint in the middle of an epoch.
    assert list(Plan(10, 10, 1, seed=0).step(0, 0)[0][0]) == [6, 5, 1, 7, 3, 0, 4, 8, 2, 9]


def test_writing_into_a_step_does_not_change_the_plan():
    plan = Plan(10, 5, 1, seed=0)
    rows, _ = plan.step(0, 0)
    kept = rows.copy()
    rows[:] = 0
    assert np.array_equal(plan.step(0, 0)[0], kept)


def test_impossible_plans_and_steps_are_refused():
    with pytest.raises(ValueError, match="10 samples cannot be shared equally by 3 slots"):
        Plan(100, 10, 3, seed=0)
    with pytest.raises(ValueError, match="at least one sample"):
        Plan(0, 10, 2, seed=0)
    for index in (-1, 10):
        with pytest.raises(IndexError, match="10 steps"):
            Plan(100, 10, 2, seed=0).step(0, index)


@pytest.mark.parametrize("num_samples", [1, 7, 32, 33, 100])
@pytest.mark.parametrize("world_size", [1, 2, 3, 8])
def test_evaluation_counts_every_sample_once_in_equally_many_batches(num_samples, world_size):
    ranks = [list(evaluation_rows(num_samples, 8, rank, world_size)) for rank in range(world_size)]
    assert {len(batches) for batches in ranks} == {-(-num_samples // (8 * world_size))}
    rows = np.concatenate([rows for batches in ranks for rows, _ in batches])
    weights = np.concatenate([weights for batches in ranks for _, weights in batches])
    assert sorted(rows[weights == 1]) == list(range(num_samples))
    assert all(
        rows.shape == weights.shape == (8,) for batches in ranks for rows, weights in batches
    )
    assert rows.min() >= 0 and rows.max() < num_samples
