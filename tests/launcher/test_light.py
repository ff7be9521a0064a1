"""What a person types often answers at once: nothing heavy is imported for it."""

import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rwp_dist.record.directory import RunDir

CONFIG = str(Path(__file__).parents[2] / "configs" / "digits.yaml")
HEAVY = ("torch", "deepspeed", "wandb", "numpy", "matplotlib", "torchvision")

CODE = """
import sys
from launcher.__main__ import main
try:
    main()
finally:
    heavy = sorted({name.partition(".")[0] for name in sys.modules} & set(%r))
    print("heavy:", *heavy, file=sys.stderr)
"""


@pytest.mark.parametrize(
    ("arguments", "exit_code"),
    [
        (("--help",), 0),
        (("submit", CONFIG, "--dry-run"), 0),
        (("submit", CONFIG, "--backend=local", "--dry-run"), 0),
        (("submit", CONFIG, "--backend=docker", "--container=i", "--dry-run"), 0),
        (("submit", CONFIG, "method.sigma=-1", "batch.global=63"), 2),
        (("sweep", CONFIG, "--backend=slurm", "--dir=/runs", "--dry-run"), 0),
        (("status", "{run}"), 0),
        (("list", "{run}"), 0),
        (("export", "skypilot", CONFIG), 0),
    ],
    ids=lambda value: " ".join(value[:2]) if isinstance(value, tuple) else str(value),
)
def test_nothing_heavy_is_imported(
    arguments: tuple[str, ...], exit_code: int, tmp_path: Path
) -> None:
    RunDir(tmp_path).write_status("interrupted", 3, 10)
    command = [text.format(run=tmp_path) for text in arguments]
    done = subprocess.run(
        [sys.executable, "-c", CODE % (HEAVY,), *command], capture_output=True, text=True
    )
    assert done.returncode == exit_code, done.stderr
    assert done.stderr.splitlines()[-1] == "heavy:", done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("--help",),
        ("submit", CONFIG, "--dry-run"),
        ("submit", CONFIG, "method.sigma=-1", "batch.global=63"),
    ],
    ids=["help", "dry run", "settings error"],
)
def test_the_answer_comes_within_a_second(arguments: tuple[str, ...]) -> None:
    command = [sys.executable, "-m", "launcher", *arguments]
    times = []
    for _ in range(5):
        begin = time.perf_counter()
        subprocess.run(command, capture_output=True)
        times.append(time.perf_counter() - begin)
    assert statistics.median(times) < 1.0, times
