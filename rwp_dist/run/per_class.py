"""What a network answers for each class: accuracy of the classes, and which are confused."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor


class Confusion:
    """Counts answers by right class and answer, on the device; the host does not wait."""

    def __init__(self, num_classes: int, device: torch.device) -> None:
        self._num = num_classes
        self._counts = torch.zeros(num_classes**2, dtype=torch.int64, device=device)

    def add(self, logits: Tensor, labels: Tensor, weights: Tensor) -> None:
        """Count a batch.

        Args:
            logits: ``[B, num_classes]``.
            labels: ``[B]``, or masks ``[B, num_classes]`` of several right classes.
            weights: ``[B]``, 0 for samples that do not count.
        """
        places = one_label(logits, labels) * self._num + logits.argmax(1)
        self._counts.index_add_(0, places, (weights > 0).long())

    def counts(self) -> NDArray[np.int64]:
        """``[num_classes, num_classes]`` over all ranks: rows are right classes. A collective."""
        dist.all_reduce(self._counts)
        return self._counts.view(self._num, self._num).cpu().numpy()


def one_label(logits: Tensor, labels: Tensor) -> Tensor:
    """Labels ``[B]``; of several right classes (masks ``[B, C]``), the most probable."""
    return labels if labels.ndim == 1 else logits.masked_fill(~labels, -torch.inf).argmax(1)


@dataclass(frozen=True)
class PerClass:
    """Answers of a network by class."""

    names: Sequence[str]
    """Of the classes."""
    counts: NDArray[np.int64]
    """``[C, C]``: images of a class (row) for which the network answered another (column)."""

    @property
    def num_images(self) -> NDArray[np.int64]:
        """Of each class."""
        return self.counts.sum(1)

    @property
    def top1(self) -> list[float | None]:
        """Accuracy of each class in percent; None: it has no images."""
        hits, images = self.counts.diagonal().tolist(), self.num_images.tolist()
        return [100 * hit / num if num else None for hit, num in zip(hits, images, strict=True)]

    def worst(self, most: int) -> list[int]:
        """Classes with the lowest accuracy, the lowest first; at most so many."""
        known = [(top1, number) for number, top1 in enumerate(self.top1) if top1 is not None]
        return [number for _, number in sorted(known)[:most]]

    def confused(self) -> list[tuple[int, int, int]]:
        """Right class, wrong answer and number of images, the most frequent ones first."""
        wrong = self.counts.copy()
        np.fill_diagonal(wrong, 0)
        rows, columns = np.nonzero(wrong)
        order = np.argsort(-wrong[rows, columns], kind="stable")
        found = (rows[order], columns[order], wrong[rows, columns][order])
        return list(zip(*(values.tolist() for values in found), strict=True))


def class_names(names: Sequence[str] | None, num_classes: int) -> list[str]:
    """Names of a network's outputs: numbers where the data say none."""
    known = list(names or ())[:num_classes]
    return known + [str(number) for number in range(len(known), num_classes)]
