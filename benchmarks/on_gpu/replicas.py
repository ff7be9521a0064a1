"""Two ranks on one GPU: equal replicas, the oracle's weights, and a resumed run's bits.

By a user's loop under DistributedDataParallel, and by the service on its own engine.
"""

import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from perturb.test_oracle import STEPS, TOLERANCE, errors, formula_of, run_oracle
from support.checkpoints import load, save
from support.library import Library
from support.methods import METHOD_SETTINGS, overrides
from support.small import (
    run_all,
    same_bits,
    small_net,
    small_parts,
    small_settings,
    split_over,
    weights_of,
)
from torch import Tensor
from torch.multiprocessing.spawn import spawn

NAMES = ("m-arwp",) if "--dry" in sys.argv else tuple(METHOD_SETTINGS)
WORLD_SIZE = MICRO_BATCHES = 2
SAMPLES = 60
Weights = dict[str, Tensor]


class Loop(Library):
    """A user's loop on this rank's device."""

    def batches(self, step: int) -> list[tuple[Tensor, Tensor]]:
        device = next(self.net.parameters()).device
        return [(x.to(device), y.to(device)) for x, y in super().batches(step)]

    def run(self, first: int, stop: int) -> Weights:
        """Weights after these steps, which are its last."""
        for step in range(first, stop):
            self.step(step)
        self.close()
        return self.weights()


def by_loop(case: tuple[str, ...], device: torch.device, folder: Path) -> tuple[Weights, Weights]:
    """Weights of an undisturbed run, and of one that was saved in its middle and resumed."""
    loops = [Loop(small_net().to(device), small_settings(*case, steps=STEPS)) for _ in range(3)]
    _, saved, resumed = ((loop.net, loop.optimizer, loop.noisy) for loop in loops)
    undisturbed = loops[0].run(0, STEPS)
    loops[1].run(0, STEPS // 2)
    states: list[Any] = [part.state_dict() for part in saved]
    file = folder / "saved.pt"
    if dist.get_rank() == 0:
        torch.save(states, file)
    dist.barrier()
    states = torch.load(file)
    for part, state in zip(resumed, states, strict=True):
        part.load_state_dict(state)
    return undisturbed, loops[2].run(STEPS // 2, STEPS)


def by_service(
    case: tuple[str, ...], device: torch.device, folder: Path
) -> tuple[Weights, Weights]:
    """As ``by_loop``."""
    settings = small_settings(*case, f"run.device={device.type}", steps=STEPS)
    with small_parts(settings) as parts:
        run_all(parts)
        undisturbed = weights_of(parts)
    with small_parts(settings) as parts:
        run_all(parts, 0, STEPS // 2)
        save(folder, parts, STEPS // 2)
    with small_parts(settings, small_net(seed=1)) as parts:
        load(folder, parts)
        run_all(parts, STEPS // 2)
        return undisturbed, weights_of(parts)


WAYS: dict[str, Callable[[tuple[str, ...], torch.device, Path], tuple[Weights, Weights]]] = {
    "plain loop": by_loop,
    "service": by_service,
}


def rank_main(rank: int, way: str, folder: str) -> None:
    """Leaves ``ends-N.pt``: weights of an undisturbed and of a resumed run of every method."""
    store = f"file://{folder}/store"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=WORLD_SIZE)
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.deterministic = True
    torch.set_num_threads(1)
    device = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    ends = {}
    for method in NAMES:
        own = Path(folder) / method
        own.mkdir(exist_ok=True)
        found = WAYS[way](case_of(method), device, own)
        ends[method] = [{name: w.cpu() for name, w in weights.items()} for weights in found]
    torch.save(ends, f"{folder}/ends-{rank}.pt")
    dist.destroy_process_group()


def case_of(method: str) -> tuple[str, ...]:
    return overrides(method, split_over(WORLD_SIZE, MICRO_BATCHES))


def main() -> int:
    """0: bits and bound hold for every method."""
    held = True
    for way in WAYS:
        with tempfile.TemporaryDirectory() as folder:
            spawn(rank_main, (way, folder), WORLD_SIZE)
            ends = [torch.load(f"{folder}/ends-{rank}.pt") for rank in range(WORLD_SIZE)]
        print(f"{way:<12}{'error':>10}{'replicas':>10}{'resumed':>10}")
        for method in NAMES:
            (first, first_again), (second, second_again) = ends[0][method], ends[1][method]
            formula = formula_of(small_settings(*case_of(method), steps=STEPS))
            wanted = run_oracle(replace(formula, philox=True), WORLD_SIZE, MICRO_BATCHES, SAMPLES)
            error = errors(first, wanted.weights)[0]
            equal = same_bits(first, second)
            resumes = same_bits(first, first_again) and same_bits(second, second_again)
            say = {True: "equal", False: "DIFFER"}
            print(f"{method:<12}{error:10.1e}{say[equal]:>10}{say[resumes]:>10}", flush=True)
            held &= error <= TOLERANCE and equal and resumes
    print(f"bars: error <= {TOLERANCE:.0e}, the rest equal to the last bit")
    return not held


if __name__ == "__main__":
    sys.exit(main())
