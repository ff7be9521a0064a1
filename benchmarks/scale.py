"""What `rwp-dist plan` predicts of a step, against what is measured on CPU cores.

    OMP_NUM_THREADS=1 chrt -r 10 python benchmarks/scale.py runs/scale.json      (as root)
"""

import json
import os
import random
import statistics
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click
import namespaces
import torch
import torch.distributed as dist
from engines import engine_step
from torch import Tensor
from torch.nn import functional as F

from rwp_dist.perturb import Perturbed
from rwp_dist.process import choose_device, process_group
from rwp_dist.run import Parts

METHODS = ("sgd", "m-rwp", "sam")
RATES = {"1gbit": 1e9, "300mbit": 3e8, "100mbit": 1e8}
RANKS = (2, 3, 4)
WARM_UP = 2
REDUCED = 6_500_000
"""Elements of the reduction that is timed alone: 26 MB, one of DDP's buckets."""


def measure(model: str, size: int, batch: int, rounds: int, out: Path) -> None:
    """What one rank does; rank 0 adds what it measured to ``out``."""
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    torch.manual_seed(0)
    with process_group(choose_device("cpu")):
        prefer_reductions()
        rank, num_ranks = dist.get_rank(), dist.get_world_size()
        built = {name: engine_step(name, model, size, batch) for name in METHODS}
        cells: dict[str, list[float]] = {}
        alone: dict[str, list[float]] = {}
        for number in range(WARM_UP):
            for _, step in built.values():
                step(number)
        for number in range(WARM_UP, rounds + WARM_UP):
            order = random.Random(number)
            for rate in order.sample(sorted(RATES), len(RATES)):
                namespaces.limit_rate(rate)
                for name in order.sample(METHODS, len(METHODS)):
                    parts, step = built[name]
                    dist.barrier()
                    begin = time.perf_counter()
                    step(number)
                    parts.perturbed.move.join()
                    dist.barrier()
                    seconds = time.perf_counter() - begin
                    cells.setdefault(f"{num_ranks} {rate} {name}", []).append(seconds)
                if rate == "1gbit" and num_ranks == 2:
                    for name, value in measure_alone(built["sgd"][0], size, batch).items():
                        alone.setdefault(name, []).append(value)
        for parts, _ in built.values():
            parts.close()
    if rank == 0:
        found = json.loads(out.read_text()) if out.exists() else {}
        for name, values in (cells | alone).items():
            found.setdefault(name, []).extend(values)
        out.write_text(json.dumps(found, indent=1))


def prefer_reductions() -> None:
    """Let gloo's threads, the only others yet, interrupt the passes, as the kernel's usual
    scheduler does. Under chrt they would wait for 100 ms whenever all cores compute."""
    policy, priority = os.sched_getscheduler(0), os.sched_getparam(0).sched_priority
    if policy == os.SCHED_RR:
        for thread in map(int, os.listdir("/proc/self/task")):
            if thread != os.getpid():
                os.sched_setscheduler(thread, policy, os.sched_param(priority + 1))


def measure_alone(parts: Parts, size: int, batch: int) -> dict[str, float]:
    """Seconds of the pieces of a step, each by itself, on all ranks at once."""
    engine: Any = parts.engine
    params = list(engine.trained.values())
    images, labels = torch.randn(batch, 3, size, size), torch.randint(0, 1000, (batch,))
    found: dict[str, float] = {}

    def clock(name: str, core: bool = False) -> Any:
        dist.barrier()
        return time.perf_counter(), time.process_time()

    start = clock("forward")
    loss = F.cross_entropy(engine.forward_only(images), labels)
    found["forward"] = time.perf_counter() - start[0]
    start = clock("backward")
    torch.autograd.grad(loss, params)
    found["backward"] = time.perf_counter() - start[0]
    start = clock("step")
    engine.step(0.0)
    found["update"] = time.perf_counter() - start[0]
    for name, length in (("latency", 1), ("reduce", REDUCED)):
        tensor = torch.ones(length)
        start = clock(name)
        dist.all_reduce(tensor)
        found[name] = time.perf_counter() - start[0]
        found[f"{name} core"] = time.process_time() - start[1]
    flat, other = (torch.ones(sum(p.numel() for p in params)) for _ in range(2))
    start = clock("copy")
    other.copy_(flat)
    found["copy"] = time.perf_counter() - start[0]
    noisy = Perturbed(engine.module, "rwp", draw_ahead=False, slots=None)
    start = clock("perturb")
    with noisy(0):
        found["perturb"] = time.perf_counter() - start[0]
    noisy.end_step()
    noisy.close()
    return found


@click.command()
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--model", default="resnet18", show_default=True)
@click.option("--size", default=64, show_default=True)
@click.option("--batch", default=32, show_default=True)
@click.option("--rounds", default=5, show_default=True)
@click.option("--as-rank", is_flag=True, hidden=True)
def main(out: Path, model: str, size: int, batch: int, rounds: int, as_rank: bool) -> None:
    if as_rank:
        measure(model, size, batch, rounds, out)
        return
    arguments = [str(out), f"--model={model}", f"--size={size}", f"--batch={batch}", f"--rounds={rounds}", "--as-rank"]
    for num_ranks in RANKS:
        with ExitStack() as stack:
            if why := namespaces.lay_links(stack, num_ranks, "1gbit"):
                print(f"Skipped: {why}.")
                return
            if code := namespaces.run_ranks(num_ranks, __file__, arguments):
                sys.exit(code)
    found = json.loads(out.read_text())
    for name, values in found.items():
        print(f"{name:<24}{statistics.median(values):9.4f}{min(values):9.4f}{max(values):9.4f}")


if __name__ == "__main__":
    main()
