"""An average of the weights is a class, and one line in ``EXTRAS``."""

from unittest.mock import patch

import pytest
import torch
from support.checkpoints import everything, load, save
from support.evaluations import evaluated
from support.ranks import run_ranks
from support.small import (
    run_all,
    run_steps,
    same_bits,
    small_net,
    small_parts,
    small_samples,
    small_settings,
    split_over,
)
from torch.nn import functional as F

from rwp_dist.config import load_settings
from rwp_dist.perturb.statistics import average_statistics, recalibrating, tracking_layers
from rwp_dist.record.directory import RunDir
from rwp_dist.run.checkpoint import list_checkpoints, read_checkpoint
from rwp_dist.run.evaluate import clean_network, evaluate_parts
from rwp_dist.run.parts import EXTRAS
from rwp_dist.shards.digits import write_digits
from rwp_dist.train import train

STEPS = 8
TWO = split_over(2, 2)


class Average:
    """``a <- decay a + (1 - decay) w`` after each update that was not skipped."""

    def __init__(self, engine, decay):
        self.engine, self.decay, self.steps = engine, decay, 0
        self.average = engine.full_weights()

    def after_step(self, step, applied):
        if applied:
            self.steps += 1
            for name, weight in self.engine.full_weights().items():
                self.average[name].lerp_(weight, 1.0 - self.decay)

    def evaluated(self):
        return {"weights": self.average}

    def state_dict(self):
        return {"steps": self.steps, "weights": self.average}

    def load_state_dict(self, state):
        self.steps = state["steps"]
        for name, value in state["weights"].items():
            self.average[name].copy_(value)


def build_average(settings, engine, timeline):
    return Average(engine, 0.8) if settings.optimizer.momentum > 0 else None


def averaging():
    return patch.dict(EXTRAS, {"average": build_average})


def over_a_resume(folder, stage):
    settings = small_settings(
        "method.name=m-rwp", f"deepspeed.zero_stage={stage}", TWO, steps=STEPS
    )
    with averaging():
        with small_parts(settings) as parts:
            by_hand = parts.engine.full_weights()
            for step in run_steps(parts, 0, STEPS):
                for name, weight in parts.engine.full_weights().items():
                    by_hand[name].lerp_(weight, 1.0 - 0.8)
                if step + 1 == 3:
                    save(folder, parts, 3)
            undisturbed = parts.extras["average"].state_dict()
            assert same_bits(undisturbed["weights"], by_hand)
        with small_parts(settings, small_net(seed=9)) as parts:
            first, _ = load(folder, parts)
            for _ in run_steps(parts, first, STEPS):
                pass
            return undisturbed, parts.extras["average"].state_dict()


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_it_is_stepped_saved_and_resumed_exactly(tmp_path, stage):
    for undisturbed, resumed in run_ranks(over_a_resume, 2, tmp_path, stage):
        assert undisturbed["steps"] == resumed["steps"] == STEPS
        assert same_bits(undisturbed["weights"], resumed["weights"])


def loss_of(weights, parts):
    """Of all samples, with statistics that belong to these weights."""
    net = small_net()
    net.load_state_dict(weights, strict=False)
    with torch.no_grad(), recalibrating(tracking_layers(net)):
        for step in parts.train.steps(0, STEPS):
            for batch in step.batches:
                net(parts.normalise(batch.images))
    average_statistics(tracking_layers(net), contributes=True)
    samples = small_samples()
    with torch.no_grad():
        logits = net.eval()(parts.normalise(samples.images))
    return float(F.cross_entropy(logits, samples.labels))


def evaluated_in_between(cases):
    """Losses of each case: evaluated, of the averaged and of the trained weights."""
    found = []
    for case in cases:
        with averaging(), small_parts(small_settings(*case, TWO, steps=STEPS)) as parts:
            run_all(parts, stop=4)
            before = everything(parts)
            with clean_network(parts, 4):
                result, _ = evaluate_parts(parts)
            assert same_bits(everything(parts), before)
            average = parts.extras["average"].average
            trained = parts.engine.full_weights()
            found.append((result["loss"], loss_of(average, parts), loss_of(trained, parts)))
    return found


def test_it_is_what_is_evaluated_and_training_goes_on_from_the_trained_weights():
    pairs = [("sgd", 0), ("m-rwp", 0), ("m-rwp", 1), ("rwp", 2), ("sgd", 3)]
    cases = [(f"method.name={m}", f"deepspeed.zero_stage={stage}") for m, stage in pairs]
    for found in run_ranks(evaluated_in_between, 2, cases):
        for case, (loss, average, trained) in zip(cases, found, strict=True):
            assert loss == pytest.approx(average, rel=1e-5), case
            assert abs(loss - trained) > 1e-2, case


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
        return train(load_settings(None, settings))


def evaluations(settings, checkpoints):
    loaded = load_settings(None, settings)
    return [evaluated(loaded, checkpoint=path) for path in checkpoints]


def test_a_whole_run_keeps_it_in_its_checkpoints_and_it_is_evaluated_from_there(tmp_path):
    write_digits(tmp_path / "digits")
    shards = [f"data.train={tmp_path}/digits/train", f"data.val={tmp_path}/digits/test"]
    run = [f"run.dir={tmp_path}/run", "schedule.steps=3", "run.device=cpu", "data.workers=0"]
    settings = [*shards, *run, "tracking.wandb=off", "batch.global=64"]
    summary = run_ranks(whole_run, 2, settings)[0]
    run_dir = RunDir(tmp_path / "run")
    (path,) = list_checkpoints(run_dir.checkpoints)
    state = read_checkpoint(path)
    average = state["parts"]["average"]
    assert average["steps"] == 3 and average["weights"].keys() == state["weights"].keys()

    del state["parts"]["average"]
    torch.save(state, tmp_path / "without.pt")
    [(with_it, without)] = run_ranks(evaluations, 1, settings, [path, tmp_path / "without.pt"])
    nll = f"NLL {summary['loss']:.4f}"
    assert nll in with_it and nll not in without
