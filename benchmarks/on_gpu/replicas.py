"""Two ranks on one GPU: equal replicas in DDP, the oracle's weights, and a resumed run's bits."""

import sys
import tempfile
from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist
from perturb.test_oracle import STEPS, TOLERANCE, errors, formula_of, run_oracle
from support.library import Library
from support.methods import METHOD_SETTINGS, overrides
from support.small import same_bits, small_net, small_settings, split_over
from torch import Tensor
from torch.multiprocessing.spawn import spawn

NAMES = ("m-arwp",) if "--dry" in sys.argv else tuple(METHOD_SETTINGS)
WORLD_SIZE = MICRO_BATCHES = 2
SAMPLES = 60


class Loop(Library):
    """A user's loop on this rank's device."""

    def batches(self, step: int) -> list[tuple[Tensor, Tensor]]:
        device = next(self.net.parameters()).device
        return [(x.to(device), y.to(device)) for x, y in super().batches(step)]


def start(case: tuple[str, ...], device: torch.device) -> Loop:
    return Loop(small_net().to(device), small_settings(*case, steps=STEPS))


def train(loop: Loop, first: int, stop: int) -> None:
    for step in range(first, stop):
        loop.step(step)


def resumed(case: tuple[str, ...], device: torch.device) -> dict[str, Tensor]:
    """Weights of a run that was saved in its middle and went on in fresh objects."""
    loop = start(case, device)
    train(loop, 0, STEPS // 2)
    parts: tuple[Any, ...] = (loop.net, loop.optimizer, loop.noisy)
    saved = [part.state_dict() for part in parts]
    loop.close()
    loop = start(case, device)
    for part, state in zip((loop.net, loop.optimizer, loop.noisy), saved, strict=True):
        part.load_state_dict(state)
    train(loop, STEPS // 2, STEPS)
    loop.close()
    return {name: w.cpu() for name, w in loop.weights().items()}


def rank_main(rank: int, folder: str, device_type: str) -> None:
    """Leaves ``rank-N.pt``: weights of an undisturbed and of a resumed run of every method."""
    store = f"file://{folder}/store"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=WORLD_SIZE)
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.deterministic = True
    torch.set_num_threads(1)
    device = torch.device(device_type, 0) if device_type == "cuda" else torch.device("cpu")
    runs = {}
    for method in NAMES:
        case = overrides(method, f"run.device={device_type}", split_over(2, MICRO_BATCHES))
        loop = start(case, device)
        train(loop, 0, STEPS)
        loop.close()
        whole = {name: w.cpu() for name, w in loop.weights().items()}
        runs[method] = whole, resumed(case, device)
    torch.save(runs, f"{folder}/rank-{rank}.pt")
    dist.destroy_process_group()


def main() -> int:
    """0: bits and bound hold for every method."""
    device_type = "cuda" if torch.cuda.is_available() else "cpu"
    with tempfile.TemporaryDirectory() as folder:
        spawn(rank_main, (folder, device_type), WORLD_SIZE)
        runs = [torch.load(f"{folder}/rank-{rank}.pt") for rank in range(WORLD_SIZE)]
    held = True
    print(f"{'method':<10}{'error':>10}{'replicas':>10}{'resumed':>10}")
    for method in NAMES:
        (first, first_again), (second, second_again) = runs[0][method], runs[1][method]
        case = overrides(method, split_over(2, MICRO_BATCHES))
        formula = replace(formula_of(small_settings(*case, steps=STEPS)), philox=True)
        wanted = run_oracle(formula, WORLD_SIZE, MICRO_BATCHES, SAMPLES)
        error = errors(first, wanted.weights)[0]
        equal = same_bits(first, second)
        resumes = same_bits(first, first_again) and same_bits(second, second_again)
        say = {True: "equal", False: "DIFFER"}
        print(f"{method:<10}{error:10.1e}{say[equal]:>10}{say[resumes]:>10}")
        held &= error <= TOLERANCE and equal and resumes
    print(f"bars: error <= {TOLERANCE:.0e}, the rest equal to the last bit")
    return not held


if __name__ == "__main__":
    sys.exit(main())
