"""The formulas of a step: by hand where they can be, and what must hold for any."""

import math
import random

import pytest

from rwp_dist.plan.model import (
    Bucket,
    Cores,
    Fabric,
    Link,
    Work,
    make_buckets,
    overlap,
    slowest_of,
    step_time,
)

SLOW = Link(1e9, 1e-5)
FLAT = Fabric(1, SLOW, SLOW)
"""A rank on each node."""
WORK = Work(1, 0.1, 0.2, 0.05)
BUCKETS = [Bucket(1e7, 0.1), Bucket(3e7, 0.5), Bucket(2e7, 1.0)]


@pytest.mark.parametrize("ranks", [2, 3, 8])
def test_a_ring_sends_its_share_of_the_bytes_in_its_steps(ranks: int) -> None:
    expected = 2 * (ranks - 1) / ranks * 1e9 / 1e9 + 2 * (ranks - 1) * 1e-5
    assert FLAT.all_reduce_s(1e9, ranks) == pytest.approx(expected)
    assert FLAT.all_gather_s(1e9, ranks) == pytest.approx(expected / 2)


def test_one_rank_reduces_nothing() -> None:
    assert FLAT.all_reduce_s(1e9, 1) == FLAT.all_gather_s(1e9, 1) == 0


def test_all_gpus_of_a_node_share_its_link_and_within_a_node_it_does_not_matter() -> None:
    fabric = Fabric(8, Link(1e11, 0), Link(1e9, 0))
    assert fabric.all_reduce_s(1e9, 8) == pytest.approx(2 * 7 / 8 / 100)
    # A ring enters and leaves each node once.
    assert fabric.all_reduce_s(1e9, 16) == pytest.approx(2 * 15 / 16)


def test_trees_win_where_steps_are_many_and_bytes_few() -> None:
    trees = Fabric(8, Link(1e11, 3e-6, 4e-6), Link(1e10, 1e-5, 1e-5))
    rings = Fabric(8, Link(1e11, 3e-6), Link(1e10, 1e-5))
    assert trees.all_reduce_s(1e6, 1024) < rings.all_reduce_s(1e6, 1024) / 5
    assert trees.all_reduce_s(1e9, 16) == rings.all_reduce_s(1e9, 16)


def test_buckets_are_filled_in_order_and_hold_every_gradient() -> None:
    gradients = [(2.0, 0.1), (3.0, 0.2), (3.0, 0.4), (9.0, 0.5), (1.0, 1.0)]
    assert make_buckets(gradients, 1, 6) == [
        Bucket(2, 0.1),
        Bucket(6, 0.4),
        Bucket(9, 0.5),
        Bucket(1, 1),
    ]


def test_buckets_wait_for_their_gradients_and_for_each_other() -> None:
    # Of two ranks, each bucket takes as many seconds as it has GB.
    buckets = [Bucket(0.3e9, 0.1), Bucket(0.1e9, 0.2), Bucket(0.2e9, 1.0)]
    ends, reduced = overlap(1.0, buckets, Fabric(1, Link(1e9, 0), Link(1e9, 0)), 2)
    assert (ends, reduced) == pytest.approx((1.0, 1.2))
    slow = Fabric(1, Link(1e8, 0), Link(1e8, 0))
    assert overlap(1.0, buckets, slow, 2) == pytest.approx((1.0, 0.1 + 3 + 1 + 2))


def test_what_is_exposed_lies_between_the_last_bucket_and_all_of_them() -> None:
    draw = random.Random(0)
    for _ in range(100):
        ready = sorted(draw.random() for _ in range(4))
        buckets = [Bucket(draw.uniform(1e6, 1e8), share) for share in [*ready, 1.0]]
        ends, reduced = overlap(draw.uniform(0, 0.3), buckets, FLAT, 4)
        seconds = [FLAT.all_reduce_s(b.num_bytes, 4) for b in buckets]
        assert seconds[-1] - 1e-12 <= reduced - ends <= sum(seconds) + 1e-12


def test_sam_adds_one_pass_and_no_reduction() -> None:
    one, two = (step_time(Work(passes, 0.1, 0.2), BUCKETS, FLAT, 4) for passes in (1, 2))
    assert two.compute_s - one.compute_s == pytest.approx(0.3)
    assert two.wait_s == one.wait_s


def test_ranks_that_share_a_core_compute_half_as_fast_and_wait_less() -> None:
    own = step_time(WORK, BUCKETS, FLAT, 4)
    shared = step_time(WORK, BUCKETS, FLAT, 4, cores=Cores(0.5))
    assert shared.compute_s == pytest.approx(2 * own.compute_s)
    assert shared.wait_s < own.wait_s


def test_reducing_takes_its_core_time_from_the_backward_pass() -> None:
    cores = Cores(1.0, reduce_s_per_byte=1e-10)
    before_last = sum(b.num_bytes for b in BUCKETS[:-1])
    ends, _ = overlap(10.0, BUCKETS, FLAT, 2, cores)
    assert ends == pytest.approx(10.0 + before_last * 1e-10)


def test_gathering_weights_comes_after_the_step() -> None:
    without = step_time(WORK, BUCKETS, FLAT, 4)
    gathered = step_time(WORK, BUCKETS, FLAT, 4, gathered_bytes=6e7)
    assert gathered.wait_s - without.wait_s == pytest.approx(FLAT.all_gather_s(6e7, 4))


def test_the_slowest_of_many_ranks_is_the_expected_maximum() -> None:
    draw = random.Random(0)
    for ranks in (2, 8, 64):
        most = [max(draw.gauss(0, 1) for _ in range(ranks)) for _ in range(20_000)]
        assert slowest_of(ranks) == pytest.approx(sum(most) / len(most), rel=0.05)
    assert slowest_of(1) == 0
    spread = step_time(WORK, BUCKETS, FLAT, 64, spread=0.01)
    assert spread.straggle_s == pytest.approx(0.3 * 0.01 * slowest_of(64))
    assert math.isclose(spread.total_s, spread.compute_s + spread.wait_s + spread.straggle_s)
