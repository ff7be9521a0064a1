"""Fashion-MNIST as a yardstick: the fewest updates, and device-seconds, to a stated top-1.

    python benchmarks/fashion.py tune     a strength for each row, on images held out of training
    python benchmarks/fashion.py find     the fewest updates of each row, with three seeds
    python benchmarks/fashion.py prove    ten fresh seeds of each row, in turns

Everything but the row is fixed: all 60,000 images, without augmentation, batches of 128, two
convolutions (20,490 parameters), SGD with momentum, and a learning rate that is constant and then
falls linearly. A row counts if ``(mean - TARGET) * sqrt(n) >= MARGIN`` on all 10,000 test images.
"In the tail" means: in the last 40 % of the updates, in which the learning rate falls. One update
of a row takes one forward and backward, sam's two. ``find`` and ``prove`` need the settings that
the step before printed, in RECORDS. Published results for scale: two convolutions below 100,000
parameters 92.5 %, ResNet-18 94.9 % (the data set's own page). The images are those of Debian's
package dataset-fashion-mnist, or torchvision downloads them. No subset is committed: published
results are for all 60,000, which take 30 MB.
"""

import json
import math
import statistics
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import click
import torch
from study.data import Split, fashion, file_of_scores
from study.search import search
from study.training import Trained, train
from study.variants import VARIANTS, Rule, Update
from torch import nn
from torch.optim import SGD

from rwp_dist.perturb.reference import Tensors

TARGET, MARGIN = 90.0, 0.3
"""Percent; the margin is about one standard deviation of a seed."""
DECAY_START = 0.6
BATCH = 128
LR = 0.02

TUNING_IMAGES, TUNING_STEPS = 50_000, 600
"""``tune`` trains on the first images and scores on the others."""
FACTOR = 2.0
"""Between two strengths that ``tune`` tries."""
TUNING_SEEDS, FINDING_SEEDS, PROVING_SEEDS = range(3), range(10, 13), range(100, 110)


def network(seed: int) -> nn.Module:
    """Two convolutions and a linear layer: ``[B, 1, 28, 28]`` to ``[B, 10]``."""
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for inputs, outputs in ((1, 16), (16, 32)):
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs)]
        layers += [nn.ReLU(), nn.MaxPool2d(2)]
    model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(32 * 7 * 7, 10))
    return model.to(memory_format=torch.channels_last)


def optimizer_of(model: nn.Module) -> SGD:
    """The one of all rows."""
    return SGD(model.parameters(), lr=LR, momentum=0.9, weight_decay=5e-4)


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
    strength: float = 0.0
    num_steps: int = 0
    """The fewest updates found; 0: not looked for."""


RECORDS = {
    "sgd": Record(VARIANTS["sgd"].rule, 0.0, 1100),
    "sam": Record(VARIANTS["sam"].rule, 0.00078, 1100),
    "sam in the tail": Record(in_the_tail(VARIANTS["sam"].rule), 0.00625, 1100),
    "last-sam": Record(VARIANTS["last-sam"].rule, 0.00039, 1100),
    "rwp": Record(VARIANTS["rwp"].rule, 0.05, 1100),
    "rwp in the tail": Record(in_the_tail(VARIANTS["rwp"].rule), 0.05, 1100),
    "m-rwp": Record(VARIANTS["m-rwp"].rule, 0.025, 1100),
    "m-arwp": Record(VARIANTS["m-arwp"].rule, 0.025, 1000),
}


class Runs:
    """Runs by (images to train on, row, strength, updates, seed), kept in a file of a line each."""

    def __init__(self, path: Path) -> None:
        self.path = path
        lines = path.read_text().splitlines() if path.exists() else []
        self.known = {tuple(key): Trained(*values) for key, values in map(json.loads, lines)}

    def run(self, name: str, record: Record, seed: int, data: Split) -> Trained:
        """Known or trained now."""
        key = (len(data.train.y), name, record.strength, record.num_steps, seed)
        if key not in self.known:
            model = network(seed)
            optimizer = optimizer_of(model)
            done = self.known[key] = train(
                *(record.rule, record.strength, model, optimizer, data),
                seed=seed,
                num_steps=record.num_steps,
                batch_size=BATCH,
                schedule=falling,
            )
            with self.path.open("a") as file:
                print(json.dumps([key, [done.top1, done.train_s]]), file=file)
        return self.known[key]

    def top1s(self, name: str, record: Record, seeds: Iterable[int], data: Split) -> list[float]:
        """One for each seed."""
        return [self.run(name, record, seed, data).top1 for seed in seeds]


def accepted(top1s: list[float]) -> bool:
    """Whether the mean is far enough above the target."""
    return (statistics.mean(top1s) - TARGET) * math.sqrt(len(top1s)) >= MARGIN


def tune(runs: Runs, name: str, data: Split) -> None:
    """Print what strengths give on images held out of training, until the best is no edge."""
    rows = torch.arange(len(data.train.y))
    data = Split(data.train.take(rows[:TUNING_IMAGES]), test=data.train.take(rows[TUNING_IMAGES:]))
    record = RECORDS[name]

    def score(strength: float) -> float:
        tried = replace(record, strength=strength, num_steps=TUNING_STEPS)
        mean = statistics.mean(runs.top1s(name, tried, TUNING_SEEDS, data))
        print(f"{name:<18} {strength:6g} {mean:6.2f} %", flush=True)
        return mean

    search(score, record.strength, FACTOR)


def find(runs: Runs, name: str, data: Split, first: int, stride: int, most: int) -> None:
    """Print the fewest updates, in multiples of ``stride`` from ``first`` on, that are accepted."""
    for num_steps in range(first, most + 1, stride):
        top1s = runs.top1s(name, replace(RECORDS[name], num_steps=num_steps), FINDING_SEEDS, data)
        print(f"{name:<18} {num_steps:5} updates {statistics.mean(top1s):6.2f} %", flush=True)
        if accepted(top1s):
            return
    print(f"{name:<18} not reached")


def prove(runs: Runs, names: list[str], data: Split) -> None:
    """Train every row with the seeds, in turns, and print what each took.

    Seconds, and their ratio to sgd's of the same seed, are medians.
    """
    for name in (name for name in names if not RECORDS[name].num_steps):
        print(f"{name:<18} left out: no number of updates in RECORDS")
    names = [name for name in names if RECORDS[name].num_steps]
    done = {name: list[Trained]() for name in names}
    for seed in PROVING_SEEDS:
        for name in names:
            done[name].append(runs.run(name, RECORDS[name], seed, data))
    for name, trained in done.items():
        top1s = [one.top1 for one in trained]
        seconds = [one.train_s for one in trained]
        ratios = [s / plain.train_s for s, plain in zip(seconds, done.get("sgd", []), strict=False)]
        ratio = f"{statistics.median(ratios):.2f} x sgd " if ratios else ""
        print(
            f"{name:<18} {RECORDS[name].num_steps:5} updates "
            f"{statistics.median(seconds):6.1f} s {ratio}"
            f"{statistics.mean(top1s):6.2f} ± {statistics.stdev(top1s):.2f}"
            f"{'' if accepted(top1s) else ' not accepted'}"
        )


@click.command()
@click.argument("what", type=click.Choice(("tune", "find", "prove")))
@click.option("--rows", default=",".join(RECORDS), show_default=True)
@click.option("--first", default=800, show_default=True, help="Updates that `find` tries first.")
@click.option("--stride", default=100, show_default=True, help="How many more it tries next.")
@click.option("--most", default=2000, show_default=True, help="Updates at which it gives up.")
def main(what: str, rows: str, first: int, stride: int, most: int) -> None:
    """Tune rows, find their fewest updates, or prove those that are written down."""
    data, names = Split(*fashion()), rows.split(",")
    if unknown := set(names) - set(RECORDS):
        raise click.UsageError(f"there is no row {', '.join(sorted(unknown))}")
    fixed = BATCH, DECAY_START, TUNING_STEPS, network(0), optimizer_of(network(0))
    runs = Runs(file_of_scores("fashion", *fixed))
    if what == "prove":
        prove(runs, names, data)
    for name in names:
        if what == "tune":
            tune(runs, name, data)
        elif what == "find":
            find(runs, name, data, first, stride, most)


if __name__ == "__main__":
    main()
