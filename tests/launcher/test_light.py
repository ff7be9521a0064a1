"""What a person types often answers at once: nothing heavy is imported for it."""

import resource
import subprocess
import sys
from pathlib import Path

import pytest

from rwp_dist.record.directory import RunDir

CONFIG = str(Path(__file__).parents[2] / "configs" / "digits.yaml")
HEAVY = ("torch", "deepspeed", "wandb", "matplotlib", "torchvision")

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
        (("run", CONFIG, "--nproc=3"), 2),  # three ranks cannot share the batch
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


def cpu_s(command: list[str]) -> float:
    """Computing time of a process, in seconds; how busy the machine is hardly changes it."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


@pytest.mark.parametrize(
    "arguments",
    [
        ("--help",),
        ("run", CONFIG, "--nproc=3"),
        ("submit", CONFIG, "--dry-run"),
        ("submit", CONFIG, "method.sigma=-1", "batch.global=63"),
    ],
    ids=["help", "wrong batch", "dry run", "settings error"],
)
def test_the_answer_takes_less_than_a_second(arguments: tuple[str, ...]) -> None:
    command = [sys.executable, "-m", "launcher", *arguments]
    times = [cpu_s(command) for _ in range(5)]
    assert min(times) < 1.0, times
