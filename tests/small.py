"""A network, samples and settings so small that a step takes milliseconds."""

from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

import torch
from torch import Tensor, nn

from rwp_dist.config import Settings, load_settings
from rwp_dist.data.plan import Plan
from rwp_dist.data.reader import Samples
from rwp_dist.progress import Progress
from rwp_dist.setup import Parts, build_parts
from rwp_dist.train import train_step

NUM_CLASSES, SIZE = 3, 6
GLOBAL_BATCH = 12  # shared equally by 1, 2 and 3 ranks with 1 or 2 micro-batches each


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
    """Settings for ``SmallNet`` with noise, ascent and adaptation strong enough to matter."""
    return load_settings(
        None,
        [
            f"data.image_size={SIZE}",
            "data.mean=[0.4]",
            "data.std=[0.3]",
            f"model.num_classes={NUM_CLASSES}",
            f"batch.global={GLOBAL_BATCH}",
            "method.sigma=0.05",
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
    with (
        patch("rwp_dist.setup.build_model", lambda settings: net),
        patch("rwp_dist.setup.read_train", lambda settings: samples),
        patch("rwp_dist.setup.read_val", lambda settings: samples),
    ):
        parts = build_parts(settings)
    try:
        yield parts
    finally:
        parts.engine.close()


def run_steps(
    parts: Parts, first: int, stop: int, progress: Progress | None = None
) -> Iterator[int]:
    """Steps ``first`` to ``stop - 1`` of training; yields each step's number after it."""
    progress = progress or Progress(parts, {})
    epoch, position = divmod(first, parts.timeline.steps_per_epoch)
    data = parts.reader.steps(epoch, position)
    for step in range(first, stop):
        if step % parts.timeline.steps_per_epoch == 0:
            data = parts.reader.steps(step // parts.timeline.steps_per_epoch)
        batch = next(data)
        train_step(parts, step, batch, progress)
        progress.step_done(batch)
        yield step


def run_all(parts: Parts, first: int = 0, stop: int | None = None) -> None:
    """All steps of training, or those in between."""
    for _ in run_steps(parts, first, parts.timeline.total_steps if stop is None else stop):
        pass


def weights_of(parts: Parts) -> dict[str, Tensor]:
    """Copies of this rank's parameters."""
    return {name: p.detach().clone() for name, p in parts.engine.module.named_parameters()}


def buffers_of(parts: Parts) -> dict[str, Tensor]:
    """Copies of this rank's buffers."""
    return {name: b.detach().clone() for name, b in parts.engine.module.named_buffers()}


def plan_of(settings: Settings, samples: Samples, slots: int) -> Plan:
    """Which samples every slot takes."""
    return Plan(len(samples.labels), GLOBAL_BATCH, slots, settings.run.seed)


def same_bits(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    """Whether two sets of tensors are the same to the last bit."""
    return a.keys() == b.keys() and all(
        x.shape == b[name].shape and x.cpu().numpy().tobytes() == b[name].cpu().numpy().tobytes()
        for name, x in a.items()
    )
