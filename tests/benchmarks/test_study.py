"""The study of variants: every rule trains, and the simplest are those of the reference."""

import gzip
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import evidence
import fashion
from study import data as study_data
from study import training
from study.data import FASHION_SHA256, Images, Split, fashion_file
from study.training import Trained, train
from study.variants import VARIANTS, Update


def trained(name, strength, num_steps=3):
    """Weights after some updates of a tiny network on random images."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(1, 2, 3), torch.nn.BatchNorm2d(2), torch.nn.Flatten(), torch.nn.Linear(8, 3)
    )
    images = Images(torch.randn(12, 1, 4, 4), torch.randint(3, (12,)))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    done = train(
        *(VARIANTS[name].rule, strength, model, optimizer, Split(images, images)),
        **{"seed": 0, "num_steps": num_steps, "batch_size": 4, "average": VARIANTS[name].average},
    )
    assert 0 <= done.top1 <= 100 and done.train_s > 0
    return {key: p.detach().clone() for key, p in model.named_parameters()}


def same(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_trains_and_its_strength_has_a_meaning(name):
    variant = VARIANTS[name]
    weights = trained(name, variant.centre, num_steps=10)
    assert all(p.isfinite().all() for p in weights.values())
    if variant.centre:
        assert not same(weights, trained(name, 2 * variant.centre, num_steps=10))


@pytest.mark.parametrize("name", ["rwp", "rwp, scale of each element", "last-sam"])
def test_at_strength_0_a_variant_of_one_pass_is_sgd(name):
    assert same(trained(name, 0.0), trained("sgd", 0.0))


@pytest.mark.parametrize(
    ("name", "moves_matrices", "moves_norms"),
    [
        ("rwp", True, False),
        ("rwp, norm layers and biases too", True, True),
        ("rwp, norm layers and biases only", False, True),
    ],
)
def test_noise_is_in_the_parameters_that_the_name_says(name, moves_matrices, moves_norms):
    weights = {"matrix": torch.ones(2, 3), "bias": torch.ones(2)}
    passes = []

    def gradient_at(at, batch):
        passes.append(at)
        return at

    def unit_of_all():
        return {key: torch.ones_like(w) for key, w in weights.items()}

    def unit():
        return {key: e if e.ndim > 1 else torch.zeros_like(e) for key, e in unit_of_all().items()}

    batch = (torch.zeros(2, 1), torch.zeros(2))
    VARIANTS[name].rule(
        Update(gradient_at, weights, batch, lambda: batch, 0.5, 0.0, unit, unit_of_all, {})
    )
    [seen] = passes
    assert torch.equal(seen["matrix"], weights["matrix"]) != moves_matrices
    assert torch.equal(seen["bias"], weights["bias"]) != moves_norms


def test_the_average_of_the_weights_is_what_is_scored(monkeypatch):
    scored = []
    monkeypatch.setattr(training, "top1", lambda model, data: scored.append(model) or 0.0)
    weights = trained("sgd + average", 0.0)
    averaged = dict(scored[0].named_parameters())
    assert not same(weights, averaged)
    assert same(weights, trained("sgd", 0.0))


def test_a_mean_counts_only_if_it_is_far_enough_above_the_target():
    target, margin = fashion.TARGET, fashion.MARGIN
    assert fashion.accepted([target + margin / 2 + 0.01] * 4)
    assert not fashion.accepted([target + margin / 2 - 0.01] * 4)


def test_tuning_goes_on_until_the_best_has_a_worse_one_on_each_side():
    tried = []

    class Scores:
        def top1(self, variant, strength, seed):
            tried.append(round(strength / variant.centre, 3))
            return -abs(strength / variant.centre - evidence.FACTOR**4)

    evidence.tune(Scores(), VARIANTS["rwp"])
    powers = {round(evidence.FACTOR**power, 3) for power in range(-2, 6)}
    assert set(tried) == powers


def test_defaults_are_compared_with_the_tuned_strength_seed_by_seed():
    class Scores:
        def best(self, variant):
            return 0.2

        def top1(self, variant, strength, seed):
            return 80 + 7 * (seed % 5) + (1.5 if strength == 0.2 else 1 + 0.1 * (seed % 2))

    for line in evidence.defaults(Scores()).splitlines():
        assert line.startswith(tuple(evidence.NOISY))
        assert "difference -0.45 -0.47 to -0.43" in line  # twenty seeds


def test_a_run_of_the_yardstick_is_trained_once_for_all_that_decides_it(tmp_path, monkeypatch):
    trained = []
    monkeypatch.setattr(
        fashion, "train", lambda rule, strength, *_, **more: trained.append(more) or Trained(90, 1)
    )
    images = Images(torch.zeros(2, 1, 28, 28), torch.zeros(2))
    data, record = Split(images, images), fashion.Record(VARIANTS["sgd"].rule, 0.1, 10)
    for other in ({}, {"strength": 0.2}, {"num_steps": 20}, {}):
        runs = fashion.Runs(tmp_path / "records.jsonl")
        assert runs.run("rwp", replace(record, **other), 0, data) == Trained(90, 1)
    assert len(trained) == 3
    runs.run("m-rwp", record, 0, data)
    runs.run("rwp", record, 1, data)
    assert len(trained) == 5


def test_images_that_are_not_the_known_ones_are_refused(tmp_path, monkeypatch):
    name = next(iter(FASHION_SHA256))
    (tmp_path / f"{name}.gz").write_bytes(gzip.compress(b"other images"))
    monkeypatch.setattr(study_data, "DEBIAN", tmp_path)
    with pytest.raises(ValueError, match=f"{name}.gz: not the known Fashion-MNIST"):
        fashion_file(name)


def test_other_settings_have_another_file_of_scores(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    paths = [evidence.Scores("mnist", "cnn").path, evidence.Scores("mnist", "vit").path]
    assert paths == [evidence.Scores("mnist", n).path for n in ("cnn", "vit")]
    monkeypatch.setitem(evidence.SIZES, ("mnist", "cnn"), (100, 301))
    paths.append(evidence.Scores("mnist", "cnn").path)
    assert len(set(paths)) == 3


def test_momentum_is_that_of_sgd_or_adamw():
    model = torch.nn.Linear(4, 3)
    images = Images(torch.randn(12, 4), torch.randint(3, (12,)))
    seen = []

    def rule(update):
        seen.append(set(update.momentum))
        return VARIANTS["sgd"].rule(update)

    params = list(model.parameters())
    for optimizer in (torch.optim.SGD(params, momentum=0.9), torch.optim.AdamW(params)):
        train(rule, 0.0, model, optimizer, Split(images, images), seed=0, num_steps=2, batch_size=4)
    assert seen == [set(), {"weight", "bias"}] * 2
