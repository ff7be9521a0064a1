"""Time of a training step of every method on two ranks, in one interleaved run.

    OMP_NUM_THREADS=1 torchrun --nproc-per-node 2 benchmarks/step.py

ResNet-18, 64x64 images, 32 images a rank, one thread a rank, ZeRO-1, fp32. Methods take turns step
by step, so that a machine that is shared or throttles does so for all. ``authors`` is the released
scheme's operations under DistributedDataParallel: noise expanded to full size, kept through the
backward pass and subtracted afterwards. ``attached`` is the same plain loop with
``Perturbed(ddp, "m-rwp").attach(optimizer)`` before it.

``x sgd`` is the median of the ratios within each turn. ``noise`` is the core time of perturbation
on one rank of each pair, drawing included. Where no core is idle, it makes the step longer:
``floor`` is the step if both ranks' cores share this work, and ``above`` is what the step takes
more than that. Drawing that a step has begun ends within its time; otherwise the next method would
pay for it.
"""

import os
import random
import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import Literal

import click
import torch
import torch.distributed as dist
from authors import add_expanded_noise, subtract_noise
from engines import engine_step, network
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from rwp_dist.config import load_settings
from rwp_dist.perturb import Perturbed
from rwp_dist.process import choose_device, process_group
from rwp_dist.run import build_model

METHODS = ("sgd", "m-rwp", "m-arwp", "sam")
By = Literal["nobody", "authors", "attach"]
IN_A_PLAIN_LOOP: dict[str, By] = {
    "sgd, DDP": "nobody",
    "m-rwp, attached, DDP": "attach",
    "authors' m-rwp, DDP": "authors",
}
"""Rows under DistributedDataParallel, and who perturbs."""
WARM_UP = 3


def plain(
    model: str, size: int, batch: int, precision: str, *, by: By
) -> tuple[Perturbed | None, Callable[[int], None]]:
    """SGD under DistributedDataParallel, and who perturbs odd ranks in it."""
    device = choose_device("auto")
    settings = load_settings(None, network(model, size))
    replica = DistributedDataParallel(build_model(settings).to(device))
    # As Perturbed does, so that rows differ in nothing else. Two versions of torch, two names.
    replica.broadcast_buffers = replica.forward_sync_buffers = False
    optimizer = torch.optim.SGD(replica.parameters(), lr=0.001, momentum=0.9)
    images = torch.randn(batch, 3, size, size, device=device)
    labels = torch.randint(0, 1000, (batch,), device=device)
    noisy = None
    if by == "attach":
        noisy = Perturbed(replica, "m-rwp", seed=0).attach(optimizer)

    def step(_: int) -> None:
        perturbed = by == "authors" and dist.get_rank() % 2 == 1
        kept = add_expanded_noise(replica, 0.01) if perturbed else []
        autocast = torch.autocast(device.type, torch.bfloat16)
        with autocast if precision == "bf16" else nullcontext():
            loss = F.cross_entropy(replica(images), labels)
        loss.backward()
        subtract_noise(kept)
        optimizer.step()
        optimizer.zero_grad()

    return noisy, step


def in_turns(
    steps: dict[str, Callable[[int], None]], perturbed: dict[str, Perturbed], rounds: int
) -> dict[str, list[float]]:
    """Seconds of every method's steps, taken in turns.

    In another order every time, the same on all ranks: what a step finds in caches and in the heap
    depends on the one before.
    """
    times: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(rounds + WARM_UP):
        order = random.Random(number).sample(sorted(steps), len(steps))
        for name in order:
            step = steps[name]
            dist.barrier()
            begin = time.perf_counter()
            step(number)
            if name in perturbed:
                perturbed[name].move.join()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            dist.barrier()
            if number >= WARM_UP:
                times[name].append(time.perf_counter() - begin)
            elif name in perturbed:
                noise_work(perturbed[name], 1)
    return times


def ratio(seconds: list[float], base: list[float]) -> float:
    """Median of the ratios within each turn: what slows a turn down slows down both."""
    return statistics.median(a / b for a, b in zip(seconds, base, strict=True))


def noise_work(perturbed: Perturbed, steps: int) -> tuple[float, float, float]:
    """Seconds a step that noise is worked at, that show, and share of drawing that is hidden."""
    exposed = perturbed.watch.take()  # what is waited for is part of it
    work, drawn, waited = perturbed.move.take_times()
    times = torch.tensor([exposed - waited + work, exposed, drawn, waited], dtype=torch.float64)
    dist.all_reduce(times)
    work, exposed, drawn, waited = times.tolist()
    hidden = 1.0 - waited / drawn if drawn else float("nan")
    return work / steps, exposed / steps, hidden


@click.command()
@click.option("--model", default="resnet18", show_default=True)
@click.option("--size", default=64, show_default=True, help="Height and width of the images.")
@click.option("--batch", default=32, show_default=True, help="Images of one rank.")
@click.option("--precision", default="fp32", show_default=True)
@click.option("--rounds", default=30, show_default=True, help="Steps of every method.")
def main(model: str, size: int, batch: int, precision: str, rounds: int) -> None:
    """Print the table."""
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    torch.manual_seed(0)
    with process_group(choose_device("auto")):
        world_size, rank = dist.get_world_size(), dist.get_rank()
        built = {
            name: engine_step(name, model, size, batch, [f"precision={precision}"])
            for name in METHODS
        }
        steps = {name: step for name, (_, step) in built.items()}
        perturbed = {name: parts.perturbed for name, (parts, _) in built.items()}
        for name, by in IN_A_PLAIN_LOOP.items():
            noisy, steps[name] = plain(model, size, batch, precision, by=by)
            if noisy is not None:
                perturbed[name] = noisy
        times = in_turns(steps, perturbed, rounds)
        noise = {name: noise_work(one, rounds) for name, one in perturbed.items()}
        for parts, _ in built.values():
            parts.close()
    if rank != 0:
        return
    print(
        f"{'step of':<22}{'median ms':>10}{'x sgd':>8}{'noise ms':>10}{'shows':>8}{'hidden':>8}"
        f"{'floor':>8}{'above':>8}"
    )
    for name, seconds in times.items():
        base = times["sgd, DDP" if "DDP" in name else "sgd"]
        share = ratio(seconds, base)
        line = f"{name:<22}{statistics.median(seconds) * 1e3:10.1f}{share:8.3f}"
        if name in noise and name.startswith("m-"):
            work, exposed, hidden = noise[name]
            floor = 1.0 + work / world_size / statistics.median(base)
            line += f"{work * 1e3:10.1f}{exposed * 1e3:8.1f}{hidden:8.3f}{floor:8.3f}"
            line += f"{share - floor:+8.3f}"
        print(line)


if __name__ == "__main__":
    main()
