"""One run: a plain loop on one process."""

import copy
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, update_bn

from rwp_dist.perturb.reference import Tensors
from study.data import Images, Split
from study.variants import Batch, Rule, Update

AVERAGE_DECAY = 0.97
"""Of the average of the weights: over the last thirty updates."""

STATISTICS_IMAGES = 5000
"""Training images that give BatchNorm its statistics at the end."""


@dataclass(frozen=True)
class Trained:
    """What a run gave."""

    top1: float
    """Percent of the test images."""
    train_s: float
    """Seconds of its updates, without the scoring."""


def cosine(time: float) -> float:
    """Factor of the learning rate when a share of the run is over."""
    return (1 + math.cos(math.pi * time)) / 2


def train(
    rule: Rule,
    strength: float,
    model: nn.Module,
    optimizer: Optimizer,
    data: Split,
    *,
    seed: int,
    num_steps: int,
    batch_size: int = 50,
    schedule: Callable[[float], float] = cosine,
    average: bool = False,
) -> Trained:
    """Train a network, and score it or an average of its weights.

    BatchNorm's statistics are computed anew from the training images at the end, for every rule.
    """
    torch.set_num_threads(1)
    params = dict(model.named_parameters())
    averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(AVERAGE_DECAY))
    batches = shuffled(data.train, batch_size, torch.Generator().manual_seed(seed))
    noise = torch.Generator().manual_seed(seed + 1)
    peaks = [group["lr"] for group in optimizer.param_groups]
    memory: dict[str, object] = {}

    def gradient_at(weights: Tensors, batch: Batch) -> Tensors:
        clean = {name: p.data for name, p in params.items()}
        for name, p in params.items():
            p.data = torch.empty_like(p).copy_(weights[name])  # keeps its memory format
        loss = F.cross_entropy(model(batch[0]), batch[1])
        gradients = torch.autograd.grad(loss, list(params.values()))
        for name, p in params.items():
            p.data = clean[name]
        return dict(zip(params, gradients, strict=True))

    def unit_of_all() -> Tensors:
        return {name: torch.randn(p.shape, generator=noise) for name, p in params.items()}

    def unit() -> Tensors:
        return {n: e if e.ndim > 1 else torch.zeros_like(e) for n, e in unit_of_all().items()}

    begin = time.perf_counter()
    for step in range(num_steps):
        for group, peak in zip(optimizer.param_groups, peaks, strict=True):
            group["lr"] = peak * schedule(step / num_steps)
        update = Update(
            at=gradient_at,
            weights={name: p.detach() for name, p in params.items()},
            batch=next(batches),
            other=lambda: next(batches),
            strength=strength,
            time=step / num_steps,
            unit=unit,
            unit_of_all=unit_of_all,
            momentum={
                name: optimizer.state[p][key]
                for name, p in params.items()
                for key in ("momentum_buffer", "exp_avg")  # of SGD, and of AdamW
                if key in optimizer.state[p]
            },
            memory=memory,
        )
        gradients = rule(update)
        for name, p in params.items():
            p.grad = gradients[name]
        optimizer.step()
        if average:
            averaged.update_parameters(model)
    train_s = time.perf_counter() - begin
    return Trained(top1(averaged.module if average else model, data), train_s)


def shuffled(images: Images, batch_size: int, generator: torch.Generator) -> Iterator[Batch]:
    """Full batches of one epoch after another, each in a new order."""
    for _ in count():
        order = torch.randperm(len(images.y), generator=generator)
        for rows in order.split(batch_size):
            if len(rows) == batch_size:
                yield images.x[rows], images.y[rows]


@torch.no_grad()
def top1(model: nn.Module, data: Split) -> float:
    """Percent of the test images, with BatchNorm's statistics of the training images."""
    model = copy.deepcopy(model)
    update_bn(data.train.x[:STATISTICS_IMAGES].split(100), model)
    model.eval()
    hits: list[Tensor] = [
        model(x).argmax(1) == y
        for x, y in zip(data.test.x.split(500), data.test.y.split(500), strict=True)
    ]
    return 100 * float(torch.cat(hits).float().mean())
