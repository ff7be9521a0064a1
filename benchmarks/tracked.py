"""What tracking costs: steps with and without it, in turns, so that a slow minute slows both.

    OMP_NUM_THREADS=1 torchrun --nproc-per-node 2 benchmarks/tracked.py

Leave out one rank (--nproc-per-node 1) to have a core free, as nodes with GPUs do.

With tracking, every ten steps make one record, which goes to metrics.jsonl, the console and W&B:
its client, its service, and a server on this machine, which shares the cores that W&B's own does
not. In the other steps W&B's service and the server are stopped (SIGSTOP). A record every 10 steps
is five times as often as ``tracking.log_every`` has it.
"""

import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from io import StringIO
from pathlib import Path

import click
import psutil  # type: ignore[import-untyped]
import torch
import torch.distributed as dist
from engines import observed_step
from ratios import median_interval

from rwp_dist.process import choose_device, process_group
from rwp_dist.record import RunDir
from rwp_dist.run import Watch
from rwp_dist.tracking import Tracker, open_tracker

SERVER = Path(__file__).parents[1] / "tests" / "support" / "wandb_server.py"


@contextmanager
def server() -> Iterator[psutil.Process]:
    """A W&B server on this machine, and the variables that lead to it."""
    process = subprocess.Popen([sys.executable, str(SERVER)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        name, _, value = line.strip().partition("=")
        os.environ[name] = value
        if name == "WANDB_API_KEY":
            break
    try:
        yield psutil.Process(process.pid)
    finally:
        process.kill()
        process.wait()


def rounds_of(
    step: Callable[[int], None],
    each: Callable[[int], None],
    record: Callable[[int], None],
    switch: Callable[[bool], None],
    rounds: int,
    steps: int,
) -> dict[bool, list[float]]:
    """Seconds of each round's steps, with and without tracking.

    Args:
        step: takes one step.
        each: what tracking does at every step.
        record: makes a record and sends it to all sinks.
        switch: lets W&B's processes run, or stops them.
        rounds: how many.
        steps: of each kind in a round; in the middle a record is made.
    """
    seconds: dict[bool, list[float]] = {True: [], False: []}
    for number in range(-1, rounds):  # one to warm up
        spent = {True: 0.0, False: 0.0}
        for index in range(steps):
            for tracked in random.Random(steps * number + index).sample([True, False], 2):
                switch(tracked)
                dist.barrier()
                begin = time.perf_counter()
                step(index)
                if tracked:
                    each(index)
                if tracked and index == steps // 2:
                    record(steps * (number + 2))
                dist.barrier()
                spent[tracked] += time.perf_counter() - begin
        if number >= 0:
            for tracked in spent:
                seconds[tracked].append(spent[tracked])
        if number > 0 and number % 50 == 0 and dist.get_rank() == 0:
            print(f"{number + 1} rounds: {ratio_text(seconds)}", file=sys.stderr)
    return seconds


def ratio_text(seconds: dict[bool, list[float]]) -> str:
    """Median over rounds of the ratio with and without tracking, with its interval."""
    ratios = [a / b for a, b in zip(seconds[True], seconds[False], strict=True)]
    middle, low, high = median_interval(ratios)
    return f"{middle:8.4f} x  (95 %: {low:.4f} to {high:.4f})"


@click.command()
@click.option("--model", default="resnet18", show_default=True)
@click.option("--size", default=64, show_default=True, help="Height and width of the images.")
@click.option("--batch", default=8, show_default=True, help="Images of one rank.")
@click.option("--rounds", default=60, show_default=True, help="Ratios to take the median of.")
@click.option("--steps", default=10, show_default=True, help="Steps of each kind in a round.")
def main(model: str, size: int, batch: int, rounds: int, steps: int) -> None:
    """Print the ratio."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the blocks' end is reached
    with process_group(choose_device("auto")), tempfile.TemporaryDirectory() as folder:
        passes = max(1, 2 // dist.get_world_size())  # m-rwp needs two
        parts, progress, step = observed_step("m-rwp", model, size, batch, micro_batches=passes)
        others: list[psutil.Process] = []

        def switch(on: bool) -> None:
            for process in others:
                with suppress(psutil.NoSuchProcess):
                    process.send_signal(signal.SIGCONT if on else signal.SIGSTOP)

        def each(done: int) -> None:
            watch.at(done, 0)
            tracker.advance(done)

        def record(done: int) -> None:
            made = progress.train_record(done, 0)
            with redirect_stdout(StringIO()):
                tracker.log("train", made)

        if dist.get_rank() == 0:
            with server() as process, redirect_stdout(StringIO()) as said:
                tracker = open_tracker(
                    parts.settings, RunDir(folder), total_steps=100_000, first_step=0
                )
                watch = Watch(parts.settings, RunDir(folder), tracker, 0, 0)
                while "W&B: http" not in said.getvalue():
                    time.sleep(0.1)
                children = psutil.Process().children(recursive=True)
                others += [process, *(c for c in children if "wandb-core" in c.name())]
                try:
                    seconds = rounds_of(step, each, record, switch, rounds, steps)
                finally:
                    switch(True)  # what is stopped would stay so for ever
                tracker.close("finished")
        else:
            tracker = Tracker()
            watch = Watch(parts.settings, RunDir(folder), tracker, 0, 0)
            seconds = rounds_of(step, each, record, switch, rounds, steps)
        parts.close()
        if dist.get_rank() == 0:
            step_s = statistics.median(seconds[False]) / steps
            print(f"step without tracking  {step_s * 1e3:8.1f} ms")
            print(f"with tracking          {ratio_text(seconds)}")


if __name__ == "__main__":
    main()
