"""benchmarks/gpu.py runs to its end without a GPU, so that its first minute on one counts."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.until import HANG_S

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from on_gpu.streams import beside

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


def trace(noise_stream):
    """A forward pass of 10 us on stream 7, and noise of 8 us that begins 6 us after it."""
    noise = {"tid": noise_stream, "ts": 6.0, "dur": 8.0}
    forward = {"tid": 7, "ts": 0.0, "dur": 10.0}
    return [
        {"cat": "gpu_user_annotation", "name": "noise", **noise},
        {"cat": "gpu_user_annotation", "name": "forward", **forward},
        {"cat": "kernel", "name": "normal", **noise},
        {"cat": "kernel", "name": "gemm", **forward},
        {"cat": "kernel", "name": "gemm", **forward},
        {"cat": "cpu_op", "name": "aten::normal_", "tid": 1, "ts": 0.0, "dur": 30.0},
    ]


def test_noise_counts_as_hidden_where_another_stream_works_beside_it():
    assert beside(trace(noise_stream=20), on_gpu=True) == (8.0, 0.5)


def test_noise_in_the_stream_of_the_training_is_not_hidden():
    assert beside(trace(noise_stream=7), on_gpu=True) == (0.0, 0.0)


@pytest.mark.parametrize("section", ["oracle", "replicas", "steps", "streams", "syncs", "shards"])
def test_a_section_runs_dry(section):
    done = run(section, "--dry")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"-- {section}: ok" in done.stdout
