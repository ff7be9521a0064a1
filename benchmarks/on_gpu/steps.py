"""Training steps of every method in one interleaved run: images/s, MFU, memory, x sgd.

224x224 images, 256 in a pass, bf16. Each row has as many images in a step as the ``sgd`` row that
it is compared with: mixed methods take two passes, one clean and one perturbed. ``DDP`` rows are
plain loops under DistributedDataParallel, with weights in either memory format, and with
``Perturbed``. MFU is the network's own work (one forward and backward pass of each image) over
what the device reaches on a large matrix product in bf16.
"""

import sys
from collections.abc import Callable
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
BATCH, SIZE = (2, 64) if DRY else (256, 224)
BARS = {"resnet50": 1.01, "vit_s_16": 1.015}
"""m-arwp x sgd."""
NETWORKS = ("resnet18",) if DRY else tuple(BARS)


@dataclass
class Row:
    """A way to train, and what one step of it is."""

    title: str
    step: Callable[[], None]
    passes: int = 1
    base: str = "sgd"


def service(name: str, title: str, method: str, passes: int, base: str, *more: str) -> Row:
    extra = ["precision=bf16", *more]
    if DRY:
        extra.append("noise.backend=native")
    _, step = engine_step(method, name, SIZE, BATCH, extra, passes)
    numbers = iter(range(2**62))
    return Row(title, lambda: step(next(numbers)), passes, base)


def plain(name: str, title: str, base: str, *, channels_last: bool, method: str = "sgd") -> Row:
    """A loop as people write it, with ``Perturbed`` around its passes unless the method is sgd."""
    device = choose_device("auto")
    model = build_model(load_settings(None, network(name, SIZE))).to(device)
    if channels_last:
        model = model.to(memory_format=torch.channels_last)
    ddp = DistributedDataParallel(model)
    optimizer = torch.optim.SGD(ddp.parameters(), lr=0.001, momentum=0.9)
    images = torch.randn(BATCH, 3, SIZE, SIZE, device=device)
    images = images.contiguous(memory_format=torch.channels_last)
    labels = torch.randint(0, 1000, (BATCH,), device=device)
    passes = 2 if method.startswith("m-") else 1
    noisy = Perturbed(ddp, method, micro_batches=passes)
    numbers = iter(range(2**62))

    def loss(weight: float) -> torch.Tensor:
        with torch.autocast(device.type, torch.bfloat16):
            logits = ddp(images)
        return weight * F.cross_entropy(logits.float(), labels)

    def step() -> None:
        if method == "sgd":
            loss(1.0).backward()
        else:
            number = next(numbers)
            with ddp.no_sync(), noisy(number, 0):
                loss(noisy.weight).backward()
            with noisy(number, 1):
                loss(noisy.weight).backward()
        optimizer.step()
        optimizer.zero_grad()
        if method != "sgd":
            noisy.end_step()

    return Row(title, step, passes, base)


def rows(name: str) -> list[Callable[[], Row]]:
    """Ways that take turns; ``base`` comes before those that are compared with it."""
    return [
        lambda: service(name, "sgd", "sgd", 1, "sgd"),
        lambda: service(name, "rwp", "rwp", 1, "sgd"),
        lambda: service(name, "arwp", "arwp", 1, "sgd"),
        lambda: service(name, "last-sam", "last-sam", 1, "sgd"),
        lambda: service(name, "sam", "sam", 1, "sgd"),
        lambda: service(name, "sgd, stage 0", "sgd", 1, "sgd", "engine.name=deepspeed"),
        lambda: service(name, "sgd, ZeRO-1", "sgd", 1, "sgd", "deepspeed.zero_stage=1"),
        lambda: service(name, "sgd, 2 passes", "sgd", 2, "sgd, 2 passes"),
        lambda: service(name, "m-rwp", "m-rwp", 2, "sgd, 2 passes"),
        lambda: service(name, "m-arwp", "m-arwp", 2, "sgd, 2 passes"),
        lambda: service(
            name, "m-rwp, torch draws", "m-rwp", 2, "sgd, 2 passes", "noise.backend=torch"
        ),
        lambda: plain(name, "DDP sgd", "sgd", channels_last=False),
        lambda: plain(name, "DDP sgd, NHWC weights", "sgd", channels_last=True),
        lambda: plain(
            name, "DDP m-arwp, Perturbed", "sgd, 2 passes", channels_last=True, method="m-arwp"
        ),
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
            print(f"{name:<26}{'ms':>9}{'images/s':>10}{'MFU':>7}{'GB':>7}{'x sgd':>8}")
            for row in built:
                speed = row.passes * BATCH / (ms[row.title] / 1000.0)
                share = ms[row.title] / ms[row.base]
                print(
                    f"{row.title:<26}{ms[row.title]:9.2f}{speed:10.0f}"
                    f"{speed * flops / rate:7.1%}{peaks.get(row.title, 0) / 1e9:7.1f}{share:8.3f}",
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
