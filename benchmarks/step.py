"""Time of a training step of sgd, m-rwp, m-arwp and sam on two ranks, in one interleaved run.

    torchrun --nproc-per-node 2 benchmarks/step.py

ResNet-18, 64x64 images, 32 images a rank, one thread a rank, ZeRO-1, fp32. Methods take turns step
by step, so that a machine that is shared or throttles does so for all. ``authors`` is the released
scheme's operations under DistributedDataParallel: noise expanded to full size, kept through the
backward pass and subtracted afterwards.
"""

import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext

import click
import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from rwp_dist.config import load_settings
from rwp_dist.consensus import Agreed
from rwp_dist.data.batch import Batch, Step
from rwp_dist.distributed import choose_device, process_group
from rwp_dist.models import build_model
from rwp_dist.progress import Progress
from rwp_dist.setup import Parts, build_parts
from rwp_dist.train import train_step

METHODS = ("sgd", "m-rwp", "m-arwp", "sam")


def network(options: dict[str, object]) -> list[str]:
    """Settings of the network and its images."""
    return [
        f"model.name={options['model']}",
        "model.num_classes=1000",
        f"data.image_size={options['size']}",
        "data.channels=3",
    ]


def ours(method: str, options: dict[str, object]) -> tuple[Parts, Callable[[int], None]]:
    """One step of a method on this project's engine."""
    world = dist.get_world_size()
    batch, size = int(str(options["batch"])), int(str(options["size"]))
    settings = load_settings(
        None,
        [
            *network(options),
            f"batch.global={batch * world}",
            f"batch.per_rank={batch}",
            f"method.name={method}",
            f"precision={options['precision']}",
            "schedule.steps=100000",
            "optimizer.lr=0.001",
        ],
    )
    same = SameStep(batch, size)
    parts = build_parts(settings, (same, same))
    data = same.step
    share = batch * world / (2 if parts.method.mixed else 1)
    agreed = Agreed(clean=share, perturbed=share, bad=0, stop=False)
    progress = Progress(parts, {})
    return parts, lambda step: train_step(parts, step, data, agreed, progress)


class SameStep:
    """One step of random images again and again: what is timed is not the reading."""

    steps_per_epoch = 1000

    def __init__(self, batch: int, size: int) -> None:
        images = torch.randint(0, 256, (batch, 3, size, size), dtype=torch.uint8)
        labels = torch.randint(0, 1000, (batch,))
        self.step = Step([Batch(images, labels, torch.ones(batch))], [batch])

    def steps(self, first: int = 0, last: int = 1) -> Iterator[Step]:
        """The same step."""
        return iter([self.step] * (last - first))

    def state(self) -> dict[str, object]:
        """Nothing to go on with."""
        return {}


def plain(options: dict[str, object], *, noise: bool) -> Callable[[int], None]:
    """SGD under DistributedDataParallel, or on odd ranks the authors' operations around it."""
    batch, size = int(str(options["batch"])), int(str(options["size"]))
    settings = load_settings(None, network(options))
    device = choose_device("auto")
    model = DistributedDataParallel(build_model(settings).to(device))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.001, momentum=0.9)
    images = torch.randn(batch, 3, size, size, device=device)
    labels = torch.randint(0, 1000, (batch,), device=device)
    bf16 = options["precision"] == "bf16"

    def step(_: int) -> None:
        perturbed = noise and dist.get_rank() % 2 == 1
        kept = add_expanded_noise(model, 0.01) if perturbed else []
        with torch.autocast(device.type, torch.bfloat16) if bf16 else nullcontext():
            loss = F.cross_entropy(model(images), labels)
        loss.backward()
        with torch.no_grad():
            for param, epsilon in kept:
                param.sub_(epsilon)
        optimizer.step()
        optimizer.zero_grad()

    return step


@torch.no_grad()
def add_expanded_noise(model: nn.Module, sigma: float) -> list[tuple[nn.Parameter, torch.Tensor]]:
    """Filter-wise noise as the released scheme makes it: full-size deviations, one by one."""
    kept = []
    for param in model.parameters():
        if param.ndim > 1:
            rows = param.view(param.shape[0], -1)
            deviation = rows.norm(dim=1, keepdim=True).repeat(1, rows.shape[1]).view_as(param)
            epsilon = torch.normal(0.0, sigma * deviation)
        else:
            deviation = torch.empty_like(param).fill_(sigma * (param.norm().item() + 1e-16))
            epsilon = torch.normal(0.0, deviation)
        param.add_(epsilon)
        kept.append((param, epsilon))
    return kept


@click.command()
@click.option("--model", default="resnet18", show_default=True)
@click.option("--size", default=64, show_default=True, help="Height and width of the images.")
@click.option("--batch", default=32, show_default=True, help="Images of one rank.")
@click.option("--precision", default="fp32", show_default=True)
@click.option("--rounds", default=30, show_default=True, help="Steps of every method.")
def main(**options: object) -> None:
    """Print the table."""
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    torch.manual_seed(0)
    device = choose_device("auto")
    with process_group(device):
        built = {name: ours(name, options) for name in METHODS}
        steps = {name: step for name, (_, step) in built.items()}
        steps["sgd, DDP"] = plain(options, noise=False)
        steps["authors' m-rwp, DDP"] = plain(options, noise=True)
        times: dict[str, list[float]] = {name: [] for name in steps}
        rounds = int(str(options["rounds"]))
        for number in range(rounds + 3):
            for name, step in steps.items():
                dist.barrier()
                begin = time.perf_counter()
                step(number)
                if device.type == "cuda":
                    torch.cuda.synchronize()
                dist.barrier()
                if number >= 3:
                    times[name].append(time.perf_counter() - begin)
        perturb = {
            name: parts.perturbation.watch.take() / (rounds + 3)
            for name, (parts, _) in built.items()
        }
        slowest = torch.tensor(list(perturb.values()))
        dist.all_reduce(slowest, dist.ReduceOp.MAX)
    if dist.is_initialized() and dist.get_rank() != 0:
        return
    if int(os.environ.get("RANK", "0")) == 0:
        print(f"{'step of':<22}{'median ms':>10}{'x sgd':>8}{'perturb ms':>12}")
        shown = dict(zip(perturb, slowest.tolist(), strict=True))
        for name, seconds in times.items():
            middle = statistics.median(seconds)
            base = statistics.median(times["sgd, DDP" if "DDP" in name else "sgd"])
            cost = f"{shown[name] * 1e3:12.1f}" if name in shown else f"{'':>12}"
            print(f"{name:<22}{middle * 1e3:10.1f}{middle / base:8.2f}{cost}")


if __name__ == "__main__":
    main()
