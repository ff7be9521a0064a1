"""Loss, top-1 and top-5 at the clean weights, every sample counted once."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F

from rwp_dist.data.batch import BadRecord, Batch, Step
from rwp_dist.perturb.statistics import recalibrating, tracking_layers
from rwp_dist.process.group import gathered, same_on_all_ranks


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
    logits_of: Callable[[Tensor], Tensor], steps: Iterable[Step], device: torch.device
) -> tuple[dict[str, float], list[BadRecord]]:
    """Mean loss, top-1 and top-5 (percent) over all ranks' samples that could be read.

    Args:
        logits_of: uint8 images ``[B, C, H, W]`` on the device to logits ``[B, num_classes]``.
        steps: this rank's share, one batch each; all ranks have the same number.
        device: where to compute.

    Returns:
        ``loss``, ``top1``, ``top5``, ``num_samples`` that they are means of, ``bad_samples`` that
        could not be read; and which these are, by rank.

    Raises:
        RwpError: a rank cannot have a shard; on all ranks.
    """
    sums = torch.zeros(5, dtype=torch.float64, device=device)
    bad: list[BadRecord] = []
    with same_on_all_ranks():
        for step in steps:
            sums[:4] += _sums(logits_of, step.batches[0].to(device))
            bad += step.bad
    sums[4] = len(bad)
    dist.all_reduce(sums)
    loss_sum, top1, top5, count, num_bad = sums.tolist()
    bad = [record for records in gathered(bad) for record in records] if num_bad else []
    result = {
        "loss": loss_sum / max(count, 1.0),
        "top1": 100.0 * top1 / max(count, 1.0),
        "top5": 100.0 * top5 / max(count, 1.0),
        "num_samples": int(count),
        "bad_samples": int(num_bad),
    }
    return result, bad


def _sums(logits_of: Callable[[Tensor], Tensor], batch: Batch) -> Tensor:
    """Of a batch's loss, top-1, top-5 and samples: float64 ``[4]``."""
    logits = logits_of(batch.images)
    loss = F.cross_entropy(logits, batch.labels, reduction="none")
    best = logits.topk(min(5, logits.shape[1]), dim=1).indices == batch.labels[:, None]
    each = torch.stack([loss, best[:, 0], best.any(1), torch.ones_like(loss)])
    # where, not a product: padded samples must not count even if their loss is not finite.
    return torch.where(batch.weights > 0, each, 0.0).double().sum(1)


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
