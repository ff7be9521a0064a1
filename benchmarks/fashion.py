"""Fashion-MNIST as a yardstick: the fewest updates, and device-seconds, to a stated top-1.

    python benchmarks/fashion.py find --rows rwp     the fewest updates, with three seeds
    python benchmarks/fashion.py prove               ten fresh seeds of every row of RECORDS

Everything but the row is fixed: all 60,000 images, without augmentation, batches of 128, two
convolutions (19,000 parameters), SGD with momentum, and a learning rate that is constant and then
falls linearly. A row counts if ``(mean - TARGET) * sqrt(n) >= MARGIN`` on all 10,000 test images.
"In the tail" means: in the last 40 % of the updates, in which the learning rate falls. One update
of a row takes one forward and backward, sam's two. Published results for scale: two convolutions
below 100,000 parameters 92.5 %, ResNet-18 94.9 % (the data set's own page). The images are those
of Debian's package dataset-fashion-mnist, or torchvision downloads them; they are too large to
commit.
"""

import json
import math
import statistics
import time
from dataclasses import dataclass
from pathlib import Path

import click
import torch
from study.data import Split, fashion
from study.training import train
from study.variants import VARIANTS, Rule, Update
from torch.optim import SGD

from rwp_dist.config import load_settings
from rwp_dist.perturb.reference import Tensors
from rwp_dist.run import build_model

TARGET, MARGIN = 89.0, 0.3
"""Percent; the margin is about two standard errors of one seed."""
DECAY_START = 0.6
SEEDS = range(100, 110)
BATCH = 128
NETWORK = ("data.image_size=28", "model.name=small_cnn", "model.options={widths: [32, 64]}")


def falling(time: float) -> float:
    """Factor of the learning rate: constant, then linear down to zero."""
    return min(1.0, (1 - time) / (1 - DECAY_START))


def in_the_tail(rule: Rule) -> Rule:
    """The rule while the learning rate falls, and before that the plain gradient."""

    def tail(u: Update) -> Tensors:
        return (rule if u.time >= DECAY_START else VARIANTS["sgd"].rule)(u)

    return tail


@dataclass(frozen=True)
class Record:
    """What a row is trained with."""

    rule: Rule
    lr: float
    strength: float = 0.0
    num_steps: int = 0
    """The fewest updates found; 0: not looked for."""


RECORDS = {
    "sgd": Record(VARIANTS["sgd"].rule, 0.1),
    "sam": Record(VARIANTS["sam"].rule, 0.1, 0.05),
    "sam in the tail": Record(in_the_tail(VARIANTS["sam"].rule), 0.1, 0.05),
    "rwp": Record(VARIANTS["rwp"].rule, 0.1, 0.05),
    "rwp in the tail": Record(in_the_tail(VARIANTS["rwp"].rule), 0.1, 0.05),
    "m-rwp": Record(VARIANTS["m-rwp"].rule, 0.1, 0.1),
    "m-arwp": Record(VARIANTS["m-arwp"].rule, 0.1, 0.1),
    "last-sam": Record(VARIANTS["last-sam"].rule, 0.1, 0.05),
}


def run(record: Record, seed: int, num_steps: int, data: Split) -> tuple[float, float]:
    """Top-1 and the seconds that training took."""
    model = build_model(load_settings(None, [*NETWORK, f"run.seed={seed}"]))
    model = model.to(memory_format=torch.channels_last)
    optimizer = SGD(model.parameters(), lr=record.lr, momentum=0.9, weight_decay=5e-4)
    begin = time.perf_counter()
    top1 = train(
        record.rule,
        record.strength,
        model,
        optimizer,
        data,
        seed=seed,
        num_steps=num_steps,
        batch_size=BATCH,
        schedule=falling,
    )
    return top1, time.perf_counter() - begin


def accepted(top1s: list[float]) -> bool:
    """Whether the mean is far enough above the target."""
    return (statistics.mean(top1s) - TARGET) * math.sqrt(len(top1s)) >= MARGIN


def find(name: str, data: Split, seeds: range, first: int, stride: int) -> int:
    """The fewest updates, in multiples of ``stride`` from ``first`` on, that are accepted."""
    num_steps = first
    while True:
        top1s = [run(RECORDS[name], seed, num_steps, data)[0] for seed in seeds]
        print(f"{name}: {num_steps} updates, {statistics.mean(top1s):.2f} %", flush=True)
        if accepted(top1s):
            return num_steps
        num_steps += stride


def prove(names: list[str], data: Split, results: Path) -> None:
    """Train every row with the seeds, in turns, and print what each took; goes on after a stop."""
    lines = results.read_text().splitlines() if results.exists() else []
    known = {tuple(row[:3]): tuple(row[3:]) for row in map(json.loads, lines)}
    for seed in SEEDS:
        for name in names:
            key = (name, RECORDS[name].num_steps, seed)
            if key not in known:
                known[key] = run(RECORDS[name], seed, RECORDS[name].num_steps, data)
                with results.open("a") as file:
                    print(json.dumps([*key, *known[key]]), file=file)
    for name in names:
        num_steps = RECORDS[name].num_steps
        top1s, seconds = zip(*(known[name, num_steps, seed] for seed in SEEDS), strict=True)
        mean, deviation = statistics.mean(top1s), statistics.stdev(top1s)
        print(
            f"{name:<18} {num_steps:5} updates {statistics.median(seconds):6.1f} s "
            f"{mean:6.2f} ± {deviation:.2f} {'' if accepted(list(top1s)) else ' not accepted'}"
        )


@click.command()
@click.argument("what", type=click.Choice(("find", "prove")))
@click.option("--rows", default=",".join(RECORDS), show_default=True)
@click.option("--seeds", default=3, show_default=True, help="Of `find`.")
@click.option("--first", default=400, show_default=True, help="Updates that `find` tries first.")
@click.option("--stride", default=50, show_default=True, help="How many more it tries next.")
def main(what: str, rows: str, seeds: int, first: int, stride: int) -> None:
    """Find the fewest updates of rows, or prove those that are written down."""
    train_images, test_images = fashion()
    data, names = Split(train_images, test_images), rows.split(",")
    if unknown := set(names) - set(RECORDS):
        raise click.UsageError(f"there is no row {', '.join(sorted(unknown))}")
    if what == "find":
        for name in names:
            find(name, data, range(seeds), first, stride)
        return
    results = Path("data") / "fashion" / "records.jsonl"
    results.parent.mkdir(parents=True, exist_ok=True)
    prove([name for name in names if RECORDS[name].num_steps], data, results)


if __name__ == "__main__":
    main()
