"""Tune the variants of a configuration, with the same number of settings for each.

    rwp-dist shards mnist --cuts 4 && python benchmarks/tune.py configs/mnist.yaml
    rwp-dist shards digits --folds 5 && python benchmarks/tune.py configs/digits.yaml

The settings to try are in benchmarks/grids. Each is trained on every split of the *training* side
of the data (folders with train/ and val/ in them) and scored on the split's val; the test images
are never read. One process with two micro-batches computes what two ranks compute. Prints the
settings of each variant by their score, and says if the best lies at an edge of its grid. Every
score is kept in tuning.jsonl beside the splits, so that a stopped or extended search goes on;
several commands with other --variants may run beside each other.
"""

import contextlib
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

from rwp_dist.config import load_settings
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


def score(config: Path, data: Path, job: Job) -> float:
    """Top-1 in percent on the part of a split that was left out."""
    variant, choice, split = job
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        overrides = [
            f"variant={variant}",
            f"data.train={data}/{split}/train",
            f"data.val={data}/{split}/val",
            f"run.dir={folder}",
            f"run.seed={100 + int(''.join(filter(str.isdigit, split)))}",
            "evaluation.every_epochs=0",
            "tracking.wandb=off",
            *(f"{key}={value}" for key, value in choice.items()),
        ]
        batch = load_settings(config, overrides).batch.global_
        settings = load_settings(config, [*overrides, f"batch.per_rank={batch // 2}"])
        return float(train(settings)["top1"])


def edges(best: Choice, tried: list[Choice]) -> Iterator[str]:
    """Keys of numbers whose best value is the least or the most of those tried beside it.

    Nothing is below 0, so that is no edge.
    """
    for key, value in best.items():
        others = [c for c in tried if c.keys() == best.keys()]
        values = {c[key] for c in others if all(c[k] == best[k] for k in best if k != key)}
        if isinstance(value, int | float) and value and value in (min(values), max(values)):
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
    splits = sorted(path.parent.name for path in data.glob("*/val"))
    if not splits:
        raise click.UsageError(f"{data} has no splits; write some first (see --help of shards)")
    results = data / "tuning.jsonl"
    known = {
        tuple(map(str, row[:3])): row[3]
        for row in map(json.loads, results.read_text().splitlines() if results.exists() else [])
    }
    torch.set_num_threads(1)
    with process_group(choose_device("cpu")), results.open("a") as file:
        for name in names:
            tried = choices(grids[name])
            for job in itertools.product([name], tried, splits):
                key = tuple(map(str, job))
                if key not in known:
                    known[key] = score(config, data, job)
                    print(json.dumps([*job, known[key]]), file=file, flush=True)
            scores = {
                json.dumps(choice): [known[name, str(choice), split] for split in splits]
                for choice in tried
            }
            report(name, scores)


if __name__ == "__main__":
    main()
