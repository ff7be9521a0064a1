"""What the updates of a run took: by a clock that only the test moves."""

from types import SimpleNamespace

import pytest
import torch

from rwp_dist.data.remote import CacheStats
from rwp_dist.process.consensus import Agreed
from rwp_dist.run import progress as module
from rwp_dist.run.progress import Progress
from rwp_dist.run.task import Classification

STEP = SimpleNamespace(num_bytes=0, cache=CacheStats())


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    clock = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: clock.now))
    return clock


def attempt(world_size: int, state: dict | None = None) -> Progress:
    """The progress of one attempt, whose first step is about to begin."""
    progress = Progress(
        SimpleNamespace(
            device=torch.device("cpu"),
            task=Classification(),
            split=SimpleNamespace(world_size=world_size),
            engine=SimpleNamespace(skipped_steps=0),
            perturbed=SimpleNamespace(backend="torch"),
        )
    )
    if state:
        progress.load_state_dict(state)
    progress.start()
    return progress


def train(progress: Progress, clock: SimpleNamespace, step_s: float) -> None:
    clock.now += step_s
    progress.step_done(STEP, Agreed(clean=10, perturbed=6, bad=0, stop=False))


def test_time_and_samples_add_up_over_attempts_on_other_numbers_of_ranks(
    clock: SimpleNamespace,
) -> None:
    first = attempt(world_size=2)
    train(first, clock, 1.0)
    with first.paused():  # an evaluation
        clock.now += 10.0
    train(first, clock, 2.0)
    state = first.state_dict()
    clock.now += 500.0  # lost or waiting
    second = attempt(world_size=4, state=state)
    assert second.spent() == {"samples": 32, "train_s": 3, "device_seconds": 6, "wall_s": 13}
    train(second, clock, 5.0)
    assert second.spent() == {"samples": 48, "train_s": 8, "device_seconds": 26, "wall_s": 18}


def test_a_checkpoint_of_0_1_has_training_seconds_alone(clock: SimpleNamespace) -> None:
    state = attempt(world_size=2).state_dict() | {"train_s": 3.0}
    del state["device_seconds"], state["wall_s"]
    spent = attempt(world_size=2, state=state).spent()
    assert (spent["device_seconds"], spent["wall_s"]) == (6, 3)
