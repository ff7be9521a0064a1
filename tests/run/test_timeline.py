"""Durations in steps, once it is known how many steps an epoch has."""

import re

import pytest

from rwp_dist.base.errors import ConfigError
from rwp_dist.config import load_settings
from rwp_dist.run.timeline import Timeline


@pytest.mark.parametrize(
    ("overrides", "key"),
    [
        (["schedule.steps=10", "schedule.warmup_epochs=100"], "schedule.warmup_epochs"),
        (["schedule.epochs=2", "schedule.warmup_steps=100"], "schedule.warmup_steps"),
        (["schedule.steps=10", "method.warmup_epochs=100"], "method.warmup_epochs"),
        (["schedule.epochs=2", "method.warmup_steps=100"], "method.warmup_steps"),
        (["schedule.steps=123457", "method.warmup_epochs=1e6"], "method.warmup_epochs"),
    ],
)
@pytest.mark.parametrize("steps_per_epoch", [1, 3, 7])
def test_a_warmup_longer_than_the_run_is_refused_and_the_cure_works(
    overrides: list[str], key: str, steps_per_epoch: int
) -> None:
    settings = load_settings(None, overrides)
    with pytest.raises(ConfigError, match=f"{key}: lasts") as caught:
        Timeline.of(settings, steps_per_epoch)
    cure = re.search(r"set it to ([\d.e+]+) or less", str(caught.value))
    assert cure, caught.value
    Timeline.of(load_settings(None, [*overrides, f"{key}={cure[1]}"]), steps_per_epoch)


@pytest.mark.parametrize(
    ("every_epochs", "due"),
    [(0, {12}), (1, {4, 8, 12}), (0.5, {2, 4, 6, 8, 10, 12}), (0.1, set(range(1, 13)))],
)
def test_something_is_due_after_the_nearest_whole_step_and_at_the_end(
    every_epochs: float, due: set[int]
) -> None:
    timeline = Timeline.of(load_settings(None, ["schedule.steps=12"]), steps_per_epoch=4)
    assert {step for step in range(1, 13) if timeline.is_due(every_epochs, step)} == due
