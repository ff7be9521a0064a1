"""slurm/imagenet_rwp.sh without a cluster."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "slurm" / "imagenet_rwp.sh"


def test_shellcheck_finds_nothing() -> None:
    if shutil.which("shellcheck") is None:
        pytest.skip("no shellcheck (Debian: apt-get install shellcheck)")
    done = subprocess.run(["shellcheck", SCRIPT], capture_output=True, text=True)
    assert done.stdout == "" and done.returncode == 0


def test_the_script_has_the_three_parts_that_submit_renders() -> None:
    header, settings, job = re.split(
        r"^# --- (?:settings|job) ---\n", SCRIPT.read_text(), flags=re.M
    )
    assert header.startswith("#!/bin/bash\n")
    for line in settings.splitlines():
        name, _, value = line.partition("=")
        assert not line or line.startswith("#") or value.startswith(f'"${{{name}:-'), line
    assert "#SBATCH" not in job
