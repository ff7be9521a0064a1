"""benchmarks/gpu.py runs to its end without a GPU, so that its first minute on one counts."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.until import HANG_S

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu.py"


def run(*arguments):
    return subprocess.run(
        [sys.executable, SCRIPT, *arguments],
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=HANG_S,
    )


def test_without_a_gpu_it_says_so_once():
    done = run()
    assert done.returncode == 1 and done.stdout == ""
    [line] = done.stderr.splitlines()
    assert "no GPU" in line and "--dry" in line


@pytest.mark.parametrize("section", ["oracle", "replicas", "steps", "streams", "syncs", "shards"])
def test_a_section_runs_dry(section):
    done = run(section, "--dry")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"-- {section}: ok" in done.stdout
