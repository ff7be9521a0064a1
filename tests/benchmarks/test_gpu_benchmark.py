"""benchmarks/gpu.py runs to its end without a GPU, so that its first minute on one counts."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu.py"


@pytest.mark.parametrize("section", ["oracle", "replicas", "steps", "syncs", "shards"])
def test_a_section_runs_dry(section):
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, SCRIPT, section, "--dry"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"-- {section}: ok" in done.stdout
