"""What counts as right, and how well calibrated a network is."""

import pytest
import torch
from torch.nn import functional as F

from rwp_dist.run.task import NUM_BINS, Classification, calibration_error

TASK = Classification()


def predicting(*classes, num_classes=7):
    """Logits whose order begins with these classes, one row each."""
    return torch.stack(
        [torch.linspace(1, 0, num_classes).roll(best) for best in classes]
    )  # best, best + 1, ...


def test_a_label_among_the_first_one_or_five_is_a_hit_and_padding_is_none():
    logits, labels = predicting(0, 0, 0, 3), torch.tensor([0, 4, 5, 3])
    hits = TASK.hits(logits, labels, torch.tensor([1.0, 1, 1, 0]))
    assert hits.tolist() == [[1, 0, 0, 0], [1, 1, 0, 0]]


def test_a_class_of_a_mixed_image_counts_as_its_share():
    shares = torch.zeros(5, 7)
    shares[:, 2], shares[:, 6] = 0.75, 0.25
    hits = TASK.hits(predicting(2, 6, 0, 3, 2), shares, torch.tensor([1.0, 1, 1, 1, 0]))
    assert hits[0].tolist() == [0.75, 0.25, 0, 0, 0]
    assert hits[1].tolist() == [1, 1, 0.75, 0.25, 0]  # 2-6, 6-3, 0-4, 3-0, padding


def logits_of(confidences, best):
    """Logits of three classes; ``best`` has the given probability, the others share the rest."""
    values = torch.tensor(confidences, dtype=torch.float64)
    probabilities = (1 - values)[:, None].repeat(1, 3) / 2
    probabilities[torch.arange(len(best)), best] = values
    return probabilities.log()


def ece(confidences, hits):
    count = len(hits)
    labels = torch.tensor([0 if hit else 1 for hit in hits])
    sums = TASK.calibration(logits_of(confidences, [0] * count), labels, torch.ones(count))
    return calibration_error(sums, count)


def test_the_calibration_error_is_that_computed_by_hand():
    # Bins of 15: 0.51 and 0.53 in (7/15, 8/15], 0.9 in (13/15, 14/15], 0.95 in (14/15, 1].
    by_hand = (abs(1 - (0.51 + 0.53)) + abs(0 - 0.9) + abs(1 - 0.95)) / 4
    assert ece([0.51, 0.53, 0.9, 0.95], [1, 0, 0, 1]) == pytest.approx(100 * by_hand)


def test_a_network_that_is_as_often_right_as_it_believes_has_none():
    assert ece([0.75] * 4 + [0.6] * 5, [1, 1, 1, 0, 1, 1, 1, 0, 0]) == pytest.approx(0, abs=1e-10)
    assert ece([0.75] * 4, [1, 1, 1, 1]) == pytest.approx(25)


def test_the_upper_edge_of_a_bin_belongs_to_it():
    logits = torch.tensor([[200.0, 0.0, 0.0], [0.0, 0.0, 0.0]])  # 1 and 5/15
    confidence, hits = TASK.calibration(logits, torch.tensor([0, 1]), torch.ones(2))
    assert confidence.nonzero().flatten().tolist() == [4, NUM_BINS - 1]
    assert hits.nonzero().flatten().tolist() == [NUM_BINS - 1]


def test_sums_of_parts_are_those_of_the_whole_and_padding_does_not_count():
    torch.manual_seed(0)
    logits, labels, weights = torch.randn(40, 3), torch.randint(3, (40,)), torch.ones(40)
    whole = TASK.calibration(logits, labels, weights)
    parts = [TASK.calibration(logits[i::3], labels[i::3], weights[i::3]) for i in range(3)]
    torch.testing.assert_close(sum(parts), whole, atol=1e-12, rtol=0)
    logits[30:], weights[30:] = float("nan"), 0
    padded = TASK.calibration(logits, labels, weights)
    assert torch.equal(padded, TASK.calibration(logits[:30], labels[:30], weights[:30]))


def test_the_loss_of_a_label_is_its_negative_log_likelihood():
    logits, labels = torch.randn(5, 3), torch.tensor([0, 1, 2, 0, 1])
    nll = -F.log_softmax(logits, 1)[torch.arange(5), labels]
    torch.testing.assert_close(TASK.loss(logits, labels, torch.ones(5)), nll)
