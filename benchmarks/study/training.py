"""One run of a variant: a plain loop on one process."""

import copy
import math
from collections.abc import Iterator
from itertools import count

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, update_bn

from rwp_dist.perturb.reference import Tensors
from study.data import Images, Split
from study.networks import build
from study.variants import Batch, Update, Variant

BATCH = 64
AVERAGE_DECAY = 0.97
"""Of the average of the weights: over the last thirty updates."""


def train(
    variant: Variant, strength: float, network: str, data: Split, seed: int, num_steps: int
) -> float:
    """Top-1 in percent after ``num_steps`` updates, in multiples that the variant says.

    The learning rate falls along a cosine. BatchNorm's statistics are computed anew from the
    training images at the end, for every variant.
    """
    torch.set_num_threads(1)
    model, optimizer = build(network, seed)
    params = dict(model.named_parameters())
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(AVERAGE_DECAY))
    batches = shuffled(data.train, torch.Generator().manual_seed(seed))
    noise = torch.Generator().manual_seed(seed + 1)
    peaks = [group["lr"] for group in optimizer.param_groups]
    num_steps = round(num_steps * variant.steps)
    memory: dict[str, object] = {}

    def gradient_at(weights: Tensors, batch: Batch) -> Tensors:
        clean = {name: p.data for name, p in params.items()}
        for name, p in params.items():
            p.data = weights[name]
        loss = F.cross_entropy(model(batch[0]), batch[1])
        gradients = torch.autograd.grad(loss, list(params.values()))
        for name, p in params.items():
            p.data = clean[name]
        return dict(zip(params, gradients, strict=True))

    def unit() -> Tensors:
        return {name: torch.randn(p.shape, generator=noise) for name, p in params.items()}

    for step in range(num_steps):
        for group, peak in zip(optimizer.param_groups, peaks, strict=True):
            group["lr"] = peak * (1 + math.cos(math.pi * step / num_steps)) / 2
        update = Update(
            at=gradient_at,
            weights={name: p.detach() for name, p in params.items()},
            batch=next(batches),
            other=lambda: next(batches),
            strength=strength,
            time=step / num_steps,
            unit=unit,
            momentum={
                name: optimizer.state[p]["momentum_buffer"]
                for name, p in params.items()
                if "momentum_buffer" in optimizer.state[p]
            },
            memory=memory,
        )
        gradients = variant.rule(update)
        for name, p in params.items():
            p.grad = gradients[name]
        optimizer.step()
        if variant.average:
            average.update_parameters(model)
    return top1(average.module if variant.average else model, data)


def shuffled(images: Images, generator: torch.Generator) -> Iterator[Batch]:
    """Full batches of one epoch after another, each in a new order."""
    for _ in count():
        order = torch.randperm(len(images.y), generator=generator)
        for rows in order.split(BATCH):
            if len(rows) == BATCH:
                yield images.x[rows], images.y[rows]


@torch.no_grad()
def top1(model: nn.Module, data: Split) -> float:
    """Percent of the test images, with BatchNorm's statistics of the training images."""
    model = copy.deepcopy(model)
    update_bn(data.train.x.split(100), model)
    model.eval()
    hits: list[Tensor] = [
        model(x).argmax(1) == y
        for x, y in zip(data.test.x.split(500), data.test.y.split(500), strict=True)
    ]
    return 100 * float(torch.cat(hits).float().mean())
