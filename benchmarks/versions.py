"""A training step of this checkout against that of another commit, in one interleaved run.

    OMP_NUM_THREADS=1 python benchmarks/versions.py COMMIT

Engines of both versions take turns in one process. Two engines of one version differ by a percent,
and so do two processes, because their memory lies elsewhere. So each process has several engines of
each version, made in the order A B B A or B A A B, and there are several processes. The other
commit is checked out into a temporary folder. Under ``chrt -r 10`` other programs wait.
"""

import importlib
import math
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from types import ModuleType

import click
import torch
from ratios import median_interval

ROOT = Path(__file__).parents[1]
WARM_UP = 3
"""Steps of each engine that are not counted."""


@click.command()
@click.argument("commit")
@click.option("--method", default="m-rwp", show_default=True)
@click.option("--model", default="mobilenet_v3_small", show_default=True)
@click.option("--size", default=64, show_default=True, help="Height and width of the images.")
@click.option("--batch", default=2, show_default=True, help="Images of one pass.")
@click.option("--starts", default=24, show_default=True, help="Processes.")
@click.option("--groups", default=2, show_default=True, help="Of four engines, in a process.")
@click.option("--rounds", default=20, show_default=True, help="Steps of each engine.")
@click.option("--start", type=int, hidden=True, help="Be this process; COMMIT is a folder.")
def main(
    commit: str,
    method: str,
    model: str,
    size: int,
    batch: int,
    starts: int,
    groups: int,
    rounds: int,
    start: int | None,
) -> None:
    """Print the time of a step here, as a multiple of that of COMMIT."""
    if start is not None:
        print(ratio([str(ROOT), commit], (method, model, size, batch), groups, rounds, start))
        return
    ratios = []
    with tempfile.TemporaryDirectory() as folder:
        archive = subprocess.run(
            ["git", "-C", str(ROOT), "archive", commit], check=True, capture_output=True
        )
        subprocess.run(["tar", "-x", "-C", folder], input=archive.stdout, check=True)
        given = [folder, f"--method={method}", f"--model={model}", f"--size={size}"]
        given += [f"--batch={batch}", f"--groups={groups}", f"--rounds={rounds}"]
        for number in range(starts):
            command = [sys.executable, __file__, f"--start={number}", *given]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            ratios.append(float(done.stdout.splitlines()[-1]))
            print(f"start {number + 1}: x {ratios[-1]:.4f}", flush=True)
    middle, low, high = median_interval(ratios)
    print(f"this checkout: {middle:.4f} x {commit}  (95 %: {low:.4f} to {high:.4f})")


def ratio(
    roots: list[str], setup: tuple[str, str, int, int], groups: int, rounds: int, seed: int
) -> float:
    """Time of a step of the first root's version, as a multiple of that of the second's."""
    chance = random.Random(seed)
    orders = [chance.choice([(0, 1, 1, 0), (1, 0, 0, 1)]) for _ in range(groups)]
    versions = [version for order in orders for version in order]
    with process_group_of(roots[0]):
        steps = [step_of(roots[version], setup) for version in versions]
        times: list[list[float]] = [[] for _ in steps]
        for number in range(WARM_UP + rounds):
            for which in chance.sample(range(len(steps)), len(steps)):
                begin = time.perf_counter()
                steps[which](number)
                if torch.cuda.is_available():
                    torch.cuda.synchronize()
                times[which].append(time.perf_counter() - begin)
    logs = [math.log(statistics.median(own[WARM_UP:])) for own in times]
    means = [
        statistics.mean(log for log, of in zip(logs, versions, strict=True) if of == version)
        for version in (0, 1)
    ]
    return math.exp(means[0] - means[1])


def process_group_of(root: str) -> AbstractContextManager[object]:
    """A process group of one rank, for engines of all versions."""
    process = module_of(root, "rwp_dist.process")
    group: AbstractContextManager[object] = process.process_group(process.choose_device("auto"))
    return group


def step_of(root: str, setup: tuple[str, str, int, int]) -> Callable[[int], None]:
    """The step of an engine of one version."""
    method, model, size, batch = setup
    engines = module_of(root, "engines")
    parts_and_step = engines.engine_step(method, model, size, batch, micro_batches=2)
    step: Callable[[int], None] = parts_and_step[1]
    return step


def module_of(root: str, name: str) -> ModuleType:
    """A module of one version, imported anew with all that it imports of that version."""
    for known in list(sys.modules):
        if known.partition(".")[0] in ("rwp_dist", "engines"):
            del sys.modules[known]
    paths = sys.path
    sys.path = [root, f"{root}/benchmarks", *paths]
    try:
        return importlib.import_module(name)
    finally:
        sys.path = paths


if __name__ == "__main__":
    main()
