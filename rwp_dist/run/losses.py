"""What training minimises: losses by name, and distillation on top of any of them.

Evaluation has its own loss, the negative log-likelihood (``task.py``).
"""

import math
from collections.abc import Callable
from typing import Any, Protocol

from torch import Tensor
from torch.nn import functional as F

from rwp_dist.config import Settings
from rwp_dist.config.tree import LOSSES as OWN_SETTINGS

Teacher = Callable[[Tensor], Tensor]
"""From mixed images, as ``Loss.targets`` has them, to logits ``[B, num_classes]`` in fp32."""


class Loss(Protocol):
    """The loss of every sample, and what it is a loss against."""

    def targets(self, images: Tensor, targets: Tensor) -> Any:
        """What ``__call__`` compares logits with; asked once for all passes of a slot.

        Args:
            images: mixed, ``[B, C, H, W]``, uint8 or floats in 0..255.
            targets: labels ``[B]``, or shares of classes ``[B, num_classes]``.
        """

    def __call__(self, logits: Tensor, targets: Any) -> Tensor:
        """``[B]`` from logits ``[B, num_classes]``."""

    def guess(self, num_classes: int) -> float:
        """The loss of a network that knows nothing, whose logits are all 0: at most so much."""


class CrossEntropy:
    """``-sum_k target_k log p_k`` with ``p`` the softmax of the logits."""

    def targets(self, images: Tensor, targets: Tensor) -> Tensor:
        return targets

    def guess(self, num_classes: int) -> float:
        return math.log(num_classes)

    def __call__(self, logits: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(logits, targets, reduction="none")


class BinaryCrossEntropy:
    """The mean, or the sum, over the classes of a binary cross-entropy of each class's own logit.

    With a threshold, classes whose target is above it are all present, and the others absent: of
    two mixed images both, if each has a large enough share. As in Wightman et al., "ResNet strikes
    back", 2021 (arXiv 2110.00476), and in timm's ``BinaryCrossEntropy``.
    """

    def __init__(self, threshold: float | None = None, sum_classes: bool = False) -> None:
        """``threshold``: None leaves targets as they are. ``sum_classes``: not the mean."""
        self._threshold, self._sums = threshold, sum_classes

    def targets(self, images: Tensor, targets: Tensor) -> Tensor:
        return targets

    def guess(self, num_classes: int) -> float:
        return math.log(2) * (num_classes if self._sums else 1)

    def __call__(self, logits: Tensor, targets: Tensor) -> Tensor:
        if targets.ndim == 1:
            targets = F.one_hot(targets, logits.shape[1]).to(logits.dtype)
        if self._threshold is not None:
            targets = (targets > self._threshold).to(logits.dtype)
        each = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
        return each.sum(1) if self._sums else each.mean(1)


class Distillation:
    """``(1 - alpha) loss + alpha T^2 KL(teacher || student)`` of logits that are divided by T.

    ``T^2`` keeps the size of the second gradient when T changes (Hinton, Vinyals and Dean,
    "Distilling the knowledge in a neural network", 2015, arXiv 1503.02531).
    """

    def __init__(
        self, loss: Loss, teacher: Teacher | None, temperature: float, alpha: float
    ) -> None:
        """``teacher``: from mixed images to logits. None: only to ask what a guess costs."""
        self._loss, self._teacher = loss, teacher
        self._temperature, self._alpha = temperature, alpha

    def targets(self, images: Tensor, targets: Tensor) -> tuple[Any, Tensor]:
        assert self._teacher is not None, "a run that trains has one"
        soft = F.log_softmax(self._teacher(images) / self._temperature, 1)
        return self._loss.targets(images, targets), soft

    def guess(self, num_classes: int) -> float:
        of_teacher = self._temperature**2 * math.log(num_classes)  # of one that is sure
        return (1.0 - self._alpha) * self._loss.guess(num_classes) + self._alpha * of_teacher

    def __call__(self, logits: Tensor, targets: tuple[Any, Tensor]) -> Tensor:
        hard, soft = targets
        own = F.log_softmax(logits / self._temperature, 1)
        apart = F.kl_div(own, soft, reduction="none", log_target=True).sum(1)
        of_teacher = self._alpha * self._temperature**2 * apart
        return (1.0 - self._alpha) * self._loss(logits, hard) + of_teacher


LOSSES: dict[str, Callable[..., Loss]] = {
    "cross_entropy": CrossEntropy,
    "bce": BinaryCrossEntropy,
}
"""Every loss by its ``loss.name``; called with its settings (``config.tree.LOSSES``)."""


def build_loss(settings: Settings, teacher: Teacher | None = None) -> Loss:
    """The settings' loss; ``teacher``: what it distils from, if that is not only asked for."""
    s = settings.loss
    loss = LOSSES[s.name](**{key: getattr(s, key) for key in OWN_SETTINGS[s.name]})
    return loss if s.teacher is None else Distillation(loss, teacher, s.temperature, s.alpha)
