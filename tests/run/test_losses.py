"""Losses: their formulas, what a guess costs, and what evaluation makes of them."""

import pytest
import torch
from timm.loss import BinaryCrossEntropy as TimmBinaryCrossEntropy
from torch.nn import functional as F

from rwp_dist.base.errors import SettingsError
from rwp_dist.config import load_settings
from rwp_dist.config.tree import LOSSES as NAMES
from rwp_dist.config.tree import Loss as LossSettings
from rwp_dist.run.losses import (
    LOSSES,
    BinaryCrossEntropy,
    CrossEntropy,
    Distillation,
    build_loss,
)
from rwp_dist.run.task import Classification
from rwp_dist.tracking.alerts import Divergence

B, K = 6, 5


def logits_and_targets():
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(B, K, generator=generator)
    labels = torch.randint(K, (B,), generator=generator)
    mixed = 0.7 * F.one_hot(labels, K) + 0.3 * F.one_hot(labels.roll(1), K)
    return logits, labels, mixed


def teacher(images):
    return images.flatten(1)[:, :K].float() / 20


def test_the_settings_name_every_loss_and_its_settings():
    assert NAMES.keys() == LOSSES.keys()
    for name, own in NAMES.items():
        assert set(own) <= set(LossSettings.model_fields)
        LOSSES[name](**{key: LossSettings.model_fields[key].default for key in own})


@pytest.mark.parametrize("threshold", [None, 0.0, 0.2, 0.5])
@pytest.mark.parametrize("sums", [False, True])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_bce_of_mixed_targets_is_timms(threshold, sums, smoothing):
    logits, _, mixed = logits_and_targets()
    mixed = mixed * (1 - smoothing) + smoothing / K
    theirs = TimmBinaryCrossEntropy(target_threshold=threshold, sum_classes=sums)
    found = BinaryCrossEntropy(threshold, sums)(logits, mixed)
    assert found.shape == (B,)
    torch.testing.assert_close(found.mean(), theirs(logits, mixed))


def test_bce_of_labels_is_that_of_their_classes():
    logits, labels, _ = logits_and_targets()
    loss = BinaryCrossEntropy(sum_classes=True)
    torch.testing.assert_close(
        loss(logits, labels), loss(logits, F.one_hot(labels, K).to(torch.float32))
    )
    theirs = TimmBinaryCrossEntropy(smoothing=0.0, sum_classes=True)
    torch.testing.assert_close(loss(logits, labels).mean(), theirs(logits, labels))


@pytest.mark.parametrize("temperature", [1.0, 3.0])
@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_distillation_is_hintons_formula(temperature, alpha):
    logits, labels, mixed = logits_and_targets()
    images = torch.randint(0, 256, (B, 1, 3, 3), generator=torch.Generator().manual_seed(1))
    p = (teacher(images).double() / temperature).softmax(1)
    log_q = (logits.double() / temperature).log_softmax(1)
    apart = (p * (p.log() - log_q)).sum(1)
    for targets in (labels, mixed):
        for base in (CrossEntropy(), BinaryCrossEntropy(0.2)):
            loss = Distillation(base, teacher, temperature, alpha)
            expected = (1 - alpha) * base(logits, targets) + alpha * temperature**2 * apart
            found = loss(logits, loss.targets(images, targets))
            torch.testing.assert_close(found, expected.float(), rtol=1e-5, atol=1e-6)


def test_a_student_like_its_teacher_is_at_no_distance_and_has_no_gradient():
    images = torch.arange(B * 9).reshape(B, 1, 3, 3)
    logits = teacher(images).requires_grad_()
    loss = Distillation(CrossEntropy(), teacher, 2.0, 1.0)
    each = loss(logits, loss.targets(images, torch.zeros(B, dtype=torch.long)))
    assert each.abs().max() < 1e-5
    (gradient,) = torch.autograd.grad(each.sum(), logits)
    assert gradient.abs().max() < 1e-5


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["loss.name=bce"],
        ["loss.name=bce", "loss.sum_classes=true", "loss.threshold=0.2"],
    ],
)
@pytest.mark.parametrize("num_classes", [2, 10, 1000])
def test_a_guess_has_the_loss_of_logits_that_are_all_0(overrides, num_classes):
    settings = load_settings(None, [*overrides, f"model.num_classes={num_classes}"])
    loss = build_loss(settings)
    found = loss(torch.zeros(1, num_classes), torch.tensor([1]))
    assert float(found) == pytest.approx(loss.guess(num_classes), rel=1e-5)


def test_a_guess_of_a_student_is_at_most_the_loss_against_a_sure_teacher():
    loss = Distillation(CrossEntropy(), lambda images: 1e3 * F.one_hot(images, 10).float(), 2, 0.3)
    targets = loss.targets(torch.tensor([3]), torch.tensor([3]))
    assert float(loss(torch.zeros(1, 10), targets)) == pytest.approx(loss.guess(10), rel=1e-5)


def test_a_run_diverges_far_above_the_guess_of_its_own_loss():
    def look(value, *overrides):
        settings = load_settings(None, ["model.num_classes=1000", *overrides])
        watch = Divergence(build_loss(settings).guess(1000), "sgd", step=0, skipped=0)
        return watch.look({"step": 1, "skipped_steps": 0, "loss": value}) is not None

    summed = ("loss.name=bce", "loss.sum_classes=true")
    assert not look(700.0, *summed) and look(7000.0, *summed)  # a new network: 693
    assert not look(0.7, "loss.name=bce") and look(7.0, "loss.name=bce")
    assert not look(60.0) and look(70.0)


@pytest.mark.parametrize("base", [CrossEntropy(), BinaryCrossEntropy(0.2, True)])
def test_padding_counts_nothing_whatever_its_logits(base):
    logits, _, mixed = logits_and_targets()
    task = Classification(base)
    weights = torch.ones(B)
    expected = task.loss(logits, mixed, weights)
    logits[2], weights[2] = float("inf"), 0.0
    found = task.loss(logits, mixed, weights)
    assert found[2] == 0
    assert torch.equal(found[[0, 1, 3, 4, 5]], expected[[0, 1, 3, 4, 5]])


def test_evaluation_has_the_negative_log_likelihood_whatever_is_trained():
    logits, labels, _ = logits_and_targets()
    expected = -F.log_softmax(logits, 1)[torch.arange(B), labels]
    for loss in (None, BinaryCrossEntropy(0.2, True), Distillation(CrossEntropy(), teacher, 2, 1)):
        found = Classification(loss).nll(logits, labels, torch.ones(B))
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("threshold", ["0.02", "0.9"])
def test_a_threshold_that_makes_all_targets_alike_is_refused(threshold):
    words = ["loss.name=bce", "augment.label_smoothing=0.2", "model.num_classes=4"]
    load_settings(None, [*words, "loss.threshold=0.05"])
    with pytest.raises(SettingsError, match=r"all of them become [01]; set it to 0.05 or more"):
        load_settings(None, [*words, f"loss.threshold={threshold}"])
