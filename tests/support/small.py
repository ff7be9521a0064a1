"""A network, samples and settings so small that a step takes milliseconds."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from rwp_dist.config import Settings, load_settings, split_batch
from rwp_dist.data.batch import Batch, Step
from rwp_dist.data.plan import Plan, evaluation_rows
from rwp_dist.data.selection import Everything
from rwp_dist.process.consensus import Agreed, Consensus
from rwp_dist.run.build import Parts, build_parts
from rwp_dist.run.progress import Progress
from rwp_dist.train import train_step

NUM_CLASSES, SIZE = 3, 6
GLOBAL_BATCH = 12  # shared equally by 1, 2 and 3 ranks with 1 or 2 micro-batches each


@dataclass(frozen=True)
class Samples:
    """Images in memory: uint8 ``[N, C, H, W]`` and labels ``[N]``."""

    images: Tensor
    labels: Tensor


class MemoryTrain:
    """Training steps by the production plan, from images in memory."""

    def __init__(self, samples: Samples, plan: Plan, rank: int, micro_batches: int, size: int):
        self.samples, self.plan, self.size = samples, plan, size
        self.start = rank * micro_batches * size
        self.stop = self.start + micro_batches * size
        self.steps_per_epoch = plan.steps_per_epoch

    def steps(self, first: int, last: int) -> Iterator[Step]:
        for step in range(first, last):
            epoch, index = divmod(step, self.steps_per_epoch)
            rows = self.plan.step(epoch, index, self.start, self.stop)
            yield memory_step(self.samples, rows.rows, rows.weights, self.size)

    def state(self) -> dict[str, object]:
        return {"samples": len(self.samples.labels)}


class MemoryEval:
    """Every sample once over all ranks, from images in memory."""

    def __init__(self, samples: Samples, batch: int, rank: int, world_size: int):
        self.samples, self.share = samples, (batch, rank, world_size)

    def steps(self) -> Iterator[Step]:
        for rows, weights in evaluation_rows(len(self.samples.labels), *self.share):
            yield memory_step(self.samples, rows, weights, len(rows))


def memory_step(samples: Samples, rows: Any, weights: Any, size: int) -> Step:
    parts = zip(
        samples.images[rows].split(size),
        samples.labels[rows].split(size),
        torch.from_numpy(weights).split(size),
        strict=True,
    )
    batches = [Batch(*part) for part in parts]
    return Step(batches, [int(batch.weights.sum()) for batch in batches])


class SmallNet(nn.Module):
    """Parameters of four, two and one dimensions, with and without normalisation.

    Smooth activations, so that rounding cannot flip a rectifier; no bias before BatchNorm, whose
    gradient would be rounding only.
    """

    def __init__(self, num_classes: int = NUM_CLASSES) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 4, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(4)
        self.conv2 = nn.Conv2d(4, 5, 3, stride=2, bias=False)
        self.bn2 = nn.BatchNorm2d(5)
        self.linear1 = nn.Linear(20, 6)
        self.linear2 = nn.Linear(6, num_classes)

    def checkpointed_blocks(self) -> list[nn.Module]:
        """What ``model.checkpointing`` computes again."""
        return [self.bn1, self.conv2, self.bn2, self.linear1]

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``[B, num_classes]`` of images ``[B, 1, 6, 6]``."""
        x = torch.tanh(self.bn1(self.conv1(images)))
        x = torch.tanh(self.bn2(self.conv2(x))).flatten(1)
        return self.linear2(torch.tanh(self.linear1(x)))


def small_net(seed: int = 0) -> SmallNet:
    """The same weights for the same seed, BatchNorm's scale and shift included."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = SmallNet()
        for module in net.modules():
            if isinstance(module, nn.modules.batchnorm._NormBase):
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.uniform_(module.bias, -0.5, 0.5)
        return net


def small_samples(count: int = 5 * GLOBAL_BATCH, seed: int = 0) -> Samples:
    """Noise with a class-dependent bright row: something to learn, nothing to finish learning."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(NUM_CLASSES, (count,), generator=generator)
    images = torch.randint(0, 200, (count, 1, SIZE, SIZE), generator=generator, dtype=torch.uint8)
    images[torch.arange(count), 0, labels] += 55
    return Samples(images, labels)


def small_settings(*overrides: str, steps: int = 10) -> Settings:
    """Settings for ``SmallNet`` with noise, ascent and adaptation strong enough to matter.

    Noise is the authors': on all parameters, in proportion to the norm of a row.
    """
    return load_settings(
        None,
        [
            f"data.image_size={SIZE}",
            "data.mean=[0.4]",
            "data.std=[0.3]",
            f"model.num_classes={NUM_CLASSES}",
            f"batch.global={GLOBAL_BATCH}",
            "method.sigma=0.05",
            "method.scale=filter",
            "method.exclude=[]",
            "method.sigma_schedule=auto",
            "method.sigma_increase=2",
            "method.rho=0.3",
            "method.eta=20",
            "method.beta=0.7",
            "optimizer.lr=0.1",
            f"schedule.steps={steps}",
            "run.device=cpu",
            "run.seed=3",
            "tracking.wandb=off",
            *overrides,
        ],
    )


ENGINES = (
    "engine.name=ddp",
    "engine.name=deepspeed",
    *map("deepspeed.zero_stage={}".format, (1, 2)),
)
"""Every engine and stage that gives a rank whole weights."""


def split_over(world_size: int, micro_batches: int) -> str:
    """The override that gives every rank so many micro-batches."""
    return f"batch.per_rank={GLOBAL_BATCH // (world_size * micro_batches)}"


@contextmanager
def small_parts(
    settings: Settings, net: nn.Module | None = None, samples: Samples | None = None
) -> Iterator[Parts]:
    """``build_parts`` as in production, with a network and samples that are in memory already."""
    net = small_net() if net is None else net
    samples = small_samples() if samples is None else samples
    rank, world_size = dist.get_rank(), dist.get_world_size()
    split = split_batch(settings, world_size)
    plan = memory_plan(settings, samples)
    train = MemoryTrain(samples, plan, rank, split.micro_batches, split.size)
    val = MemoryEval(samples, settings.batch.per_rank, rank, world_size)
    with patch("rwp_dist.run.build.build_model", lambda settings, device: net.to(device)):
        parts = build_parts(settings, (train, val))
    try:
        yield parts
    finally:
        parts.close()


def run_steps(
    parts: Parts, first: int, stop: int, progress: Progress | None = None
) -> Iterator[int]:
    """Steps ``first`` to ``stop - 1`` of training; yields each step's number after it."""
    progress = progress or Progress(parts)
    data = parts.train.steps(first, stop)
    consensus = Consensus()
    try:
        for step in range(first, stop):
            batch = next(data)
            agreed = agree(parts, batch, consensus)
            train_step(parts, step, batch, agreed, progress)
            progress.step_done(batch, agreed)
            yield step
    finally:
        consensus.close()


def agree(parts: Parts, step: Step, consensus: Consensus) -> Agreed:
    """What all ranks have for a step. A collective."""
    roles = list(zip(parts.perturbed.my_slots, step.valid, strict=True))
    clean = sum(valid for slot, valid in roles if not slot.perturbed)
    perturbed = sum(valid for slot, valid in roles if slot.perturbed)
    consensus.post(clean=clean, perturbed=perturbed, bad=len(step.bad), stop=False)
    return consensus.take()


def run_all(parts: Parts, first: int = 0, stop: int | None = None) -> None:
    """All steps of training, or those in between."""
    for _ in run_steps(parts, first, parts.timeline.total_steps if stop is None else stop):
        pass


def energy_of(parts: Parts) -> dict[str, Tensor]:
    """Gradient energy by parameter; empty for methods without."""
    return parts.perturbed.state_dict()["move"].get("energy", {})


def weights_of(parts: Parts) -> dict[str, Tensor]:
    """Copies of this rank's parameters."""
    return {name: p.detach().clone() for name, p in parts.engine.module.named_parameters()}


def buffers_of(parts: Parts) -> dict[str, Tensor]:
    """Copies of this rank's buffers."""
    return {name: b.detach().clone() for name, b in parts.engine.module.named_buffers()}


def memory_plan(settings: Settings, samples: Samples) -> Plan:
    """All samples in every epoch, the last batch padded."""
    counts = np.array([len(samples.labels)])
    return Plan(Everything(counts), settings.batch.global_, 1, 1000, settings.run.seed, pad=True)


def same_bits(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    """Whether two sets of tensors are the same to the last bit."""
    return a.keys() == b.keys() and all(
        x.shape == b[name].shape and torch.equal(_bits(x), _bits(b[name])) for name, x in a.items()
    )


def _bits(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().contiguous().view(-1).view(torch.uint8)
