"""What makes the host wait for the GPU in a training step, counted in two ways, by place.

``torch.cuda.set_sync_debug_mode`` names the line that asks for a value; the profiler counts the
waiting calls of the CUDA runtime, whoever makes them. Perturbation may add none to sgd's.
"""

import sys
import warnings
from collections import Counter
from pathlib import Path

import torch
from engines import engine_step
from torch.profiler import ProfilerActivity, profile

from rwp_dist.process import choose_device, process_group

DRY = "--dry" in sys.argv
STEPS = 2 if DRY else 10
WAITING = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize", "cudaMemcpy")
METHODS, STAGES = ("sgd", "m-rwp", "m-arwp", "last-sam"), (0, 1)
CASES = {
    f"{method}, stage {stage}": (method, f"deepspeed.zero_stage={stage}")
    for stage in STAGES
    for method in METHODS
} | {"m-rwp, torch draws": ("m-rwp", "noise.backend=torch")}
if DRY:
    CASES = {title: CASES[title] for title in ("sgd, stage 0", "m-arwp, stage 0")}


def places(said: list[warnings.WarningMessage]) -> Counter[str]:
    """Lines of Python that waited."""
    waits = (w for w in said if "synchroniz" in str(w.message))
    return Counter(f"{'/'.join(Path(w.filename).parts[-3:])}:{w.lineno}" for w in waits)


def main() -> int:
    """0: no method waits more often than sgd at its stage."""
    device, held = choose_device("auto"), True
    activity = ProfilerActivity.CPU if device.type == "cpu" else ProfilerActivity.CUDA
    counts: dict[str, int] = {}
    with process_group(device):
        for title, (method, setting) in CASES.items():
            more = ["precision=bf16", setting] + ["noise.backend=native"] * DRY
            _, step = engine_step(method, "resnet18", 64, 8, more, micro_batches=2)
            for number in range(3):
                step(number)
            if device.type == "cuda":
                torch.cuda.set_sync_debug_mode("warn")
            with warnings.catch_warnings(record=True) as said:
                warnings.simplefilter("always")
                for number in range(STEPS):
                    step(3 + number)
            if device.type == "cuda":
                torch.cuda.set_sync_debug_mode("default")
                torch.cuda.synchronize()
            with profile(activities=[activity]) as profiler:
                for number in range(STEPS):
                    step(3 + STEPS + number)
            calls = Counter(e.name for e in profiler.events() if e.name in WAITING)
            lines = places(said)
            counts[title] = lines.total()
            base = counts[f"sgd, {title.split(', ')[1]}"] if "stage" in title else counts[title]
            held &= counts[title] <= base
            print(f"{title:<22}{lines.total() / STEPS:6.2f} a step by torch;", dict(calls))
            for line, count in lines.most_common():
                print(f"    {count / STEPS:6.2f}  {line}", flush=True)
    print("bar: no method waits more often than sgd at its stage")
    return not held


if __name__ == "__main__":
    sys.exit(main())
