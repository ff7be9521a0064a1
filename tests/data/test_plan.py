"""The plan: exact, elastic, a pure function, and fast."""

import time

import numpy as np
import pytest

from rwp_dist.base.errors import ConfigError
from rwp_dist.data.plan import Plan, evaluation_rows
from rwp_dist.data.selection import Balanced, Everything, Mixture

COUNTS = np.array([37, 11, 52, 8, 29, 41, 30, 19])


def plan(*, batch=24, lanes=4, window=16, seed=3, pad=False, selection=None, copies=1):
    return Plan(selection or Everything(COUNTS), batch, lanes, window, seed, pad, copies)


def samples_of(rows):
    return (COUNTS.cumsum() - COUNTS)[rows.shards] + rows.rows


def epoch_of(p, epoch=0):
    steps = [p.step(epoch, index) for index in range(p.steps_per_epoch)]
    return np.concatenate([samples_of(s) for s in steps]), np.concatenate(
        [s.weights for s in steps]
    )


@pytest.mark.parametrize("window", [1, 5, 16, 1000])
@pytest.mark.parametrize("lanes", [1, 2, 4, 8, 24])
def test_training_takes_every_sample_at_most_once_and_drops_fewer_than_batch_plus_lanes(
    lanes, window
):
    p = plan(lanes=lanes, window=window)
    samples, weights = epoch_of(p)
    assert len(samples) == p.steps_per_epoch * 24
    assert len(set(samples.tolist())) == len(samples)
    assert COUNTS.sum() - len(samples) < 24 + lanes
    assert weights.min() == 1


def test_epochs_drop_different_samples():
    dropped = [set(range(COUNTS.sum())) - set(epoch_of(plan(), e)[0].tolist()) for e in range(4)]
    assert all(dropped)
    assert len({frozenset(d) for d in dropped}) == 4


@pytest.mark.parametrize("lanes", [1, 4, 8])
def test_padding_shows_every_sample_exactly_once(lanes):
    samples, weights = epoch_of(plan(lanes=lanes, pad=True), 2)
    assert sorted(samples[weights == 1]) == list(range(COUNTS.sum()))
    assert set(np.unique(weights)) == {0.0, 1.0}


@pytest.mark.parametrize("ranks", [1, 2, 3, 4, 6, 8])
def test_ranks_only_choose_rows_of_the_same_global_batch(ranks):
    p = plan()
    whole = p.step(1, 2)
    share = 24 // ranks
    parts = [p.step(1, 2, r * share, (r + 1) * share) for r in range(ranks)]
    for name in ("shards", "rows", "weights"):
        joined = np.concatenate([getattr(part, name) for part in parts])
        assert np.array_equal(joined, getattr(whole, name))


def test_a_step_depends_on_seed_epoch_and_index_alone():
    expected = samples_of(plan().step(3, 4))
    other = plan()
    other.step(9, 0)
    assert np.array_equal(samples_of(other.step(3, 4)), expected)
    for rows in (other.step(3, 5), other.step(2, 4), plan(seed=4).step(3, 4)):
        assert not np.array_equal(np.sort(samples_of(rows)), np.sort(expected))


def test_a_batch_mixes_many_shards():
    counts = np.full(1281, 1000)
    p = Plan(Everything(counts), 1024, 8, 16384, 0)
    assert len(set(p.step(0, 100).shards.tolist())) > 100


def test_upcoming_shards_are_those_of_the_next_steps_soonest_first():
    p = plan()
    soon = p.upcoming_shards(0, 1, 6, 12, 3)
    needed = [set(p.step(0, i, 6, 12).shards.tolist()) for i in (1, 2, 3)]
    assert set(soon) == set.union(*needed)
    assert set(soon[: len(needed[0])]) == needed[0]


def test_a_mixture_takes_each_data_set_by_its_weight_in_every_epoch():
    dataset = np.array([0, 0, 0, 0, 1, 1, 1, 1])
    p = plan(selection=Mixture(COUNTS, dataset, (3.0, 1.0)), lanes=1, pad=True)
    for epoch in (0, 1):
        steps = [p.step(epoch, index) for index in range(p.steps_per_epoch)]
        shards = np.concatenate([s.shards[s.weights == 1] for s in steps])
        share = (dataset[shards] == 0).mean()
        assert abs(share - 0.75) < 0.01
    first, second = (
        {
            tuple(r)
            for s in (p.step(e, i) for i in range(8))
            for r in zip(s.shards, s.rows, strict=True)
        }
        for e in (0, 1)
    )
    assert first != second


def test_a_data_set_of_large_weight_is_gone_through_before_it_repeats():
    dataset = np.array([0, 0, 0, 0, 1, 1, 1, 1])
    p = plan(selection=Mixture(COUNTS, dataset, (9.0, 1.0)), lanes=1, pad=True)
    steps = [p.step(0, index) for index in range(p.steps_per_epoch)]
    samples = np.concatenate([samples_of(s)[s.weights == 1] for s in steps])
    times = np.bincount(samples, minlength=COUNTS.sum())[: COUNTS[:4].sum()]
    assert times.max() - times.min() <= 1


def test_balanced_classes_come_equally_often_and_rare_ones_repeat():
    labels = np.repeat([0, 1, 2], [150, 60, 17])
    p = plan(selection=Balanced(COUNTS, labels, len(set(labels.tolist()))), lanes=1, pad=True)
    steps = [p.step(0, index) for index in range(p.steps_per_epoch)]
    samples = np.concatenate([samples_of(s)[s.weights == 1] for s in steps])
    assert np.array_equal(np.bincount(labels[samples]), [75, 75, 75])
    for label in (0, 1, 2):
        times = np.bincount(samples, minlength=len(labels))[labels == label]
        assert times.max() - times.min() <= 1


def test_lanes_that_do_not_divide_the_batch_are_refused_with_the_cure():
    with pytest.raises(ConfigError, match=r"5 lanes do not divide .* 24; set data.lanes to 1"):
        plan(lanes=5)
    with pytest.raises(ConfigError, match=r"set data\.pad_last to true"):
        plan(batch=480, lanes=1)


@pytest.mark.parametrize("world_size", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("num_samples", [1, 23, 24, 25])
def test_evaluation_counts_every_sample_once_in_equally_many_batches(num_samples, world_size):
    shares = [list(evaluation_rows(num_samples, 4, r, world_size)) for r in range(world_size)]
    assert len({len(s) for s in shares}) == 1
    seen = [p for s in shares for positions, weights in s for p in positions[weights == 1]]
    assert sorted(seen) == list(range(num_samples))


def test_a_plan_of_imagenet_builds_in_a_millisecond_and_gives_a_batch_in_a_tenth():
    counts = np.full(1281, 1000)
    begin = time.process_time()  # the machine may be shared
    p = Plan(Everything(counts), 1024, 8, 16384, 0)
    p._line(0)
    build_s = time.process_time() - begin
    p.step(0, 0)
    begin = time.process_time()
    for index in range(1000, 1100):
        p.step(0, index)
    batch_s = (time.process_time() - begin) / 100
    # Measured 0.2 ms and 60 µs.
    assert build_s < 5e-3
    assert batch_s < 1e-3


@pytest.mark.parametrize("copies", [2, 3, 6])
class TestCopies:
    def test_a_batch_has_each_sample_so_often_and_copies_lie_apart(self, copies):
        p = plan(copies=copies, lanes=2)
        for step in range(p.steps_per_epoch):
            samples = samples_of(p.step(1, step))
            apart = samples.reshape(copies, 24 // copies)
            assert (apart == apart[0]).all() and len(set(apart[0].tolist())) == 24 // copies

    def test_an_epoch_has_as_many_steps_as_without(self, copies):
        assert plan(copies=copies, lanes=2).steps_per_epoch == plan(lanes=2).steps_per_epoch

    def test_as_many_epochs_take_every_sample_that_one_of_a_smaller_batch_takes(self, copies):
        p, once = plan(copies=copies, lanes=2), plan(batch=24 // copies, lanes=2)
        steps = [divmod(step, p.steps_per_epoch) for step in range(once.steps_per_epoch)]
        found = [samples_of(p.step(*step))[: once.batch] for step in steps]
        assert np.array_equal(np.concatenate(found), epoch_of(once)[0])

    def test_ranks_only_choose_rows(self, copies):
        p = plan(copies=copies, lanes=2)
        whole = p.step(1, 2)
        for share in (1, 4, 8, 12):
            parts = [p.step(1, 2, first, first + share) for first in range(0, 24, share)]
            for name in ("shards", "rows", "weights"):
                joined = np.concatenate([getattr(part, name) for part in parts])
                assert np.array_equal(joined, getattr(whole, name))

    def test_padding_shows_every_sample_so_often(self, copies):
        p = plan(copies=copies, lanes=2, pad=True)
        once = plan(batch=24 // copies, lanes=2, pad=True)
        rows = [p.step(*divmod(step, p.steps_per_epoch)) for step in range(once.steps_per_epoch)]
        samples = np.concatenate([samples_of(r)[r.weights == 1] for r in rows])
        assert (np.bincount(samples) == copies).all() and len(samples) == copies * COUNTS.sum()


def test_a_batch_that_copies_do_not_divide_is_refused():
    with pytest.raises(
        ConfigError, match=r"augment\.repeats: .* 5 times; set augment.repeats to 1"
    ):
        plan(copies=5)
    with pytest.raises(ConfigError, match="4 lanes do not divide a batch of 2"):
        plan(copies=12)
