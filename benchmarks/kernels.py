"""The CUDA kernels against their limit, which is memory.

    python benchmarks/kernels.py                # a minute on one GPU
    python benchmarks/kernels.py --dry          # no GPU: does it run? Its times mean nothing

Needs torch, Triton and NumPy, beside this repository on PYTHONPATH. The limit is the device's own
copy of as many bytes: perturbing reads every weight and writes it. All ways take turns; medians.
Ways are timed without restoring, and the authors' without the subtraction that it needs later.

``call`` is the time of a call, the host's share included; ``device`` is that of the kernels alone,
replayed as a CUDA graph. In training the host runs ahead of the device, so the latter counts.

Before anything is timed, the kernels have to agree with their plain references on this device
(``agreement.py``).

Bars: 70 % of the copy's bandwidth on the device, 20 times as fast as the authors' loop.
"""

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence

import torch
from authors import add_expanded_noise
from torch import Tensor, nn

SIGMA = 0.001
OF_COPY, X_AUTHORS = 0.7, 20
"""Bars: least share of the copy's bandwidth, and least ratio to the authors' loop."""
OURS = ("noise, triton", "noise, triton, adaptive", "energy, triton")
Ways = dict[str, Callable[[], object]]


def resnet_shapes(width: int, depths: Sequence[int], classes: int) -> Iterator[tuple[int, ...]]:
    """Parameters of a residual network of bottlenecks.

    ResNet-50: width 64, depths (3, 4, 6, 3), 1000 classes.
    """
    yield from ((width, 3, 7, 7), (width,), (width,))
    channels = width
    for stage, depth in enumerate(depths):
        inner, out = width * 2**stage, 4 * width * 2**stage
        for _ in range(depth):
            for shape in ((inner, channels, 1, 1), (inner, inner, 3, 3), (out, inner, 1, 1)):
                yield from (shape, shape[:1], shape[:1])
            if channels != out:
                yield from ((out, channels, 1, 1), (out,), (out,))
            channels = out
    yield from ((classes, channels), (classes,))


def vit_shapes(width: int, depth: int, classes: int) -> Iterator[tuple[int, ...]]:
    """Parameters of a vision transformer for 224x224 images in patches of 16.

    ViT-S: width 384, depth 12; ViT-L: width 1024, depth 24; 1000 classes.
    """
    yield from ((width, 3, 16, 16), (width,), (1, 1, width), (1, 197, width))
    for _ in range(depth):
        yield from ((width,), (width,), (3 * width, width), (3 * width,), (width, width), (width,))
        yield from ((width,), (width,), (4 * width, width), (4 * width,))
        yield from ((width, 4 * width), (width,))
    yield from ((width,), (width,), (classes, width), (classes,))


class Weights(nn.Module):
    """Parameters as views of one buffer, as DeepSpeed keeps them."""

    def __init__(
        self, shapes: Sequence[Sequence[int]], dtype: torch.dtype, device: torch.device
    ) -> None:
        super().__init__()
        sizes = [torch.Size(shape).numel() for shape in shapes]
        self.flat = torch.randn(sum(sizes), device=device, dtype=dtype) * 0.02
        for number, (shape, piece) in enumerate(zip(shapes, self.flat.split(sizes), strict=True)):
            self.register_parameter(f"p{number}", nn.Parameter(piece.view(*shape)))


@torch.no_grad()
def foreach(params: list[Tensor]) -> None:
    """Noise onto all weights by multi-tensor operations, each parameter's row norms aside."""
    norms = [
        p.flatten(1).norm(dim=1).view(-1, *[1] * (p.ndim - 1)) if p.ndim > 1 else p.norm()
        for p in params
    ]
    noises = [torch.randn_like(p) for p in params]
    torch._foreach_mul_(noises, torch._foreach_mul(norms, SIGMA))
    torch._foreach_add_(params, noises)


def measure(
    ways: Ways, prepare: Callable[[], object], rounds: int, repeats: int, device: torch.device
) -> dict[str, float]:
    """Median milliseconds of one call of every way, taken in turns; ``prepare`` is not timed.

    A sample is ``repeats`` calls in a row, so that the device need not wait for the host.
    """
    times: dict[str, list[float]] = {name: [] for name in ways}
    warm_up = 2 if device.type == "cuda" else 0
    for number in range(rounds + warm_up):
        for name, way in ways.items():
            prepare()
            if device.type == "cuda":
                begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
                begin.record()
                for _ in range(repeats):
                    way()
                end.record()
                end.synchronize()
                milliseconds = begin.elapsed_time(end)
            else:
                start = time.perf_counter()
                for _ in range(repeats):
                    way()
                milliseconds = 1e3 * (time.perf_counter() - start)
            if number >= warm_up:
                times[name].append(milliseconds / repeats)
    return {name: statistics.median(all_of) for name, all_of in times.items()}


def perturbing(model: Weights, device: torch.device) -> Ways:
    """Ways to put noise onto all weights, the copy that limits them, and the energy."""
    from rwp_dist.perturb import NoiseScale, list_rows
    from rwp_dist.perturb.normals import TorchNormals
    from rwp_dist.perturb.normals.triton import FusedEnergy, FusedNoise

    params: list[Tensor] = list(model.parameters())
    rows = list_rows(model.named_parameters())
    energies = torch.rand(rows[-1].place.stop, device=device)
    observed = torch.zeros_like(energies)
    target = torch.empty_like(model.flat)
    fused = FusedNoise(rows, "filter", 0, device)
    scale, normals = NoiseScale(rows, "filter", device), TorchNormals(0, device)
    energy = FusedEnergy(device, bucket_bytes=2**62)
    step = iter(range(2**62))

    @torch.no_grad()
    def operations() -> None:
        scale.measure(SIGMA)
        scale.draw_noise(params, rows, normals, next(step), 0)

    def kernel() -> None:
        fused.add(params, next(step), 0, SIGMA)

    def adaptive() -> None:
        fused.add(params, next(step), 0, SIGMA, energies, 0.1, 0.5)

    def add_up() -> None:
        for r in rows:
            energy.collect(r, r.param.detach(), 1.0, observed)
        energy.flush()

    @torch.no_grad()
    def norms() -> None:
        for r in rows:
            squares = r.param.flatten(1).norm(dim=1).square_() if r.is_matrix else r.param.square()
            observed[r.place].add_(squares, alpha=1.0)

    return {
        "copy of the weights": lambda: target.copy_(model.flat),
        "authors' loop": lambda: add_expanded_noise(model, SIGMA),
        "torch._foreach": lambda: foreach(params),
        "noise, torch": operations,
        "noise, triton": kernel,
        "noise, triton, adaptive": adaptive,
        "energy, triton": add_up,
        "energy, torch": norms,
    }


def device_ms(way: Callable[[], object], repeats: int = 10) -> float:
    """Milliseconds of a way's kernels alone."""
    way()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(repeats):
            way()
    times = []
    for _ in range(5):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) / repeats)
    return statistics.median(times)


def run(device: torch.device, rounds: int, small: bool) -> bool:
    """Print the table; whether all bars hold."""
    networks: dict[str, list[Sequence[int]]] = {
        "ResNet-50": list(resnet_shapes(64, (3, 4, 6, 3), 1000)),
        "ViT-S/16": list(vit_shapes(384, 12, 1000)),
        "ViT-L/16": list(vit_shapes(1024, 24, 1000)),
    }
    if small:
        tiny = (resnet_shapes(2, (1,), 3), vit_shapes(2, 1, 3))
        networks = {"ResNet, tiny": list(tiny[0]), "ViT, tiny": list(tiny[1])}
    print(f"{'':<30}{'way':<22}{'call':>9}{'device':>9}{'GB/s':>7}{'of copy':>9}{'x authors':>11}")
    held = True
    for name, shapes in networks.items():
        for dtype in (torch.float32, torch.bfloat16):
            model = Weights(shapes, dtype, device)
            clean = model.flat.clone()
            ways = perturbing(model, device)
            found = measure(
                ways,
                lambda model=model, clean=clean: model.flat.copy_(clean),  # type: ignore[misc]
                rounds,
                1 if small else 10,
                device,
            )
            num_bytes = model.flat.numel() * model.flat.element_size()
            copy, authors = found["copy of the weights"], found["authors' loop"]
            title = f"{name}, {str(dtype).removeprefix('torch.')}, {num_bytes / 1e6:,.1f} MB"
            for way, call in found.items():
                ours = way in OURS
                ms = device_ms(ways[way]) if ours and device.type == "cuda" else call
                energy = way.startswith("energy")
                moved = num_bytes * (1 if energy else 2) / ms / 1e6
                share = moved / (2 * num_bytes / copy / 1e6)
                faster = f"{'':>11}" if energy else f"{authors / call:11.1f}"
                alone = f"{ms:9.4f}" if ours else f"{'':>9}"
                print(
                    f"{title:<30}{way:<22}{call:9.4f}{alone}{moved:7.0f}{share:9.0%}{faster}",
                    flush=True,
                )
                if way == "noise, triton":
                    held &= share >= OF_COPY and authors / call >= X_AUTHORS
    print(f"bars: noise, triton >= {OF_COPY:.0%} of copy and >= {X_AUTHORS} x authors")
    return held


def differs(device: torch.device, small: bool) -> str | None:
    """Whether the kernels are wrong; Triton reads the environment when it is imported."""
    from agreement import find_difference

    return find_difference(device, small=small)


def main() -> int:
    """0: all bars hold; 1: one does not, the kernels are wrong, or there is no GPU."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=6, help="samples of every way")
    parser.add_argument("--dry", action="store_true", help="tiny, on the CPU: a smoke test")
    options = parser.parse_args()
    torch.manual_seed(0)
    if options.dry:
        os.environ["TRITON_INTERPRET"] = "1"
    elif not torch.cuda.is_available():
        print("There is no CUDA device here, and these are its timings.", file=sys.stderr)
        return 1
    device = torch.device("cpu" if options.dry else "cuda")
    difference = differs(device, options.dry)
    if difference is not None:
        print(difference, file=sys.stderr)
        return 1
    if options.dry:
        run(device, 1, small=True)
        print("Run by Triton's interpreter at tiny sizes: these times mean nothing.")
        return 0
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}")
    held = run(device, options.rounds, small=False)
    print("All bars hold." if held else "Not all bars hold.")
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
