"""What a network is trained for: its loss and its metrics, in training and in evaluation."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from rwp_dist.run.losses import CrossEntropy, Loss

NUM_BINS = 15
"""Bins of confidence for the calibration error, of equal width: ``((b - 1) / 15, b / 15]``."""


class Classification:
    """Image classification: its losses, top-1, top-5 and how well calibrated they are."""

    headline = "top1"
    """The metric that log lines and tables show."""

    metrics = ("top1", "top5")

    def __init__(self, loss: Loss | None = None) -> None:
        """``loss``: what training minimises; None: the cross-entropy."""
        self._loss = loss or CrossEntropy()

    def targets(self, images: Tensor, targets: Tensor) -> Any:
        """What ``loss`` compares logits with (``Loss.targets``)."""
        return self._loss.targets(images, targets)

    def loss(self, logits: Tensor, targets: Any, weights: Tensor) -> Tensor:
        """Training's loss of every sample, ``[B]``; 0 where its weight is 0.

        Args:
            logits: ``[B, num_classes]``.
            targets: of ``targets``; labels ``[B]`` and shares of classes ``[B, num_classes]`` do
                where there is no teacher.
            weights: ``[B]``, 0 for samples that do not count.
        """
        return _weighted(self._loss(logits, targets), weights)

    def nll(self, logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
        """Evaluation's loss of every sample, ``[B]``, whatever training minimises.

        The negative log-likelihood (NLL) ``-log p_label`` (Guo et al., ICML 2017,
        arXiv 1706.04599); 0 where the weight is 0.
        """
        return _weighted(CrossEntropy()(logits, labels), weights)

    def hits(self, logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
        """How far each sample that counts meets each metric, 0 to 1: ``[len(metrics), B]``.

        Of a mixed image, a predicted class counts as much as it has a share in the image.

        Args:
            logits: ``[B, num_classes]``.
            labels: labels ``[B]``, or shares of classes ``[B, num_classes]``.
            weights: ``[B]``, 0 for samples that do not count.
        """
        best = logits.topk(min(5, logits.shape[1]), dim=1).indices
        met = best == labels[:, None] if labels.ndim == 1 else labels.gather(1, best)
        return torch.stack([met[:, 0], met.sum(1)]) * (weights > 0)

    def calibration(self, logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
        """Sums of confidence, and numbers of hits, by bin of confidence: ``[2, NUM_BINS]``.

        A sample's confidence is the probability of its most probable class. Sums of batches and of
        ranks may be added up; ``calibration_error`` takes them.
        """
        confidence, best = logits.double().softmax(1).max(1)
        confidence = torch.where(weights > 0, confidence, 0.0)  # that of padding may be nan
        bins = (confidence * NUM_BINS).ceil().long().clamp(1, NUM_BINS) - 1
        inside = F.one_hot(bins, NUM_BINS) * (weights > 0)[:, None]  # [B, NUM_BINS]
        return torch.stack([confidence, (best == labels).double()]) @ inside.double()


def _weighted(each: Tensor, weights: Tensor) -> Tensor:
    # where, not a product: the loss of padding may be infinite.
    return torch.where(weights > 0, each * weights, 0.0)


def calibration_error(sums: Tensor, num_samples: float) -> float:
    """Expected calibration error (ECE) in percent, from sums of ``Classification.calibration``.

    ``sum_b n_b / n |hits_b / n_b - mean confidence_b|`` over the bins b of equal width
    (Guo et al., ICML 2017, arXiv 1706.04599).
    """
    confidence, hits = sums
    return 100.0 * float((hits - confidence).abs().sum()) / max(num_samples, 1.0)
