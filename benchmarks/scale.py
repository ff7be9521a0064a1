"""What `rwp-dist plan` predicts of a step on CPU cores, against what is measured.

    OMP_NUM_THREADS=1 chrt -r 10 python benchmarks/scale.py runs/scale.json    (as root)

Two, three and four ranks in network namespaces of their own, behind links of three rates; gloo,
ResNet-18, 64x64, 32 images a rank. Within a number of ranks, rates and methods take turns step by
step. Only sgd on two ranks at the highest rate calibrates: its step, and parts of it measured alone
in between. The other cells are predicted. Measurements are added to those in the file; ``--rounds
0`` shows them.
"""

import json
import os
import random
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import click
import namespaces
import torch
import torch.distributed as dist
from engines import engine_step, network
from torch.nn import functional as F

from rwp_dist.config import load_settings
from rwp_dist.perturb import Perturbed
from rwp_dist.plan import (
    ASCENT_COPIES,
    DDP_BUCKET_BYTES,
    DDP_FIRST_BUCKET_BYTES,
    Bucket,
    Cores,
    Fabric,
    Link,
    Work,
    make_buckets,
    step_time,
)
from rwp_dist.process import choose_device, process_group
from rwp_dist.run import Parts, build_model, profile_pass

METHODS = ("sgd", "m-rwp", "sam")
RATES = {"1gbit": 1e9, "300mbit": 3e8, "100mbit": 1e8}
RANKS = (2, 3, 4)
CALIBRATION = "sgd, 2 ranks, 1gbit"
WARM_UP = 2
REDUCED_BYTES = 26e6
"""Of the reduction that is timed alone: about one of DDP's buckets."""

Times = dict[str, list[float]]
"""Seconds of all rounds, by cell or by part."""


def cell(method: str, ranks: int, rate: str) -> str:
    """Its name in the file and in the table."""
    return f"{method}, {ranks} ranks, {rate}"


def measure(model: str, size: int, batch: int, rounds: int, out: Path) -> None:
    """What one rank does; rank 0 adds the times to the file."""
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    torch.manual_seed(0)
    times: Times = {}
    with process_group(choose_device("cpu")):
        prefer_reductions()
        rank, ranks = dist.get_rank(), dist.get_world_size()
        built = {name: engine_step(name, model, size, batch) for name in METHODS}
        for number in range(WARM_UP):
            for _, step in built.values():
                step(number)
        for number in range(WARM_UP, rounds + WARM_UP):
            turns = random.Random(number)
            for rate in turns.sample(sorted(RATES), len(RATES)):
                namespaces.limit_rate(rate)
                for method in turns.sample(METHODS, len(METHODS)):
                    parts, step = built[method]
                    name = cell(method, ranks, rate)
                    dist.barrier()
                    with timing(times, name):
                        step(number)
                        parts.perturbed.move.join()  # or the next method's step would hide it
                        dist.barrier()
                    if name == CALIBRATION:
                        measure_parts(parts, size, batch, times)
        for parts, _ in built.values():
            parts.close()
    if rank == 0:
        found: Times = json.loads(out.read_text()) if out.exists() else {}
        for name, seconds in times.items():
            found.setdefault(name, []).extend(seconds)
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(found, indent=1))


def prefer_reductions() -> None:
    """Let gloo's threads, the only others yet, interrupt passes, as the usual scheduler would.

    Under chrt they would wait up to 100 ms whenever all cores compute.
    """
    policy, priority = os.sched_getscheduler(0), os.sched_getparam(0).sched_priority
    if policy == os.SCHED_RR:
        for thread in {int(path.name) for path in Path("/proc/self/task").iterdir()} - {
            os.getpid()
        }:
            os.sched_setscheduler(thread, policy, os.sched_param(priority + 1))


@contextmanager
def timing(times: Times, name: str) -> Iterator[None]:
    """Add the seconds of the block to those of the same name."""
    begin = time.perf_counter()
    yield
    times.setdefault(name, []).append(time.perf_counter() - begin)


def measure_parts(parts: Parts, size: int, batch: int, times: Times) -> None:
    """Time the parts of a step, each alone, on all ranks at once."""
    module = parts.engine.module
    params = [p for p in module.parameters() if p.requires_grad]
    images, labels = torch.randn(batch, 3, size, size), torch.randint(0, 1000, (batch,))
    dist.barrier()
    with timing(times, "forward"):
        loss = F.cross_entropy(module(images), labels)
    with timing(times, "backward"):  # and no reduction
        torch.autograd.grad(loss, params)
    for name, num_bytes in (("small reduction", 4.0), ("reduction", REDUCED_BYTES)):
        tensor = torch.ones(int(num_bytes / 4))
        dist.barrier()
        core = time.process_time()
        with timing(times, name):
            dist.all_reduce(tensor)
        times.setdefault(f"core of {name}", []).append(time.process_time() - core)
    weights, copy = (torch.ones(sum(p.numel() for p in params)) for _ in range(2))
    dist.barrier()
    with timing(times, "copy of the weights"):
        copy.copy_(weights)
    noisy = Perturbed(module, "rwp", draw_ahead=False)
    dist.barrier()
    with ExitStack() as stack, timing(times, "perturbation"):
        stack.enter_context(noisy(0))
    noisy.end_step(applied=False)
    noisy.close()


class Prediction:
    """Every cell from the calibration's times."""

    def __init__(self, times: Times, model: str, size: int) -> None:
        middle = {name: statistics.median(seconds) for name, seconds in times.items()}
        self._parts = middle
        settings = load_settings(None, network(model, size))
        profile = profile_pass(build_model(settings), 3, size)
        assert profile is not None, "networks of the benchmark can be counted"
        self.buckets: list[Bucket] = make_buckets(
            [(4.0 * elements, ready) for elements, ready in profile.gradients],
            DDP_FIRST_BUCKET_BYTES,
            DDP_BUCKET_BYTES,
        )
        passes = [sum(both) for both in zip(times["forward"], times["backward"], strict=True)]
        self.spread = statistics.stdev(passes) / statistics.mean(passes) if passes[1:] else 0.0
        # Two ranks take two steps around the ring, and each sends as many bytes as are reduced.
        self.latency_s = middle["small reduction"] / 2
        seconds = middle["reduction"] - middle["small reduction"]
        self.reached = REDUCED_BYTES / seconds / (RATES["1gbit"] / 8)
        self.core_s_per_byte = middle["core of reduction"] / REDUCED_BYTES
        self.num_cores = len(os.sched_getaffinity(0))
        self.rest_s = 0.0  # the optimizer's step, and what a step has besides
        self.rest_s = middle[CALIBRATION] - self.seconds("sgd", 2, "1gbit")

    def seconds(self, method: str, ranks: int, rate: str) -> float:
        """Of a step."""
        own = self._parts
        more = {
            "sgd": 0.0,
            "m-rwp": own["perturbation"],
            "sam": ASCENT_COPIES / 2 * own["copy of the weights"],  # a copy reads and writes
        }
        work = Work(
            2 if method == "sam" else 1,
            own["forward"],
            own["backward"],
            self.rest_s + more[method],
        )
        link = Link(self.reached * RATES[rate] / 8, self.latency_s)
        cores = Cores(min(1.0, self.num_cores / ranks), self.core_s_per_byte)
        step = step_time(
            work, self.buckets, Fabric(1, link, link), ranks, spread=self.spread, cores=cores
        )
        return step.total_s


def show(times: Times, model: str, size: int) -> None:
    """Print the calibration and the table."""
    found = Prediction(times, model, size)
    sizes = ", ".join(f"{b.num_bytes / 1e6:.1f} MB at {b.ready:.2f}" for b in found.buckets)
    print(f"buckets, and when in the backward pass they are ready: {sizes}")
    for name in ("forward", "backward", "perturbation", "copy of the weights"):
        print(f"{name:<28}{statistics.median(times[name]) * 1e3:8.1f} ms")
    print(f"{'rest of the step':<28}{found.rest_s * 1e3:8.1f} ms")
    print(f"{'latency of a step of a ring':<28}{found.latency_s * 1e3:8.2f} ms")
    print(f"{'reached of the rate':<28}{found.reached:8.1%}")
    print(f"{'core time of a reduction':<28}{found.core_s_per_byte * 1e9:8.2f} ns/byte")
    print(f"{'spread of passes':<28}{found.spread:8.1%}\n")
    print(f"{'step of':<28}{'rounds':>8}{'measured s':>12}{'predicted s':>13}{'error':>9}")
    errors = []
    for ranks in RANKS:
        for rate in RATES:
            for method in METHODS:
                name = cell(method, ranks, rate)
                measured, predicted = (
                    statistics.median(times[name]),
                    found.seconds(method, ranks, rate),
                )
                errors.append(predicted / measured - 1)
                line = f"{name:<28}{len(times[name]):8}{measured:12.3f}{predicted:13.3f}"
                print(f"{line}{errors[-1]:+9.1%}{'  (calibrates)' if name == CALIBRATION else ''}")
    within = sum(abs(error) <= 0.15 for error in errors)
    print(f"\nwithin 15 %: {within} of {len(errors)}; worst {max(errors, key=abs):+.1%}")


@click.command()
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--model", default="resnet18", show_default=True)
@click.option("--size", default=64, show_default=True, help="Height and width of the images.")
@click.option("--batch", default=32, show_default=True, help="Images of one rank.")
@click.option("--rounds", default=8, show_default=True, help="Steps of every cell; 0: only show.")
@click.option("--as-rank", is_flag=True, hidden=True)
def main(out: Path, model: str, size: int, batch: int, rounds: int, as_rank: bool) -> None:
    """Measure all cells into the file OUT and print the table."""
    if as_rank:
        measure(model, size, batch, rounds, out)
        return
    arguments = [f"--model={model}", f"--size={size}", f"--batch={batch}", f"--rounds={rounds}"]
    for ranks in RANKS if rounds else ():
        with ExitStack() as stack:
            if why := namespaces.lay_links(stack, ranks, "1gbit"):
                print(f"Skipped: {why}.")
                return
            code = namespaces.run_ranks(ranks, __file__, [str(out), "--as-rank", *arguments])
        if code:
            sys.exit(code)
    show(json.loads(out.read_text()), model, size)


if __name__ == "__main__":
    main()
