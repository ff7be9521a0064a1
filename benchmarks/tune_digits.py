"""Tune the settings of configs/digits.yaml, with the same small budget for every method.

    rwp-dist shards digits --folds 5 && python benchmarks/tune_digits.py

Each method has six settings. Each setting is trained on five folds of the *training* images (800
images, 40 % of their labels replaced at random) and scored on the other 200, whose labels are as
noisy: a network that is always right scores about 64 %. The test images are never read. One process
with two micro-batches computes what two ranks compute. Prints a table and the best of each method.
"""

import contextlib
import io
import itertools
import json
import statistics
import sys
import tempfile
from pathlib import Path

import click
import torch

from rwp_dist.config import load_settings
from rwp_dist.process import choose_device, process_group
from rwp_dist.train import train

GRID: dict[str, list[dict[str, object]]] = {
    "sgd": [
        {"optimizer.lr": lr, "optimizer.weight_decay": decay}
        for lr, decay in itertools.product((0.05, 0.1, 0.2), (5e-4, 5e-3))
    ],
    "sam": [{"method.rho": rho} for rho in (0.05, 0.1, 0.2, 0.3, 0.5, 0.8)],
    "rwp": [
        *({"method.scale": "rms", "method.sigma": sigma} for sigma in (0.02, 0.04, 0.06, 0.09)),
        *({"method.scale": "filter", "method.sigma": sigma} for sigma in (0.004, 0.007)),
    ],
    "m-rwp": [
        *({"method.scale": "rms", "method.sigma": sigma} for sigma in (0.5, 0.7, 1.0, 1.4)),
        *({"method.scale": "filter", "method.sigma": sigma} for sigma in (0.1, 0.15)),
    ],
    "m-arwp": [
        *({"method.scale": "rms", "method.sigma": sigma} for sigma in (0.7, 1.0, 1.4, 2.0)),
        *({"method.scale": "filter", "method.sigma": sigma} for sigma in (0.1, 0.15)),
    ],
}


def score(config: Path, data: Path, method: str, choice: dict[str, object], fold: int) -> float:
    """Top-1 in percent on the fold that was left out."""
    mixed = method.startswith("m-")
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        settings = load_settings(
            config,
            [
                f"method.name={method}",
                f"data.train={data}/fold{fold}/train",
                f"data.val={data}/fold{fold}/val",
                f"run.dir={folder}",
                f"run.seed={100 + fold}",
                f"batch.global={128 if mixed else 64}",
                f"batch.per_rank={64 if mixed else 32}",
                "evaluation.every_epochs=0",
                "tracking.wandb=off",
                *(f"{key}={value}" for key, value in choice.items()),
            ],
        )
        return float(train(settings)["top1"])


@click.command()
@click.option("--config", default="configs/digits.yaml", show_default=True)
@click.option("--data", default="data/digits", show_default=True)
@click.option("--methods", default=",".join(GRID), show_default=True)
@click.option("--folds", default=5, show_default=True)
def main(config: str, data: str, methods: str, folds: int) -> None:
    """Print the score of every setting and the best setting of each method."""
    torch.set_num_threads(1)
    with process_group(choose_device("cpu")):
        for method in methods.split(","):
            rows = []
            for choice in GRID[method]:
                tops = [score(Path(config), Path(data), method, choice, f) for f in range(folds)]
                rows.append((statistics.mean(tops), statistics.stdev(tops), choice))
                mean, deviation, _ = rows[-1]
                print(f"{method:<7} {mean:6.2f} ± {deviation:4.2f}  {json.dumps(choice)}")
                sys.stdout.flush()
            best = max(rows, key=lambda row: row[0])
            print(f"{method:<7} best: {json.dumps(best[2])}", flush=True)


if __name__ == "__main__":
    main()
