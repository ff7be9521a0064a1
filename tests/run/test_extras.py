"""A part with a state of its own, an average of the weights, is one line in ``EXTRAS``."""

from unittest.mock import patch

import pytest
import torch
from support.checkpoints import load, save
from support.ranks import run_ranks
from support.small import run_steps, same_bits, small_net, small_parts, small_settings

from rwp_dist.config import load_settings
from rwp_dist.run.checkpoint import list_checkpoints, read_checkpoint
from rwp_dist.run.parts import EXTRAS
from rwp_dist.shards.digits import write_digits
from rwp_dist.train import train

STEPS = 8


class Average:
    """``a <- decay a + (1 - decay) w`` after each update that was not skipped."""

    def __init__(self, engine, decay):
        self.engine, self.decay, self.steps = engine, decay, 0
        self.average = {n: p.detach().clone() for n, p in engine.trained.items()}

    @torch.no_grad()
    def after_step(self, applied):
        if applied:
            self.steps += 1
            for name, param in self.engine.trained.items():
                self.average[name].lerp_(param, 1.0 - self.decay)

    def state_dict(self):
        return {"steps": self.steps, "average": {n: a.cpu() for n, a in self.average.items()}}

    def load_state_dict(self, state):
        self.steps = state["steps"]
        for name, value in state["average"].items():
            self.average[name].copy_(value)


def build_average(settings, engine):
    return Average(engine, 0.8) if settings.optimizer.momentum > 0 else None


def averaging():
    return patch.dict(EXTRAS, {"average": build_average})


def over_a_resume(folder, stage):
    settings = small_settings("method.name=m-rwp", f"deepspeed.zero_stage={stage}", steps=STEPS)
    with averaging():
        with small_parts(settings) as parts:
            by_hand = {n: p.detach().clone() for n, p in parts.engine.trained.items()}
            for step in run_steps(parts, 0, STEPS):
                for name, param in parts.engine.trained.items():
                    by_hand[name].lerp_(param.detach(), 1.0 - 0.8)
                if step + 1 == 3:
                    save(folder, parts, 3)
            undisturbed = parts.extras["average"].state_dict()
            assert same_bits(undisturbed["average"], by_hand)
        with small_parts(settings, small_net(seed=9)) as parts:
            first, _ = load(folder, parts)
            for _ in run_steps(parts, first, STEPS):
                pass
            return undisturbed, parts.extras["average"].state_dict()


@pytest.mark.parametrize("stage", [0, 1, 2])
def test_it_is_stepped_saved_and_resumed_exactly(tmp_path, stage):
    for undisturbed, resumed in run_ranks(over_a_resume, 2, tmp_path, stage):
        assert undisturbed["steps"] == resumed["steps"] == STEPS
        assert same_bits(undisturbed["average"], resumed["average"])


def names_of_extras(*overrides):
    with averaging(), small_parts(small_settings("method.name=sgd", *overrides)) as parts:
        return list(parts.extras)


def test_it_is_built_only_where_the_settings_ask_for_it():
    assert run_ranks(names_of_extras, 1) == [["average"]]
    assert run_ranks(names_of_extras, 1, "optimizer.momentum=0") == [[]]


def old_checkpoint(folder):
    """A checkpoint without the part, then a run with it."""
    settings = small_settings("method.name=sgd")
    with small_parts(settings) as parts:
        save(folder, parts, 2)
    with averaging(), small_parts(settings) as parts:
        return load(folder, parts), parts.extras["average"].steps


def test_a_part_that_a_checkpoint_does_not_know_starts_afresh(tmp_path):
    assert run_ranks(old_checkpoint, 1, tmp_path) == [((2, []), 0)]


def whole_run(settings):
    with averaging():
        train(load_settings(None, settings))


def test_a_whole_run_keeps_it_in_its_checkpoints(tmp_path):
    write_digits(tmp_path / "digits")
    shards = [f"data.train={tmp_path}/digits/train", f"data.val={tmp_path}/digits/test"]
    run = [f"run.dir={tmp_path}/run", "schedule.steps=3", "run.device=cpu", "data.workers=0"]
    run_ranks(whole_run, 2, [*shards, *run, "tracking.wandb=off", "batch.global=64"])
    (path,) = list_checkpoints(tmp_path / "run" / "checkpoints")
    state = read_checkpoint(path)["parts"]["average"]
    assert (
        state["steps"] == 3 and state["average"].keys() == read_checkpoint(path)["weights"].keys()
    )
