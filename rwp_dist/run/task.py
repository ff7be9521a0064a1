"""What a network is trained for: its loss and its metrics, in training and in evaluation."""

import torch
from torch import Tensor
from torch.nn import functional as F


class Classification:
    """Image classification: cross-entropy, top-1 and top-5."""

    headline = "top1"
    """The metric that log lines and tables show."""

    metrics = ("top1", "top5")

    def loss(self, logits: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
        """Loss of every sample, ``[B]``; 0 where its weight is 0.

        Args:
            logits: ``[B, num_classes]``.
            targets: labels ``[B]``, or shares of classes ``[B, num_classes]``.
            weights: ``[B]``, 0 for samples that do not count.
        """
        each = F.cross_entropy(logits, targets, reduction="none")
        # where, not a product: the loss of padding may be infinite.
        return torch.where(weights > 0, each * weights, 0.0)

    def hits(self, logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
        """1 for each sample that counts and metric that it meets, ``[len(metrics), B]``."""
        best = logits.topk(min(5, logits.shape[1]), dim=1).indices == labels[:, None]
        return torch.stack([best[:, 0], best.any(1)]) * (weights > 0)
