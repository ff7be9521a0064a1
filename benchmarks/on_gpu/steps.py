"""Training steps of every method in one interleaved run: images/s, MFU, memory, x sgd.

224x224 images, 256 in a pass, bf16. Mixed methods take two passes in a step, one clean and one
perturbed. *plain* rows are loops as people write them: with weights in the other memory format,
under DistributedDataParallel, with ``Perturbed``. The others are the service's: on its own engine,
which has no wrapper on one GPU, or on DeepSpeed at stage 0 or 1. ``x plain`` is over the plain loop
of as many passes, ``x sgd`` over the service's sgd of as many passes on the same engine. MFU is the
network's own work (one forward and backward pass of each image) over what the device reaches on a
large matrix product in bf16.
"""

import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from engines import engine_step, network
from kernels import measure
from torch import nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel
from torch.utils.flop_counter import FlopCounterMode

from rwp_dist.config import load_settings
from rwp_dist.perturb import Perturbed
from rwp_dist.process import choose_device, process_group
from rwp_dist.run import build_model

DRY = "--dry" in sys.argv
ROUNDS = 1 if DRY else 12
BATCH, SIZE = (2, 32) if DRY else (256, 224)
BARS = {"resnet50": 1.01, "vit_s_16": 1.015}
"""m-arwp x sgd."""
PLAIN = {1: "sgd, plain", 2: "sgd, plain, 2 passes"}
"""What rows of so many passes are compared with."""
NETWORKS = ("small_cnn",) if DRY else tuple(BARS)


@dataclass
class Row:
    """A way to train, and what one step of it is."""

    title: str
    step: Callable[[], None]
    passes: int
    sgd: str | None
    """Title of the service's sgd that it is compared with; None: with none."""


def service(name: str, title: str, method: str, passes: int, sgd: str, *more: str) -> Row:
    settings = ["precision=bf16", *["noise.backend=native"] * DRY, *more]
    _, step = engine_step(method, name, SIZE, BATCH, settings, passes)
    numbers = iter(range(2**62))
    return Row(title, lambda: step(next(numbers)), passes, sgd)


def plain(
    name: str,
    title: str,
    *,
    passes: int = 1,
    method: str = "sgd",
    channels_last: bool = False,
    ddp: bool = False,
) -> Row:
    """A loop as people write it, with ``Perturbed`` around its passes unless the method is sgd."""
    device = choose_device("auto")
    model = build_model(load_settings(None, network(name, SIZE))).to(device)
    if channels_last:
        model = model.to(memory_format=torch.channels_last)
    if ddp:
        model = DistributedDataParallel(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.001, momentum=0.9)
    images = torch.randn(BATCH, 3, SIZE, SIZE, device=device)
    images = images.contiguous(memory_format=torch.channels_last)
    labels = torch.randint(0, 1000, (BATCH,), device=device)
    noisy = Perturbed(model, method, micro_batches=passes) if method != "sgd" else None
    numbers = iter(range(2**62))

    def step() -> None:
        number = next(numbers)
        for micro_batch in range(passes):
            with noisy(number, micro_batch) if noisy else nullcontext():
                with torch.autocast(device.type, torch.bfloat16):
                    logits = model(images)
                weight = noisy.weight if noisy else 1.0 / passes
                (weight * F.cross_entropy(logits.float(), labels)).backward()
        optimizer.step()
        optimizer.zero_grad()
        if noisy:
            noisy.end_step()

    return Row(title, step, passes, None)


def rows(name: str) -> list[Callable[[], Row]]:
    """Ways that take turns."""
    own, stage_0, zero_1 = "engine.name=auto", "engine.name=deepspeed", "deepspeed.zero_stage=1"
    two = "sgd, 2 passes"
    return [
        lambda: plain(name, PLAIN[1]),
        lambda: plain(name, "sgd, plain, NHWC weights", channels_last=True),
        lambda: plain(name, "sgd, plain, DDP", ddp=True),
        lambda: plain(name, PLAIN[2], passes=2),
        lambda: plain(name, "m-arwp, plain, Perturbed", passes=2, method="m-arwp"),
        lambda: service(name, "sgd", "sgd", 1, "sgd", own),
        lambda: service(name, "rwp", "rwp", 1, "sgd", own),
        lambda: service(name, "arwp", "arwp", 1, "sgd", own),
        lambda: service(name, "last-sam", "last-sam", 1, "sgd", own),
        lambda: service(name, "sam", "sam", 1, "sgd", own),
        lambda: service(name, two, "sgd", 2, two, own),
        lambda: service(name, "m-rwp", "m-rwp", 2, two, own),
        lambda: service(name, "m-arwp", "m-arwp", 2, two, own),
        lambda: service(name, "m-rwp, torch draws", "m-rwp", 2, two, own, "noise.backend=torch"),
        lambda: service(name, "sgd, stage 0", "sgd", 1, "sgd, stage 0", stage_0),
        lambda: service(name, "rwp, stage 0", "rwp", 1, "sgd, stage 0", stage_0),
        lambda: service(name, "sgd, ZeRO-1", "sgd", 1, "sgd, ZeRO-1", zero_1),
        lambda: service(name, "rwp, ZeRO-1", "rwp", 1, "sgd, ZeRO-1", zero_1),
    ]


def flops_of_image(name: str) -> float:
    """Floating-point operations of one image's forward and backward pass."""
    model: nn.Module = build_model(load_settings(None, network(name, SIZE)))
    with FlopCounterMode(display=False) as counter:
        model(torch.randn(2, 3, SIZE, SIZE)).sum().backward()
    return counter.get_total_flops() / 2


def matrix_rate(device: torch.device) -> float:
    """Floating-point operations per second of a large bf16 matrix product."""
    n = 64 if DRY else 8192
    a, b = (torch.randn(n, n, device=device, dtype=torch.bfloat16) for _ in range(2))
    times = measure({"product": lambda: a @ b}, lambda: None, 5, 5, device)
    return 2 * n**3 / (times["product"] / 1000.0)


def memory(device: torch.device) -> int:
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else 0


def main() -> int:
    """0: the bars hold."""
    device = choose_device("auto")
    held = True
    with process_group(device):
        rate = matrix_rate(device)
        print(f"matrix product, bf16: {rate / 1e12:.0f} TFLOP/s")
        for name in NETWORKS:
            built, peaks = [], {}
            for build in rows(name):
                before = memory(device)
                row = build()
                own = memory(device) - before
                if device.type == "cuda":
                    row.step()
                    torch.cuda.reset_peak_memory_stats(device)
                    start = memory(device)
                    row.step()
                    peaks[row.title] = own + torch.cuda.max_memory_allocated(device) - start
                built.append(row)
            ms = measure({r.title: r.step for r in built}, lambda: None, ROUNDS, 2, device)
            flops = flops_of_image(name)
            print(
                f"{name:<28}{'ms':>9}{'images/s':>10}{'MFU':>7}{'GB':>7}{'x plain':>9}{'x sgd':>8}"
            )
            for row in built:
                took = ms[row.title]
                speed = row.passes * BATCH / (took / 1000.0)
                over_sgd = f"{took / ms[row.sgd]:8.3f}" if row.sgd else ""
                print(
                    f"{row.title:<28}{took:9.2f}{speed:10.0f}{speed * flops / rate:7.1%}"
                    f"{peaks.get(row.title, 0) / 1e9:7.1f}{took / ms[PLAIN[row.passes]]:9.3f}"
                    f"{over_sgd}",
                    flush=True,
                )
            if name in BARS:
                share = ms["m-arwp"] / ms["sgd, 2 passes"]
                print(f"bar: m-arwp {share:.3f} <= {BARS[name]} x sgd")
                held &= share <= BARS[name]
            del built
            torch.cuda.empty_cache()
    return not held


if __name__ == "__main__":
    sys.exit(main())
