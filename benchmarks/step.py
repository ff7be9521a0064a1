"""Time of a training step of every method, in one interleaved run.

    OMP_NUM_THREADS=1 torchrun --nproc-per-node 2 benchmarks/step.py    # two CPU cores
    torchrun --nproc-per-node 8 benchmarks/step.py --model resnet50 --size 224 --batch 256 \
        --precision bf16                                                # eight GPUs

One rank alone, on one GPU, takes two passes a step, so that a mixed method has both roles; several
take one. On CPUs: ResNet-18, 64x64 images, 32 images a rank, one thread a rank, fp32. Rows take
turns step by step, so that a machine that is shared or throttles does so for all. Rows with the
name of a method are the service's; the others are a loop of one's own around
DistributedDataParallel. *authors* has the released scheme's operations: noise expanded to full
size, kept through the backward pass and subtracted afterwards. *Perturbed* has
``Perturbed(ddp, "m-rwp").attach(optimizer)`` before the loop. *sam, plain* is SAM as it is usually
written, its first pass without a reduction; it takes several ranks.

*x plain sgd* is the median of the ratios within each turn, *95 %* its interval. *noise* is the core
time of perturbation on one rank of each pair, drawing included. Where no core is idle, it makes the
step longer:
``floor`` is the step if both ranks' cores share this work, and ``above`` is what the step takes
more than that. Drawing that a step has begun ends within its time; otherwise the next method would
pay for it.
"""

import os
import random
import statistics
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import click
import torch
import torch.distributed as dist
from authors import add_expanded_noise, subtract_noise
from engines import engine_step, network
from ratios import median_interval
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from rwp_dist.config import load_settings
from rwp_dist.perturb import Perturbed
from rwp_dist.process import choose_device, process_group
from rwp_dist.run import build_model

ZERO = "deepspeed.zero_stage=1"
OF_THE_SERVICE: dict[str, tuple[str, ...]] = {
    "sgd": ("sgd",),
    "m-rwp": ("m-rwp",),
    "m-arwp": ("m-arwp",),
    "rwp": ("rwp",),
    "sam": ("sam",),
    "sgd, stage 0": ("sgd", "engine.name=deepspeed"),
    "sgd, ZeRO-1": ("sgd", ZERO),
    "m-rwp, ZeRO-1": ("m-rwp", ZERO),
}
"""Method and settings of a row."""
By = Literal["nobody", "authors", "attach", "sam"]
BASE = "sgd, plain"
IN_A_PLAIN_LOOP: dict[str, By] = {
    BASE: "nobody",
    "sam, plain": "sam",
    "m-rwp, Perturbed": "attach",
    "m-rwp, authors": "authors",
}
"""Rows of a loop around DistributedDataParallel, and who perturbs."""
WARM_UP = 3


def plain(
    model: str, size: int, batch: int, passes: int, precision: str, *, by: By
) -> tuple[Perturbed | None, Callable[[int], None]]:
    """SGD under DistributedDataParallel, and who perturbs in it."""
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
        noisy = Perturbed(replica, "m-rwp", seed=0).attach(optimizer, micro_batches=passes)

    def one_pass(number: int) -> None:
        last = number == passes - 1
        perturbed = by == "authors" and (dist.get_rank() * passes + number) % 2 == 1
        kept = add_expanded_noise(replica, 0.01) if perturbed else []
        if by == "sam":
            backward(replica.no_sync())
            kept = ascend(replica, 0.05)
        backward(nullcontext() if last else replica.no_sync())
        subtract_noise(kept)

    def backward(reducing: AbstractContextManager[None]) -> None:
        autocast = torch.autocast(device.type, torch.bfloat16)
        with reducing:
            with autocast if precision == "bf16" else nullcontext():
                loss = F.cross_entropy(replica(images), labels) / passes
            loss.backward()

    def step(_: int) -> None:
        for number in range(passes):
            one_pass(number)
        optimizer.step()
        optimizer.zero_grad()

    return noisy, step


def ascend(model: nn.Module, rho: float) -> list[tuple[nn.Parameter, Tensor]]:
    """Add SAM's step along this rank's gradient, which is dropped; what was added."""
    params = [p for p in model.parameters() if p.grad is not None]
    grads = [p.grad for p in params if p.grad is not None]
    scale = rho / torch.stack(torch._foreach_norm(grads)).norm()
    moves = torch._foreach_mul(grads, scale)
    with torch.no_grad():
        for param, move in zip(params, moves, strict=True):
            param.add_(move)
    model.zero_grad()
    return list(zip(params, moves, strict=True))


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


def ratios(seconds: list[float], base: list[float]) -> list[float]:
    """Within each turn: what slows a turn down slows down both."""
    return [a / b for a, b in zip(seconds, base, strict=True)]


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
        passes = 1 if world_size > 1 else 2
        built = {
            name: engine_step(method, model, size, batch, [f"precision={precision}", *more], passes)
            for name, (method, *more) in OF_THE_SERVICE.items()
        }
        steps = {name: step for name, (_, step) in built.items()}
        perturbed = {name: parts.perturbed for name, (parts, _) in built.items()}
        for name, by in IN_A_PLAIN_LOOP.items():
            if by == "sam" and passes > 1:
                continue
            noisy, steps[name] = plain(model, size, batch, passes, precision, by=by)
            if noisy is not None:
                perturbed[name] = noisy
        times = in_turns(steps, perturbed, rounds)
        noise = {name: noise_work(one, rounds) for name, one in perturbed.items()}
        for parts, _ in built.values():
            parts.close()
    if rank != 0:
        return
    print(
        f"{'step of':<18}{'median ms':>10}{'x plain sgd':>13}{'95 %':>16}{'noise ms':>10}"
        f"{'shows':>7}{'hidden':>8}{'floor':>7}{'above':>8}"
    )
    base = times[BASE]
    for name, seconds in times.items():
        share, low, high = median_interval(ratios(seconds, base))
        line = f"{name:<18}{statistics.median(seconds) * 1e3:10.1f}{share:13.3f}"
        line += f"{f'{low:.3f} to {high:.3f}':>16}"
        if name in noise and name.startswith("m-"):
            work, exposed, hidden = noise[name]
            floor = 1.0 + work / world_size / statistics.median(base)
            line += f"{work * 1e3:10.1f}{exposed * 1e3:7.1f}{hidden:8.3f}{floor:7.3f}"
            line += f"{share - floor:+8.3f}"
        print(line)


if __name__ == "__main__":
    main()
