"""Is it worth it for me? Trains with and without perturbation, and draws the scores.

    python examples/worth_it.py --seeds 3                                # digits, 40 % wrong labels
    python examples/worth_it.py --train my_script:train --sigma 0.2      # your own training

Your function is `train(seed, perturb) -> score`: it trains once, calls `perturb(model, optimizer)`
before its loop, and returns a score of held-out data, higher is better. It draws worth_it.png.
"""

import argparse
import importlib
import statistics
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional as F

from rwp_dist.perturb import Perturbed


def train_digits(seed: int, perturb: Callable[..., None]) -> float:
    """Test accuracy after training on digits of which 40 % have a random label."""
    from digits import accuracy, network, training_set

    images, labels = training_set(1200, seed).tensors
    generator = torch.Generator().manual_seed(seed)
    wrong = torch.rand(len(labels), generator=generator) < 0.4
    labels[wrong] = torch.randint(10, (int(wrong.sum()),), generator=generator)
    model = network(seed)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    perturb(model, optimizer)
    for _ in range(600):
        rows = torch.randint(len(labels), (64,), generator=generator)
        F.cross_entropy(model(images[rows]), labels[rows]).backward()
        optimizer.step()
        optimizer.zero_grad()
    return accuracy(model)


def main() -> None:
    """Train each seed twice, print both scores, and draw them."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--train", default="worth_it:train_digits", help="module:function")
    parser.add_argument("--method", default="rwp")
    parser.add_argument("--sigma", type=float, default=0.3)
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    sys.path.insert(0, ".")
    module, _, name = args.train.partition(":")
    try:
        train = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        parser.error(f"--train {args.train}: {error}; name a function as my_script:train")
    attached: list[Any] = []

    def perturb(model: Any, optimizer: Any) -> None:
        attached.append(Perturbed(model, args.method, sigma=args.sigma).attach(optimizer))

    scores: dict[str, list[float]] = {"without": [], args.method: []}
    for seed in range(args.seeds):
        scores["without"].append(train(seed, lambda model, optimizer: None))
        scores[args.method].append(train(seed, perturb))
        pair = ", ".join(f"{n} {s[-1]:.4f}" for n, s in scores.items())
        print(f"seed {seed}: {pair}", flush=True)
    for n, s in scores.items():
        print(f"{n:<8} {statistics.mean(s):.4f} ± {statistics.stdev(s) if len(s) > 1 else 0:.4f}")
    if len(attached) < args.seeds:
        print("train never called perturb(model, optimizer), so both were trained without.")

    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(4, 3), layout="constrained")
    for pair in zip(*scores.values(), strict=True):
        axes.plot(list(scores), pair, "o-", color="gray")
    axes.plot(list(scores), [statistics.mean(s) for s in scores.values()], "D-", color="black")
    axes.set(ylabel="score", title=f"{args.seeds} seeds; black: mean", xmargin=0.3)
    figure.savefig("worth_it.png", dpi=150)
    print("Drawn: worth_it.png")


if __name__ == "__main__":
    main()
