"""Tune the variants of a configuration, with the same number of settings for each.

    rwp-dist shards mnist --cuts 3 && python benchmarks/tune.py configs/mnist.yaml
    rwp-dist shards digits --folds 5 && python benchmarks/tune.py configs/digits.yaml

The settings to try are in benchmarks/grids. Each is trained on every split of the *training* side
of the data (folders with train/ and val/ in them) and scored on the split's val; the test images
are never read. One process with two micro-batches computes what two ranks compute. Prints the
settings of each variant by their score, and says if the best lies at an edge of its grid. Every
score is kept in tuning.jsonl beside the splits, so that a stopped or extended search goes on;
several commands with other --variants may run beside each other.
"""

import contextlib
import hashlib
import io
import itertools
import json
import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import torch
import yaml

from rwp_dist.config import Settings, dump_settings, load_settings
from rwp_dist.process import choose_device, process_group
from rwp_dist.train import train

Choice = dict[str, Any]
"""Settings by key."""
Job = tuple[str, Choice, str]
"""A variant, what it is trained with, and the split's name."""


def choices(grids: list[dict[str, list[Any]]]) -> list[Choice]:
    """All combinations of each grid's values."""
    return [
        dict(zip(grid, values, strict=True))
        for grid in grids
        for values in itertools.product(*grid.values())
    ]


def overrides_of(data: Path, job: Job) -> list[str]:
    """What is set for one score. The number in the split's name also gives the seed."""
    variant, choice, split = job
    return [
        f"variant={variant}",
        f"data.train={data}/{split}/train",
        f"data.val={data}/{split}/val",
        f"run.seed={100 + int(''.join(filter(str.isdigit, split)) or 0)}",
        "evaluation.every_epochs=0",
        "tracking.wandb=off",
        *(f"{key}={value}" for key, value in choice.items()),
    ]


def digest(settings: Settings) -> str:
    """Tells runs of other settings apart, so that no old score is taken for theirs."""
    return hashlib.sha256(dump_settings(settings).encode()).hexdigest()[:16]


def score(settings: Settings) -> float:
    """Top-1 in percent on the part of a split that was left out."""
    half = settings.batch.global_ // 2
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        run = settings.run.model_copy(update={"dir": folder})
        batch = settings.batch.model_copy(update={"per_rank": half})
        return float(train(settings.model_copy(update={"run": run, "batch": batch}))["top1"])


def edges(best: Choice, tried: list[Choice]) -> Iterator[str]:
    """Keys of numbers whose best value is the least or the most of those tried beside it.

    Nothing is below 0, so that is no edge; nor is the only value.
    """
    for key, value in best.items():
        others = [c for c in tried if c.keys() == best.keys()]
        values = {c[key] for c in others if all(c[k] == best[k] for k in best if k != key)}
        numbers = isinstance(value, int | float) and len(values) > 1
        if numbers and value and value in (min(values), max(values)):
            yield key


def report(variant: str, tops: dict[str, list[float]]) -> None:
    """Print the settings of a variant, the best first."""
    rows = sorted(tops.items(), key=lambda row: -statistics.mean(row[1]))
    for text, values in rows:
        deviation = statistics.stdev(values) if len(values) > 1 else 0.0
        print(f"{variant:<14} {statistics.mean(values):6.2f} ± {deviation:4.2f}  {text}")
    best, tried = json.loads(rows[0][0]), [json.loads(text) for text, _ in rows]
    if at := ", ".join(edges(best, tried)):
        print(f"{variant:<14} the best is at an edge of {at}: extend the grid")


@click.command()
@click.argument("config", type=click.Path(exists=True, path_type=Path))
@click.option("--data", type=click.Path(path_type=Path), help="Folder of splits; data/NAME.")
@click.option("--variants", help="Some of the grid's, comma-separated.")
def main(config: Path, data: Path | None, variants: str | None) -> None:
    """Score every setting of the grid and print the best of each variant."""
    data = data or Path("data") / config.stem
    grids = yaml.safe_load((Path(__file__).parent / "grids" / config.name).read_text())
    names = variants.split(",") if variants else list(grids)
    if unknown := set(names) - set(grids):
        raise click.UsageError(f"the grid has no variant {', '.join(sorted(unknown))}")
    splits = sorted(path.parent.name for path in data.glob("*/val"))
    if not splits:
        raise click.UsageError(f"{data} has no splits; write some first (see --help of shards)")
    results = data / "tuning.jsonl"
    lines = results.read_text().splitlines() if results.exists() else []
    known = {row[0]: row[-1] for row in map(json.loads, lines)}
    torch.set_num_threads(1)
    with process_group(choose_device("cpu")), results.open("a") as file:
        for name in names:
            tried = choices(grids[name])
            tops: dict[str, list[float]] = {json.dumps(choice): [] for choice in tried}
            for choice, split in itertools.product(tried, splits):
                job = (name, choice, split)
                settings = load_settings(config, overrides_of(data, job))
                key = digest(settings)
                if key not in known:
                    known[key] = score(settings)
                    print(json.dumps([key, *job, known[key]]), file=file, flush=True)
                tops[json.dumps(choice)].append(known[key])
            report(name, tops)


if __name__ == "__main__":
    main()
