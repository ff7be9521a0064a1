"""Peak memory of a rank under sgd and m-arwp, with noise drawn ahead and without.

    OMP_NUM_THREADS=1 python benchmarks/memory.py

ResNet-50, ZeRO-1, two ranks, small images, so that weights and what belongs to them decide. Every
figure is that of a fresh pair of processes, the rank with more; methods take turns.

On the CPU it is the peak of resident memory without pages of files (programs, which all processes
share). glibc is told to give back what is freed, or holes in its heap, which are larger and smaller
by chance, would count too: ``--malloc default`` leaves it as it is.
"""

import os
import statistics
import subprocess
import sys
from pathlib import Path

import click
import torch
import torch.distributed as dist
from engines import engine_step

from rwp_dist.process import choose_device, process_group
from rwp_dist.run import memory_bytes

METHODS = {
    "sgd": ("sgd", "noise.prefetch=false"),
    "m-arwp, noise drawn ahead": ("m-arwp", "noise.prefetch=true"),
    "m-arwp, noise drawn in line": ("m-arwp", "noise.prefetch=false"),
}
STEPS = 4
GIVE_BACK = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}


def peak_of(name: str, model: str) -> None:
    """Train some steps as one rank; rank 0 prints the larger peak and the parameters' bytes."""
    torch.set_num_threads(1)
    method, override = METHODS[name]
    device = choose_device("auto")
    with process_group(device):
        parts, step = engine_step(method, model, 64, 2, [override, "deepspeed.zero_stage=1"])
        for number in range(STEPS):
            step(number)
        own = memory_bytes(device) - (file_bytes() if device.type == "cpu" else 0)
        peak = torch.tensor(own, dtype=torch.float64)
        dist.all_reduce(peak, dist.ReduceOp.MAX)
        if dist.get_rank() == 0:
            print("PEAK", int(peak), 4 * parts.engine.num_parameters)
        parts.close()


def file_bytes() -> int:
    """Resident pages of files."""
    status = Path("/proc/self/status").read_text().splitlines()
    (line,) = [line for line in status if line.startswith("RssFile")]
    return int(line.split()[1]) * 1024


def launch(name: str, model: str, malloc: str) -> tuple[int, int]:
    """Peak and parameters' bytes of a fresh pair of ranks."""
    environment = os.environ | (GIVE_BACK if malloc == "exact" else {})
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2"]
    command += [__file__, f"--as-rank={name}", f"--model={model}"]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("PEAK")]
    peak, size = line.split()[1:]
    return int(peak), int(size)


@click.command()
@click.option("--model", default="resnet50", show_default=True)
@click.option("--repeats", default=3, show_default=True)
@click.option("--malloc", default="exact", type=click.Choice(["exact", "default"]))
@click.option("--as-rank", hidden=True)
def main(model: str, repeats: int, malloc: str, as_rank: str | None) -> None:
    """Print the table."""
    if as_rank:
        peak_of(as_rank, model)
        return
    peaks: dict[str, list[int]] = {name: [] for name in METHODS}
    size = 0
    for _ in range(repeats):
        for name, found in peaks.items():
            peak, size = launch(name, model, malloc)
            found.append(peak)
    base = statistics.median(peaks["sgd"])
    print(f"parameters: {size / 1e6:.1f} MB")
    print(f"{'peak of a rank':<30}{'MB':>9}{'more than sgd, MB':>20}{'in parameters':>15}{'%':>8}")
    for name, found in peaks.items():
        more = statistics.median(found) - base
        print(
            f"{name:<30}{statistics.median(found) / 1e6:9.1f}{more / 1e6:20.1f}"
            f"{more / size:15.3f}{more / base:8.2%}"
        )


if __name__ == "__main__":
    main()
