"""Runs that begin from other weights: what they are worth, and how they go on."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats
from support.checkpoints import save
from support.ranks import run_ranks
from support.small import run_all

from rwp_dist.base.errors import ConfigError
from rwp_dist.config import load_settings
from rwp_dist.record.directory import RunDir
from rwp_dist.record.identity import DRAWN
from rwp_dist.run.build import build_parts
from rwp_dist.run.models import build_model
from rwp_dist.run.opening import opened_run
from rwp_dist.shards.digits import write_digits
from rwp_dist.shards.mnist import write_mnist
from rwp_dist.train import train

CONFIGS = Path(__file__).parents[2] / "configs"
SEEDS = 5


def tops(runs):
    """Test top-1 of whole runs of the demonstration, in percent."""
    common = ["variant=m-rwp", "model.num_classes=5", "run.device=cpu", "evaluation.every_epochs=0"]
    return [train(load_settings(CONFIGS / "mnist.yaml", common + run))["top1"] for run in runs]


def test_fine_tuning_from_other_digits_beats_training_from_scratch(tmp_path):
    """As README shows it: 20 images of five digits, with a network that knows the other five.

    Both with the learning rate that is best from scratch of 0.1, 0.4 and 1.6.
    """
    write_mnist(tmp_path / "others", 199, digits="56789")
    write_mnist(tmp_path / "few", 4, digits="01234")
    data = {
        name: [f"data.{key}={tmp_path / name / side}" for key, side in SIDES]
        for name in ("others", "few")
    }
    few = [*data["few"], "batch.global=20", "schedule.steps=20", "optimizer.lr=0.4"]
    runs = [[*data["others"], f"run.dir={tmp_path / 'run'}"]]
    for seed in range(SEEDS):
        for name, init in (("new", "null"), ("tuned", tmp_path / "run")):
            own = [f"run.dir={tmp_path / name}-{seed}", f"run.seed={seed}", f"model.init={init}"]
            runs.append([*few, *own])
    (known, *found), _ = run_ranks(tops, 2, runs)
    assert known > 90
    new, tuned = np.array(found).reshape(SEEDS, 2).T
    gain = stats.ttest_rel(tuned, new).confidence_interval(0.95)
    assert gain.low > 5, (new, tuned, gain)
    record = json.loads((tmp_path / "tuned-0" / "initial.json").read_text())
    assert record["new"] == ["linear.weight", "linear.bias"], "of other digits, as many as they are"
    assert len(record["taken"]) == 18


SIDES = (("train", "train"), ("val", "test"))


def attempt(settings, save_after=0):
    """Identity of the weights of an attempt, and what it says of them."""
    with opened_run(settings) as run:
        parts = build_parts(run.settings)
        said = [str(note) for note in parts.notes]
        if save_after:
            run_all(parts, 0, save_after)
            save(run.run_dir.checkpoints, parts, save_after)
        parts.close()
        return run.identity["model.init.id"], said


def test_a_run_goes_on_without_the_file_that_it_began_from_and_with_no_other(tmp_path):
    write_digits(tmp_path)

    def settings_of(init, folder="run"):
        data = [f"data.{key}={tmp_path / side}" for key, side in SIDES]
        own = [f"run.dir={tmp_path / folder}", f"model.init={init}", "schedule.steps=4"]
        return load_settings(CONFIGS / "digits.yaml", [*data, *own, "run.device=cpu"])

    file, copy, other = (tmp_path / f"{name}.pt" for name in ("file", "copy", "other"))
    state = build_model(settings_of(file)).state_dict()
    torch.save(state, file)
    copy.write_bytes(file.read_bytes())
    torch.save(state | {"linear.bias": torch.ones(10)}, other)
    [(first, said)] = run_ranks(attempt, 1, settings_of(file), 2)
    assert len(first) == 16 and "20 of 20 tensors are taken" in said[0]
    assert RunDir(tmp_path / "run").read_identity()["model.init.id"] == first
    file.unlink()
    for place in (file, copy):  # gone, and the same weights elsewhere
        assert run_ranks(attempt, 1, settings_of(place)) == [(first, [])]
    for place, words in ((other, f"model.init.id: {first} there, "), ("null", f", {DRAWN} here")):
        with pytest.raises(ConfigError, match="holds another run") as caught:
            run_ranks(attempt, 1, settings_of(place))
        assert words in str(caught.value)
    with pytest.raises(ConfigError, match="is not there"):
        run_ranks(attempt, 1, settings_of(tmp_path / "gone.pt"))
    [(drawn, _)] = run_ranks(attempt, 1, settings_of("null", "plain"))
    assert drawn == DRAWN
