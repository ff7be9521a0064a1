import os
import signal
import time

import pytest
import torch.distributed as dist
from support.ranks import run_ranks

from rwp_dist.process.consensus import Agreed, Consensus
from rwp_dist.process.signals import StopSignals


def sum_over_ranks():
    consensus, rank = Consensus(), dist.get_rank()
    seen = []
    for step in range(3):
        consensus.post(clean=rank, perturbed=10.0 * step, bad=rank, stop=False)
        seen.append(consensus.take())
    consensus.close()
    return seen


@pytest.mark.parametrize("world_size", [1, 3])
def test_all_ranks_get_the_same_sums(world_size):
    ranks = range(world_size)
    expected = [Agreed(sum(ranks), 10.0 * s * world_size, sum(ranks), False) for s in range(3)]
    assert run_ranks(sum_over_ranks, world_size) == [expected] * world_size


def stop_after_a_signal(number, step_of_signal):
    """The step before which all ranks learn that the last one was asked to stop."""
    before = signal.getsignal(number)
    consensus, stopped = Consensus(), None
    with StopSignals() as signals:
        for step in range(10):
            consensus.post(clean=1, perturbed=1, bad=0, stop=signals.asked)
            if dist.get_rank() == dist.get_world_size() - 1 and step == step_of_signal:
                os.kill(os.getpid(), number)
            time.sleep(0.01 * dist.get_rank())
            if consensus.take().stop:
                stopped = step
                break
    consensus.close()
    assert signal.getsignal(number) == before
    return stopped


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_signal_to_one_rank_stops_all_before_the_same_step(number):
    assert run_ranks(stop_after_a_signal, 3, number, 4) == [5, 5, 5]


def test_a_single_rank_stops_before_the_next_step():
    assert run_ranks(stop_after_a_signal, 1, signal.SIGTERM, 4) == [5]
