"""Seconds until a start prints its first line, and until its first step is done.

    python benchmarks/first_minute.py [starts]

The digits, on one process and on two ranks, each started ``starts`` times (5) after one start that
compiles. Medians; importing torch alone is there to compare, because a machine that is busy with
something else is slower at both.
"""

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CONFIG = str(ROOT / "configs" / "digits.yaml")
SHORT = ("variant=m-rwp", "schedule.steps=1", "tracking.log_every=1", "evaluation.every_epochs=0")
STARTS = {
    "rwp-dist train": [sys.executable, "-m", "rwp_dist", "train", CONFIG, *SHORT],
    "rwp-launch run --nproc 2": [
        *(sys.executable, "-m", "launcher", "run", CONFIG, "--nproc", "2"),
        *SHORT,
    ],
}


def seconds(command: list[str], cwd: Path) -> tuple[float, float]:
    """Until the first line of a command, and until the line of its first step."""
    begin, first, step = time.perf_counter(), 0.0, 0.0
    process = subprocess.Popen(
        command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert process.stdout is not None
    for line in process.stdout:
        now = time.perf_counter() - begin
        first = first or now
        if line.startswith("step "):
            step = step or now
    if process.wait() or not step:
        raise SystemExit(f"{' '.join(command)} has failed")
    return first, step


def seconds_to_import(cwd: Path) -> float:
    """What importing torch alone takes."""
    begin = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import torch"], cwd=cwd, check=True)
    return time.perf_counter() - begin


def main(starts: int) -> None:
    """Print a table."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        digits = [sys.executable, "-m", "rwp_dist", "shards", "digits", "--out", "data/digits"]
        subprocess.run(digits, cwd=folder, check=True, stdout=subprocess.DEVNULL)
        imports = [seconds_to_import(folder) for _ in range(starts)]
        print(f"{'seconds to':26}{'first line':>12}{'first step':>12}")
        for number, (name, command) in enumerate(STARTS.items()):
            found = [
                seconds([*command, f"run.dir={number}-{start}"], folder)
                for start in range(starts + 1)
            ]
            lines, steps = zip(*found[1:], strict=True)  # the first one compiles
            print(f"{name:26}{statistics.median(lines):12.2f}{statistics.median(steps):12.2f}")
        print(f"{'import torch':26}{'':12}{statistics.median(imports):12.2f}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
