"""Mixup, CutMix and label smoothing of a batch, on its device.

As in torchvision v2, Mixup (Zhang et al., 2018) and CutMix (Yun et al., 2019) mix every row with
the one before it, in one ratio for the whole batch. The draws depend on a key alone and are made
on the host, so it never waits for the device.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from rwp_dist.base.keyed import Keyed


class Mixer:
    """Mixes batches. With both alphas above 0, each batch draws one of the two, evenly.

    Args:
        mixup_alpha: of Mixup's Beta(alpha, alpha); 0 turns it off.
        cutmix_alpha: the same of CutMix.
        num_classes: width of the targets.
        label_smoothing: share of a target that is spread evenly over all classes.
    """

    def __init__(
        self,
        mixup_alpha: float,
        cutmix_alpha: float,
        num_classes: int,
        label_smoothing: float = 0.0,
    ) -> None:
        self.mixup_alpha = mixup_alpha
        self.cutmix_alpha = cutmix_alpha
        self.num_classes = num_classes
        self.label_smoothing = label_smoothing

    def __call__(
        self,
        images: Tensor,
        labels: Tensor,
        key: tuple[int, int, int],
        weights: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Mixed images ``[B, C, H, W]``, their targets and their labels.

        Targets and labels are shares of classes, ``[B, num_classes]``, float32. Labels are not
        smoothed: a right answer is worth the share of its class.

        ``key`` is (seed, step, slot). Rows of weight 0 are padding; no other row gets a part of
        them. The input is not changed. If an alpha is above 0, uint8 images come back as float32 in
        0..255; floats keep their type.
        """
        shares = targets = F.one_hot(labels, self.num_classes).to(torch.float32)
        if self.label_smoothing:
            spread = self.label_smoothing / self.num_classes
            targets = shares * (1.0 - self.label_smoothing) + spread
        if not self.mixup_alpha and not self.cutmix_alpha:
            return images, targets, shares
        if not images.is_floating_point():
            images = images.to(torch.float32)
        draw = Keyed(*key, purpose=b"mix")
        cut = (
            draw.uniform() < 0.5 if self.mixup_alpha and self.cutmix_alpha else not self.mixup_alpha
        )
        alpha = self.cutmix_alpha if cut else self.mixup_alpha
        ratio = draw.beta(alpha, alpha)
        partner = _previous_good(weights, len(images), images.device)
        if cut:
            images, ratio = _cutmix(images, partner, ratio, draw)
        else:
            images = images[partner].mul_(1.0 - ratio).add_(images, alpha=ratio)
        mixed = shares[partner].mul_(1.0 - ratio).add_(shares, alpha=ratio)
        if targets is shares:
            return images, mixed, mixed
        return images, targets[partner].mul_(1.0 - ratio).add_(targets, alpha=ratio), mixed


def _cutmix(images: Tensor, partner: Tensor, ratio: float, draw: Keyed) -> tuple[Tensor, float]:
    """Images with a box of their partners, and the share of the area that is still their own."""
    height, width = images.shape[-2:]
    x, y = draw.integers(width), draw.integers(height)
    half = 0.5 * math.sqrt(1.0 - ratio)
    half_width, half_height = int(half * width), int(half * height)
    left, right = max(x - half_width, 0), min(x + half_width, width)
    top, bottom = max(y - half_height, 0), min(y + half_height, height)
    mixed = images.clone()
    mixed[..., top:bottom, left:right] = images[..., top:bottom, left:right][partner]
    return mixed, 1.0 - (right - left) * (bottom - top) / (width * height)


def _previous_good(weights: Tensor | None, batch: int, device: torch.device) -> Tensor:
    """``[B]``: the nearest row before each row, going round, whose weight is not 0.

    If there is none, it is the row itself. No value leaves the device.
    """
    rows = torch.arange(batch, device=device)
    if weights is None:
        return rows.roll(1)
    good = torch.where(weights > 0, rows, -1)
    before = good.cummax(0).values.roll(1)
    # Rolling has put the last good row of all in front: rows before the first good one take it.
    nearest = torch.where(before < 0, before[0], before)
    return torch.where(nearest < 0, rows, nearest)
