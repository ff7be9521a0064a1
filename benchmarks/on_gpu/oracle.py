"""Every method against the float64 oracle: on both engines, at every ZeRO stage, in bf16."""

import sys
from collections.abc import Iterator
from dataclasses import replace

import torch
from perturb.test_oracle import (
    AUTOCAST_TOLERANCES,
    STEPS,
    TOLERANCE,
    errors,
    formula_of,
    run_oracle,
    run_package,
)
from support import oracle
from support.methods import overrides
from support.small import small_settings, split_over

from rwp_dist.perturb import METHODS
from rwp_dist.process import choose_device, process_group

DRY = "--dry" in sys.argv
NAMES = ("m-arwp",) if DRY else oracle.METHODS
MICRO_BATCHES, SAMPLES = 2, 60
STAGES = (1,) if DRY else (1, 2, 3)
COLUMNS = {
    "own": ("engine.name=ddp",),
    "stage 0": ("engine.name=deepspeed",),
    **{f"stage {stage}": (f"deepspeed.zero_stage={stage}",) for stage in STAGES},
    "own, bf16": ("engine.name=ddp", "precision=bf16"),
}
"""``own``: the service's engine without DeepSpeed."""
BF16_TOLERANCE = AUTOCAST_TOLERANCES["bf16"][0]


def error_of(method: str, case: tuple[str, ...], device: torch.device) -> float:
    """Relative error of all weights after ten steps."""
    case = overrides(method, *case, f"run.device={device.type}", split_over(1, MICRO_BATCHES))
    if DRY:
        case = (*case, "noise.backend=native")  # interpreted kernels take minutes
    (got,) = run_package([case], SAMPLES)
    formula = replace(formula_of(small_settings(*case, steps=STEPS)), philox=True)
    wanted = run_oracle(formula, 1, MICRO_BATCHES, SAMPLES)
    return float(errors(got["weights"], wanted.weights)[0])


def found(device: torch.device) -> Iterator[tuple[float, float]]:
    """Errors and their bounds."""
    print(f"{'method':<10}" + "".join(f"{title:>10}" for title in COLUMNS))
    for method in NAMES:
        cells = []
        for title, case in COLUMNS.items():
            if title == "stage 3" and METHODS[method].needs_whole_weights:
                cells.append(f"{'-':>10}")
                continue
            error = error_of(method, case, device)
            cells.append(f"{error:10.1e}")
            yield error, BF16_TOLERANCE if "bf16" in title else TOLERANCE
        print(f"{method:<10}" + "".join(cells))


def main() -> int:
    """0: all agree."""
    torch.backends.cudnn.allow_tf32 = False
    device = choose_device("auto")
    with process_group(device):
        errors_and_bounds = list(found(device))
    print(f"bars: error of all weights <= {TOLERANCE:.0e}, in bf16 <= {BF16_TOLERANCE:.0e}")
    return not all(error <= bound for error, bound in errors_and_bounds)


if __name__ == "__main__":
    sys.exit(main())
