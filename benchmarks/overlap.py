"""Whether noise hides behind a real, waiting network: two ranks, one link of 1 Gbit/s.

    OMP_NUM_THREADS=1 python benchmarks/overlap.py       (as root: it makes network namespaces)

Two ranks sit in two network namespaces (``namespaces.py``); gloo, ResNet-18. Methods take turns
step by step. Bytes are those that the kernel counted on the link. Namespaces are taken down again,
also after an error.
"""

import os
import statistics
import sys
import time
from contextlib import ExitStack

import click
import namespaces
import torch
import torch.distributed as dist
from engines import engine_step
from step import WARM_UP, noise_work, ratios

from rwp_dist.process import choose_device, process_group

METHODS = {
    "sgd": ("sgd", []),
    "m-rwp": ("m-rwp", []),
    "m-arwp": ("m-arwp", []),
    "m-rwp, in line": ("m-rwp", ["noise.prefetch=false"]),
    "sam": ("sam", []),
    "sgd, ZeRO-1": ("sgd", ["deepspeed.zero_stage=1"]),
    "m-rwp, ZeRO-1": ("m-rwp", ["deepspeed.zero_stage=1"]),
}
RANKS = 2


def measure(model: str, size: int, batch: int, rounds: int) -> None:
    """What one rank does; rank 0 prints the table."""
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    torch.manual_seed(0)
    with process_group(choose_device("cpu")):
        built = {
            name: engine_step(method, model, size, batch, overrides)
            for name, (method, overrides) in METHODS.items()
        }
        times: dict[str, list[float]] = {name: [] for name in METHODS}
        sent = dict.fromkeys(METHODS, 0)
        for number in range(rounds + WARM_UP):
            for name, (parts, step) in built.items():
                dist.barrier()
                before, begin = namespaces.sent_bytes(), time.perf_counter()
                step(number)
                parts.perturbed.move.join()  # or the next method's step would hide it
                dist.barrier()
                if number >= WARM_UP:
                    times[name].append(time.perf_counter() - begin)
                    sent[name] += namespaces.sent_bytes() - before
                else:
                    parts.perturbed.watch.take()
                    parts.perturbed.move.take_times()
        noise = {name: noise_work(parts.perturbed, rounds) for name, (parts, _) in built.items()}
        for parts, _ in built.values():
            parts.close()
        rank = dist.get_rank()
    if rank != 0:
        return
    print(
        f"{'step of':<16}{'median ms':>10}{'x sgd':>8}{'noise ms':>10}{'shows':>8}{'hidden':>8}"
        f"{'MB sent':>10}{'x sgd':>9}"
    )
    for name, seconds in times.items():
        middle = statistics.median(seconds)
        line = (
            f"{name:<16}{middle * 1e3:10.1f}{statistics.median(ratios(seconds, times['sgd'])):8.3f}"
        )
        work, exposed, hidden = noise[name]
        draws = name.startswith("m-")  # what sam does to perturb is a pass
        line += f"{work * 1e3:10.1f}{exposed * 1e3:8.1f}{hidden:8.3f}" if draws else f"{'':>26}"
        line += f"{sent[name] / rounds / 1e6:10.2f}{sent[name] / sent['sgd']:9.4f}"
        print(line)


@click.command()
@click.option("--model", default="resnet18", show_default=True)
@click.option("--size", default=64, show_default=True, help="Height and width of the images.")
@click.option("--batch", default=32, show_default=True, help="Images of one rank.")
@click.option("--rounds", default=20, show_default=True, help="Steps of every method.")
@click.option("--rate", default="1gbit", show_default=True, help="Of the link, as tc takes it.")
@click.option("--as-rank", is_flag=True, hidden=True)
def main(model: str, size: int, batch: int, rounds: int, rate: str, as_rank: bool) -> None:
    """Print the table."""
    if as_rank:
        measure(model, size, batch, rounds)
        return
    arguments = [f"--model={model}", f"--size={size}", f"--batch={batch}", f"--rounds={rounds}"]
    with ExitStack() as stack:
        if why := namespaces.lay_links(stack, RANKS, rate):
            print(f"Skipped: {why}.")
            return
        code = namespaces.run_ranks(RANKS, __file__, ["--as-rank", *arguments])
    sys.exit(code)


if __name__ == "__main__":
    main()
