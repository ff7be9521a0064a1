"""Rows of runs: comparing many, resuming one with a long record, and what a start imports."""

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import psutil  # type: ignore[import-untyped]

from growing.command import program
from growing.process import alone, cpu_of, cpu_s, peak_bytes, reset_peak
from growing.row import Row
from rwp_dist.compare import compare as make_comparison
from rwp_dist.config import dump_settings, load_settings
from rwp_dist.record import RunDir, identity_of

EVALUATIONS = 10
LATE_LINES = 50
"""What an interrupted attempt logged after its checkpoint."""
ROOT = Path(__file__).parents[2]


def make_runs(folder: Path, num: int) -> Path:
    """Finished runs of one label, each with a sigma of its own."""
    for number in range(num):
        run = RunDir(folder / f"m-rwp-{number}")
        run.create()
        settings = load_settings(
            None, ["method.name=m-rwp", "run.label=m-rwp", f"method.sigma={(number + 1) / 10**6}"]
        )
        data = {f"data.{name}.id": "0" * 16 for name in ("train", "val")}
        run.write_config(dump_settings(settings))
        run.write_summary(
            {
                **{"state": "finished", "label": "m-rwp", "method": "m-rwp", "seed": 0},
                **{"session": "one", "model": "small_cnn", "device": "cpu", "world_size": 2},
                **{"steps": 100, "samples": 12800, "passes_per_step": "1 clean + 1 perturbed"},
                **{"device_seconds": 200.0, "step_s": 1.0, "top1": 50 + number / 1000},
                "identity": identity_of(settings, ranks=2, data=data, git={"commit": "0" * 40}),
            }
        )
        run.write_status("finished", 100, 100)
        evaluations = [{"kind": "eval", "step": 10 * n, "top1": 5.0 * n} for n in range(1, 11)]
        run.metrics.write_text("".join(f"{json.dumps(record)}\n" for record in evaluations))
    return folder


def compare(folder: Path) -> None:
    """Compare the runs of a folder, and write all files."""
    make_comparison([folder], folder.with_name("compared"))


def make_metrics(folder: Path, num: int) -> RunDir:
    """A run with ``num`` lines of metrics, of which the last come after its checkpoint."""
    run = RunDir(folder)
    run.create()
    names = [f"number_{n}" for n in range(35)]  # as many as a record of training has
    rest = json.dumps(dict.fromkeys(names, 0.1234567890123))[1:]
    with run.metrics.open("w") as file:
        for step in range(1, num + 1):
            file.write(f'{{"kind": "train", "step": {step}, {rest}\n')
    return run


class Resumed(NamedTuple):
    """What looking at the metrics took."""

    cpu_s: float
    peak_bytes: int


def resume_metrics(small: Path, folder: Path, num: int) -> Resumed:
    """Drop the lines after a checkpoint, as a run that goes on; after the same of few lines."""
    for place, last in ((small, 1), (folder, num - LATE_LINES)):
        run, memory, before = RunDir(place), reset_peak(), cpu_s()
        run.cut_metrics(last)
    return Resumed(cpu_s() - before, peak_bytes() - memory)


class Start(NamedTuple):
    """A run until it prints the first line of its own."""

    cpu_s: float
    modules: list[str]
    """Names of what it has imported, if ``-X importtime`` was asked for."""


def start(data: Path, folder: Path, *flags: str) -> Start:
    """Start a run in a folder that does not exist, and end it at its first line."""
    command = [sys.executable, *flags, "-m", "rwp_dist", "train", str(ROOT / "configs/digits.yaml")]
    command += [
        "variant=sgd",
        "augment.auto=trivial",
        f"data.train={data}/train",
        f"data.val={data}/test",
    ]
    command += [f"run.dir={folder}", "tracking.wandb=off"]
    modules = []
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=data
    ) as process:
        assert process.stdout is not None, "it is a pipe"
        for line in process.stdout:
            if line.startswith("import time:"):
                modules.append(line.rpartition("|")[2].strip())
            elif not line.endswith("...\n"):  # a stage that takes long
                break
        times = psutil.Process(process.pid).cpu_times()
        process.kill()
    return Start(times.user + times.system, modules)


def compare_rows(folder: Path, sizes: Sequence[int]) -> Iterator[Row]:
    """The row of ``compare`` of these numbers of runs."""
    small = make_runs(folder / "two", 2)
    sets = {size: make_runs(folder / f"runs-{size}", size) for size in sizes}
    found = {size: cpu_of(compare, small, runs) for size, runs in sets.items()}
    yield Row("compare, all settings different", "CPU s", found, 3.0, 1.1)


def metrics_rows(folder: Path, sizes: Sequence[int]) -> Iterator[Row]:
    """Rows of a run that resumes with these numbers of lines in its metrics."""
    small = make_metrics(folder / "short", 2).path
    found = {}
    for size in sizes:
        run = make_metrics(folder / f"lines-{size}", size)
        found[size] = alone(resume_metrics, small, run.path, size)
        run.metrics.unlink()
    yield Row("resume, metrics", "CPU s", {n: resumed.cpu_s for n, resumed in found.items()}, 0.1)
    peaks = {n: resumed.peak_bytes / 1e6 for n, resumed in found.items()}
    yield Row("resume, metrics, peak of memory", "MB", peaks, 10.0)


def start_rows(folder: Path, sizes: Sequence[int]) -> Iterator[Row]:
    """Rows of a run's start, which has no size."""
    data = folder / "digits"
    alone(program, "shards", "digits", "--out", data)
    times = [start(data, folder / f"started-{turn}").cpu_s for turn in range(4)]  # the first warms
    modules = start(data, folder / "started", "-X", "importtime").modules
    zoo = [name for name in modules if name.startswith("torchvision.models")]
    yield Row("a run to its first line", "CPU s", {1: min(times[1:])})
    yield Row("modules imported", "", {1: len(modules)})
    yield Row("of them torchvision's networks, unused", "", {1: len(zoo)}, 0)
