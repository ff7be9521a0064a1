"""Loss, top-1 and top-5 at the clean weights, every sample counted once."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F

from rwp_dist.data.batch import Batch
from rwp_dist.perturb.batchnorm import recalibrating, tracking_layers


@contextmanager
def evaluating_mode(model: nn.Module) -> Iterator[None]:
    """The model in evaluation mode, without gradients; back to training afterwards."""
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train()


def evaluate(
    logits_of: Callable[[Tensor], Tensor], batches: Iterable[Batch], device: torch.device
) -> dict[str, float]:
    """Mean loss, top-1 and top-5 (percent) over all ranks' batches, each sample by its weight.

    Args:
        logits_of: uint8 images ``[B, C, H, W]`` on the device to logits ``[B, num_classes]``.
        batches: this rank's share; all ranks have the same number.
        device: where to compute.
    """
    sums = torch.zeros(4, dtype=torch.float64, device=device)
    for batch in batches:
        batch = batch.to(device)
        logits = logits_of(batch.images)
        loss = F.cross_entropy(logits, batch.labels, reduction="none")
        best = logits.topk(min(5, logits.shape[1]), dim=1).indices == batch.labels[:, None]
        each = torch.stack([loss, best[:, 0], best.any(1), torch.ones_like(loss)])
        # where, not a product: padded samples must not count even if their loss is not finite.
        sums += torch.where(batch.weights > 0, each, 0.0).double().sum(1)
    dist.all_reduce(sums)
    loss_sum, top1, top5, count = sums.tolist()
    count = max(count, 1.0)
    return {
        "loss": loss_sum / count,
        "top1": 100.0 * top1 / count,
        "top5": 100.0 * top5 / count,
        "num_samples": int(count),
    }


def recalibrate(
    model: nn.Module, logits_of: Callable[[Tensor], Tensor], images: Iterable[Tensor]
) -> None:
    """Renew BatchNorm's running statistics at the present weights from uint8 image batches.

    For methods whose passes are all perturbed: they are evaluated at ``w``, not at ``w + noise``.
    """
    layers = tracking_layers(model)
    if not layers:
        return
    with torch.no_grad(), recalibrating(layers):
        for batch in images:
            logits_of(batch)
