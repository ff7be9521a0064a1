"""What it costs to perturb and restore the weights of a network, ways side by side.

    OMP_NUM_THREADS=1 python benchmarks/perturbation.py

All ways take turns, so that a machine that is shared or throttles does so for all; medians. The
limit is one copy of the parameters. ``exposed`` is what a step takes longer if its noise was drawn
ahead, beside the reduction of gradients. At ZeRO 1 and 2 the optimizer's step, which comes anyway,
brings the clean weights back: nothing of it is counted (the benchmark copies them back untimed).
"""

import os
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial

import click
import numpy as np
import torch
from authors import add_expanded_noise, subtract_noise
from torch import Tensor, nn

from rwp_dist.config import load_settings
from rwp_dist.perturb import CleanWeights, Perturbed, PerturbedCopy, Slot
from rwp_dist.perturb.moves import Noise
from rwp_dist.perturb.normals import Normals, choose_backend, open_normals
from rwp_dist.run import build_model

CPU = torch.device("cpu")
SIGMA = 0.01
Ways = dict[str, tuple[Callable[[], object], Callable[[], None]]]
"""What is timed, and what comes before it untimed, by name."""
SLOT = Slot(index=1, perturbed=True, share=0.5, draw=1)

NETWORKS = {
    "ResNet-50": ["model.name=resnet50", "model.num_classes=1000", "data.channels=3"],
    "ResNet-18, 32x32": ["model.name=cifar_resnet18", "model.num_classes=100", "data.channels=3"],
    "digits": ["model.name=small_cnn", "model.num_classes=10", "data.channels=1"],
}


class RestoredElsewhere:
    """ZeRO 1 and 2: the optimizer's step writes the weights, and that is not timed here."""

    whole = True

    def perturbing(self, params: Sequence[nn.Parameter]) -> AbstractContextManager[list[Tensor]]:
        """In place."""
        return nullcontext(list(params))

    def restore(self, *, last: bool) -> None:
        """Nothing."""

    def recover(self) -> None:
        """Nothing."""

    def stepped(self, applied: bool | Tensor) -> None:
        """Nothing."""

    def ensure_clean(self) -> None:
        """Nothing."""


class Ours:
    """This project's perturbation of a network."""

    def __init__(self, model: nn.Module, weights: CleanWeights, method: str, *, ahead: bool):
        self.noisy = Perturbed(
            model,
            method,
            sigma=SIGMA,
            scale="filter",  # the authors' noise, as in their loop
            exclude=(),
            weights=weights,
            slots=[[SLOT]],
            draw_ahead=ahead,
        )
        assert isinstance(self.noisy.move, Noise)
        self.energy = self.noisy.move.energy
        self.step = 0
        self.observers: list[Callable[[], None]] = []
        if self.energy is not None:
            for r in self.noisy.rows:
                self.observers.append(partial(self.energy._hook(r), torch.randn_like(r.param)))

    def prepare(self) -> None:
        """Draw the noise ahead, as the reduction of gradients leaves time for; not timed."""
        self.noisy.move.gradients_done(self.step)
        self.noisy.move.join()

    def __call__(self) -> None:
        """Perturb and restore; with m-arwp the energy of ready gradients, too."""
        with self.noisy(self.step):
            for observe in self.observers:
                observe()
        self.noisy.end_step()
        self.step += 1


def row_norms(param: Tensor) -> Tensor:
    """Norms of the filters, broadcastable over the parameter."""
    if param.ndim < 2:
        return param.norm()
    return param.flatten(1).norm(dim=1).view(-1, *[1] * (param.ndim - 1))


@torch.no_grad()
def per_tensor(params: list[nn.Parameter]) -> None:
    """A plain loop: copy, draw, scale, add; afterwards copy back."""
    copies = []
    for param in params:
        copies.append(param.clone())
        noise = torch.randn_like(param)
        param.add_(noise.mul_(row_norms(param) * SIGMA))
    for param, copy in zip(params, copies, strict=True):
        param.copy_(copy)


@torch.no_grad()
def foreach(params: list[Tensor]) -> None:
    """The same by multi-tensor operations."""
    copies = torch._foreach_clone(params)
    noises = [torch.randn_like(param) for param in params]
    torch._foreach_mul_(noises, torch._foreach_mul([row_norms(p) for p in params], SIGMA))
    torch._foreach_add_(params, noises)
    torch._foreach_copy_(params, copies)


def ways(model: nn.Module) -> Ways:
    """Every way to perturb and restore a network."""
    params = list(model.parameters())
    size = sum(p.numel() for p in params)
    source, target = torch.rand(size), torch.ones(size)
    nowhere = RestoredElsewhere()
    ahead = {
        "exposed, ZeRO 1 and 2": Ours(model, nowhere, "m-rwp", ahead=True),
        "exposed, ZeRO 1 and 2, m-arwp": Ours(model, nowhere, "m-arwp", ahead=True),
        "exposed, stage 0": Ours(model, PerturbedCopy(), "m-rwp", ahead=True),
    }
    now = {
        "in line, ZeRO 1 and 2": Ours(model, nowhere, "m-rwp", ahead=False),
        "in line, stage 0": Ours(model, PerturbedCopy(), "m-rwp", ahead=False),
    }
    return {
        "memcpy of the parameters": (lambda: target.copy_(source), idle),
        "authors' loop": (lambda: subtract_noise(add_expanded_noise(model, SIGMA)), idle),
        "per-tensor loop": (lambda: per_tensor(params), idle),
        "torch._foreach": (lambda: foreach(list(params)), idle),
        **{f"this project, {name}": (one, one.prepare) for name, one in (now | ahead).items()},
    }


def idle() -> None:
    """Nothing comes before."""


def measure(
    chosen: Ways,
    rounds: int,
    clean: Callable[[], None],
) -> dict[str, float]:
    """Median seconds of every way, taken in turns; ``clean`` comes between them untimed."""
    times: dict[str, list[float]] = {name: [] for name in chosen}
    for number in range(rounds + 2):
        for name, (way, before) in chosen.items():
            before()
            begin = time.perf_counter()
            way()
            seconds = time.perf_counter() - begin
            clean()
            if number >= 2:
                times[name].append(seconds)
    return {name: statistics.median(all_of) for name, all_of in times.items()}


def generators(size: int) -> Ways:
    """Ways to draw ``size`` standard normal values."""
    unit = torch.empty(1, size)
    array = np.empty(size, dtype=np.float32)
    rivals = {
        kind.__name__: np.random.Generator(kind(0))
        for kind in (np.random.SFC64, np.random.PCG64DXSM, np.random.Philox)
    }

    def ours(normals: Normals) -> object:
        return normals.fill(unit, 0, 1, 0)

    def numpys(name: str) -> object:
        return rivals[name].standard_normal(dtype=np.float32, out=array)

    ways: Ways = {"noise.backend: torch": (partial(ours, open_normals("torch", 0, CPU)), idle)}
    if choose_backend("auto", CPU) == "native":
        ways["noise.backend: native"] = (partial(ours, open_normals("native", 0, CPU)), idle)
    return ways | {f"NumPy {name}": (partial(numpys, name), idle) for name in rivals}


@click.command()
@click.option("--rounds", default=15, show_default=True)
def main(rounds: int) -> None:
    """Print the tables."""
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    for title, overrides in NETWORKS.items():
        torch.manual_seed(0)
        model = build_model(load_settings(None, overrides))
        chosen = ways(model)
        flat = [p.detach().clone() for p in model.parameters()]

        def clean(model: nn.Module = model, flat: list[Tensor] = flat) -> None:
            with torch.no_grad():
                torch._foreach_copy_(list(model.parameters()), flat)

        count = sum(p.numel() for p in model.parameters())
        found = measure(chosen, rounds if count > 1e6 else 20 * rounds, clean)
        print(f"\n{title}, {count:,} parameters")
        print(f"{'perturb and restore':<46}{'median ms':>10}{'x memcpy':>10}{'x authors':>11}")
        copy, authors = found["memcpy of the parameters"], found["authors' loop"]
        for name, seconds in found.items():
            print(f"{name:<46}{seconds * 1e3:10.3f}{seconds / copy:10.2f}{seconds / authors:11.3f}")
        energies = [way.energy for way, _ in chosen.values() if isinstance(way, Ours)]
        state = next(energy.value.nbytes for energy in energies if energy is not None)
        print(f"state of m-arwp: {state / (4 * count):.3%} of the parameters' bytes")
    size = 4_000_000
    print(f"\n{'standard normal values, fp32':<46}{'ns each':>10}")
    for name, seconds in measure(generators(size), rounds, idle).items():
        print(f"{name:<46}{seconds / size * 1e9:10.2f}")


if __name__ == "__main__":
    main()
