"""``Perturbed`` in a plain PyTorch loop, with the network and the samples of ``support.small``."""

import warnings
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from rwp_dist.config import Settings, split_batch
from rwp_dist.data.image import Normalise
from rwp_dist.perturb import METHODS, Perturbed
from rwp_dist.run.optimizers import build_optimizer
from rwp_dist.run.timeline import Timeline
from support.small import MemoryTrain, memory_plan, small_samples


class Library:
    """One rank's training loop as a user writes it; under DDP where there is a process group."""

    def __init__(self, net: nn.Module, settings: Settings, **more: Any):
        self.net, self.settings = net.train(), settings
        self.ddp: nn.Module = net
        if dist.is_initialized():
            with warnings.catch_warnings():  # torch 2.8 knows no other name of this option
                warnings.simplefilter("ignore", FutureWarning)
                self.ddp = DistributedDataParallel(net)
        rank, world_size = (
            (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
        )
        split = split_batch(settings, world_size)
        self.micro_batches = split.micro_batches
        samples = small_samples()
        plan = memory_plan(settings, samples)
        self.data = MemoryTrain(samples, plan, rank, self.micro_batches, split.size)
        self.timeline = Timeline.of(settings, self.data.steps_per_epoch)
        m = settings.method
        options: dict[str, Any] = {
            "lambda_": m.lambda_,
            "seed": settings.run.seed,
            "exclude": m.exclude,
            "antithetic": m.antithetic,
            "scale": m.scale,
            "eta": m.eta,
            "beta": m.beta,
            "power": m.power,
        }
        strength = METHODS[m.name].strength
        if strength:
            options[strength] = self.timeline.strength
        options |= {"micro_batches": self.micro_batches, **more}
        self.noisy = Perturbed(self.ddp, m.name, **options)
        self.optimizer = build_optimizer(net, settings)
        self.num_forwards = 0
        net.register_forward_pre_hook(self._count)

    def _count(self, module: nn.Module, args: Any) -> None:
        self.num_forwards += 1

    def batches(self, step: int) -> list[tuple[Tensor, Tensor]]:
        """Images as the network takes them, and labels, of this rank's passes."""
        (data,) = self.data.steps(step, step + 1)
        normalise = Normalise(self.settings.data.mean, self.settings.data.std)
        return [(normalise(batch.images), batch.labels) for batch in data.batches]

    def passes(self, step: int) -> Iterator[int]:
        """Forward and backward of every pass; yields its number inside the perturbed block."""
        for number, (images, labels) in enumerate(self.batches(step)):

            def loss(images: Tensor = images, labels: Tensor = labels) -> Tensor:
                return F.cross_entropy(self.ddp(images), labels)

            last = number == self.micro_batches - 1
            accumulating = isinstance(self.ddp, DistributedDataParallel) and not last
            with (
                self.ddp.no_sync() if accumulating else nullcontext(),
                self.noisy(step, number, loss=loss),
            ):
                yield number
                (self.noisy.weight * loss()).backward()

    def step(self, step: int) -> None:
        """One update."""
        for _ in self.passes(step):
            pass
        self.end_step(step)

    def end_step(self, step: int) -> None:
        """The optimizer's step; skipped as a careful user does if a gradient is not finite."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.timeline.lr(step)
        finite = all(p.grad.isfinite().all() for p in self.net.parameters() if p.grad is not None)
        if finite:
            self.optimizer.step()
        self.optimizer.zero_grad()
        self.noisy.end_step(finite)

    def weights(self) -> dict[str, Tensor]:
        """Copies of the parameters."""
        return {name: p.detach().clone() for name, p in self.net.named_parameters()}

    def buffers(self) -> dict[str, Tensor]:
        """Copies of the buffers."""
        return {name: b.detach().clone() for name, b in self.net.named_buffers()}

    def close(self) -> None:
        """End drawing ahead."""
        self.noisy.close()
