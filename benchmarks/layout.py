"""Time of a training step by the layout of its tensors in memory, and compiled (``run.compile``).

    OMP_NUM_THREADS=1 chrt -r 10 python benchmarks/layout.py --model resnet50 --size 224 --batch 8

One process, fp32. *NHWC images* and *NHWC weights* are channels last in memory: the images alone,
or the weights too. These rows are a plain loop of SGD; those with a method's name are the
service's, two passes a step. Rows take turns step by step, in another order every time. *x* is the
median of the ratios to the row's base within each turn, *95 %* its interval.
"""

import os
import random
import statistics
import time
from collections.abc import Callable

import click
import torch
from engines import engine_step, network
from ratios import median_interval
from torch.nn import functional as F

from rwp_dist.config import load_settings
from rwp_dist.process import choose_device, process_group
from rwp_dist.run import build_model

WARM_UP = 3
PLAIN = {"NCHW": (False, False), "NHWC images": (True, False), "NHWC weights": (True, True)}
"""Rows of a plain loop: whether images, and weights, are channels last."""
METHODS = {"sgd": "sgd", "sgd, compiled": "sgd", "m-rwp": "m-rwp", "m-rwp, compiled": "m-rwp"}
"""The service's rows, each with its base."""


def plain(model: str, size: int, batch: int, *, images: bool, weights: bool) -> Callable[[], None]:
    """A step of SGD; ``images``, ``weights``: these are channels last."""
    net = build_model(load_settings(None, network(model, size))).train()
    if weights:
        net = net.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.001, momentum=0.9)
    x, y = torch.randn(batch, 3, size, size), torch.randint(0, 1000, (batch,))
    if images:
        x = x.contiguous(memory_format=torch.channels_last)

    def step() -> None:
        F.cross_entropy(net(x), y).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def service(model: str, size: int, batch: int, *, name: str) -> Callable[[], None]:
    """The service's step of a row."""
    more = ["run.device=cpu", f"run.compile={str(name != METHODS[name]).lower()}"]
    _, step = engine_step(METHODS[name], model, size, batch, more, micro_batches=2)
    numbers = iter(range(10**6))
    return lambda: step(next(numbers))


@click.command()
@click.option("--model", default="resnet18", show_default=True)
@click.option("--size", default=64, show_default=True, help="Height and width of the images.")
@click.option("--batch", default=32, show_default=True, help="Images of a pass.")
@click.option("--rounds", default=20, show_default=True, help="Steps of every row.")
def main(model: str, size: int, batch: int, rounds: int) -> None:
    """Print the table."""
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    torch.manual_seed(0)
    with process_group(choose_device("cpu")):
        steps = {
            name: plain(model, size, batch, images=images, weights=weights)
            for name, (images, weights) in PLAIN.items()
        }
        steps |= {name: service(model, size, batch, name=name) for name in METHODS}
        times: dict[str, list[float]] = {name: [] for name in steps}
        for number in range(rounds + WARM_UP):
            for name in random.Random(number).sample(sorted(steps), len(steps)):
                begin = time.perf_counter()
                steps[name]()
                if number >= WARM_UP:
                    times[name].append(time.perf_counter() - begin)
    print(f"{f'{model}, {size}x{size}, {batch}':<24}{'median ms':>10}{'x':>8}{'95 %':>16}")
    for name, seconds in times.items():
        base = times[METHODS.get(name, "NCHW")]
        share, low, high = median_interval([a / b for a, b in zip(seconds, base, strict=True)])
        milliseconds = statistics.median(seconds) * 1e3
        print(f"{name:<24}{milliseconds:10.1f}{share:8.3f}{f'{low:.3f} to {high:.3f}':>16}")


if __name__ == "__main__":
    main()
