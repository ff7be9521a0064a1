"""Noise drawn ahead by torch's generator, beside the rest of the step, in the profiler's trace.

On a GPU it has a stream of its own, elsewhere a thread. ``beside`` is the share of the time of
drawing in which something else runs, too. The Triton kernels draw within their pass, and so need no
stream.
"""

import gzip
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from engines import engine_step
from kernels import Ways, measure

from rwp_dist.process import choose_device, process_group
from rwp_dist.record import RunDir
from rwp_dist.run import Profile

DRY = "--dry" in sys.argv
MODEL, SIZE, BATCH = ("small_cnn", 32, 2) if DRY else ("resnet50", 224, 128)
ROUNDS = 1 if DRY else 10
WAYS = {"drawn ahead": "noise.prefetch=true", "drawn in line": "noise.prefetch=false"}
Spans = list[tuple[float, float]]


def events_of(folder: str, step: Callable[[int], None]) -> list[dict[str, Any]]:
    """The trace of some steps, as the setting ``profile`` has it written."""
    run_dir = RunDir(folder)
    with Profile(run_dir, True) as profile:
        for number in range(20):
            step(number)
            profile.step_done()
    path = Path(folder) / "profile" / "rank-0.json.gz"
    events: list[dict[str, Any]] = json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]
    return [event for event in events if event.get("ph") == "X"]


def merged(spans: Spans) -> Spans:
    """The same times in order, without overlaps."""
    found: Spans = []
    for begin, end in sorted(spans):
        if found and begin <= found[-1][1]:
            found[-1] = found[-1][0], max(found[-1][1], end)
        else:
            found.append((begin, end))
    return found


def length(spans: Spans) -> float:
    return sum(end - begin for begin, end in merged(spans))


def beside(events: list[dict[str, Any]], on_gpu: bool) -> tuple[float, float]:
    """Microseconds of drawing noise in lanes of its own, and the share with other work beside it.

    A lane is a stream of the GPU, or a thread.
    """
    named, worked = ("gpu_user_annotation", "kernel") if on_gpu else ("user_annotation", "cpu_op")
    lanes: dict[str, set[Any]] = {"noise": set(), "forward": set()}
    for event in events:
        if event.get("cat") == named and event["name"] in lanes:
            lanes[event["name"]].add(event["tid"])
    own = lanes["noise"] - lanes["forward"]
    spans: dict[bool, Spans] = {True: [], False: []}
    for event in events:
        if event.get("cat") == worked:
            spans[event["tid"] in own].append((event["ts"], event["ts"] + event["dur"]))
    noise, other = length(spans[True]), length(spans[False])
    both = noise + other - length(spans[True] + spans[False])
    return noise, both / noise if noise else 0.0


def main() -> int:
    """0: noise drawn ahead is drawn beside other work."""
    device = choose_device("auto")
    with process_group(device), tempfile.TemporaryDirectory() as folder:
        steps, found = {}, {}
        for way, setting in WAYS.items():
            more = ["precision=bf16", "noise.backend=torch", setting]
            _, steps[way] = engine_step("m-rwp", MODEL, SIZE, BATCH, more, micro_batches=2)
            events = events_of(f"{folder}/{way}", steps[way])
            found[way] = beside(events, device.type == "cuda")
        numbers = iter(range(100, 2**62))
        calls: Ways = {way: lambda s=step: s(next(numbers)) for way, step in steps.items()}  # type: ignore[misc]
        ms = measure(calls, lambda: None, ROUNDS, 2, device)
    print(f"{'noise of 5 steps':<20}{'ms a step':>10}{'own lane, ms':>14}{'beside':>8}")
    for way, (noise_us, share) in found.items():
        print(f"{way:<20}{ms[way]:10.2f}{noise_us / 1000.0:14.2f}{share:8.1%}")
    (ahead_us, ahead), (in_line_us, _) = found.values()
    held = ahead_us > 0 and ahead > 0 and in_line_us == 0
    print("bar: noise drawn ahead has a stream of its own, with other work beside it")
    return not held


if __name__ == "__main__":
    sys.exit(main())
