"""What makes the host wait for the GPU in a training step, counted in two ways, by place.

``torch.cuda.set_sync_debug_mode`` names the line that asks for a value; the profiler counts the
waiting calls of the CUDA runtime, whoever makes them. Perturbation may add none to those of sgd on
the same engine, by either count.
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
STEPS = 2 if DRY else 100
COUNTED = ("cudaStreamSynchronize", "cudaDeviceSynchronize")
WAITING = (*COUNTED, "cudaEventSynchronize", "cudaMemcpy")
METHODS = ("sgd",) + (("m-arwp",) if DRY else ("m-rwp", "m-arwp", "last-sam"))
ENGINES = {
    "": "engine.name=auto",  # the service's own
    ", stage 0": "engine.name=deepspeed",
    ", ZeRO-1": "deepspeed.zero_stage=1",
}
CASES: dict[str, tuple[str, str, str]] = {
    method + engine: (method, f"sgd{engine}", setting)
    for engine, setting in ENGINES.items()
    for method in METHODS
}
"""Method, the title of what it is compared with, and the setting of a row."""
if not DRY:
    CASES["m-rwp, torch draws"] = ("m-rwp", "sgd", "noise.backend=torch")


def places(said: list[warnings.WarningMessage]) -> Counter[str]:
    """Lines of Python that waited."""
    waits = (w for w in said if "synchroniz" in str(w.message))
    return Counter(f"{'/'.join(Path(w.filename).parts[-3:])}:{w.lineno}" for w in waits)


def main() -> int:
    """0: no method waits more often than sgd on its engine."""
    device, held = choose_device("auto"), True
    activity = ProfilerActivity.CPU if device.type == "cpu" else ProfilerActivity.CUDA
    counts: dict[str, tuple[int, int]] = {}
    with process_group(device):
        for title, (method, base, setting) in CASES.items():
            more = ["precision=bf16", setting] + ["noise.backend=native"] * DRY
            _, step = engine_step(method, "small_cnn", 32, 8, more, micro_batches=2)
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
            by_profiler = sum(calls[name] for name in COUNTED)
            counts[title] = lines.total(), by_profiler
            held &= all(own <= sgd for own, sgd in zip(counts[title], counts[base], strict=True))
            print(
                f"{title:<22}{lines.total() / STEPS:6.2f} a step by torch,"
                f"{by_profiler / STEPS:6.2f} by the profiler, in {STEPS} steps {dict(calls)}"
            )
            for line, count in lines.most_common():
                print(f"    {count / STEPS:6.2f}  {line}", flush=True)
    print(f"bar: by torch and by {' and '.join(COUNTED)}, no method waits more often than sgd")
    return not held


if __name__ == "__main__":
    sys.exit(main())
