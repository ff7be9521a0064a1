"""Training steps on this project's engine with data that costs nothing, for the benchmarks."""

from collections.abc import Callable, Iterator, Sequence

import torch
import torch.distributed as dist

from rwp_dist.config import load_settings
from rwp_dist.data import Batch, Step
from rwp_dist.process import Agreed, choose_device
from rwp_dist.run import Parts, Progress, build_parts
from rwp_dist.train import train_step


def network(model: str, size: int) -> list[str]:
    """Settings of a network and its images."""
    return [
        f"model.name={model}",
        "model.num_classes=1000",
        f"data.image_size={size}",
        "data.channels=3",
    ]


def engine_step(
    method: str,
    model: str,
    size: int,
    batch: int,
    overrides: Sequence[str] = (),
    micro_batches: int = 1,
) -> tuple[Parts, Callable[[int], None]]:
    """One step of a method with ``batch`` images of ``size`` pixels in every pass of a rank."""
    parts, _, step = observed_step(method, model, size, batch, overrides, micro_batches)
    return parts, step


def observed_step(
    method: str,
    model: str,
    size: int,
    batch: int,
    overrides: Sequence[str] = (),
    micro_batches: int = 1,
) -> tuple[Parts, Progress, Callable[[int], None]]:
    """As ``engine_step``, and what it measures about itself."""
    world_size = dist.get_world_size()
    settings = load_settings(
        None,
        [
            *network(model, size),
            f"batch.global={batch * micro_batches * world_size}",
            f"batch.per_rank={batch}",
            f"method.name={method}",
            "schedule.steps=100000",
            "optimizer.lr=0.001",
            *overrides,
        ],
    )
    same = SameStep(batch, size, micro_batches)
    parts = build_parts(settings, (same, same))
    share = batch * micro_batches * world_size / (2 if parts.method.mixed else 1)
    agreed = Agreed(clean=share, perturbed=share, bad=0, stop=False)
    progress = Progress(parts)

    def step(number: int) -> None:
        train_step(parts, number, same.step, agreed, progress)
        progress.step_done(same.step, agreed)

    return parts, progress, step


class SameStep:
    """One step of random images again and again: what is timed is not the reading."""

    steps_per_epoch = 1000
    ahead = 0

    def __init__(self, batch: int, size: int, micro_batches: int = 1) -> None:
        images = torch.randint(0, 256, (batch, 3, size, size), dtype=torch.uint8)
        labels = torch.randint(0, 1000, (batch,))
        one = Batch(images, labels, torch.ones(batch)).to(choose_device("auto"))
        self.step = Step([one] * micro_batches, [batch] * micro_batches)

    def begin(self) -> None:
        """Nothing: it is there."""

    def steps(self, first: int = 0, last: int = 1) -> Iterator[Step]:
        """The same step."""
        return iter([self.step] * (last - first))
