"""What a person sees in the first minute: something at once, and nothing that is no use to them."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.until import HANG_S

from rwp_dist.process.stages import PATIENCE_S
from rwp_dist.shards.digits import write_digits

ROOT = Path(__file__).parents[1]
CONFIG = str(ROOT / "configs" / "digits.yaml")
LAUNCH = (sys.executable, "-m", "launcher", "run", CONFIG, "--nproc=2", "variant=m-rwp")
KNOWN = (
    r"starting \d ranks? \.\.\.",
    r"[a-zA-Z&, ]+ \.\.\.",  # a stage
    r"m-rwp, seed 0",
    r"step [\d,]+/[\d,]+  .*",
    r"eval at step [\d,]+:  .*",
    r"finished m-rwp, top-1 .*",
    r"W&B is offline \(as set by tracking\.wandb\); send this run later with: rwp-dist sync .*",
)
"""Every line that a small run prints."""


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("digits")
    write_digits(folder)
    return [f"data.train={folder}/train", f"data.val={folder}/test"]


def test_every_line_of_a_run_is_one_of_ours(digits: list[str], tmp_path: Path) -> None:
    """Also with more workers than cores, with W&B, and with Python's warnings on."""
    run = tmp_path / "run"
    more = ("schedule.steps=2", "data.workers=3", "tracking.wandb=offline", f"run.dir={run}")
    done = subprocess.run(
        [*LAUNCH, *digits, *more],
        env=os.environ | {"PYTHONWARNINGS": "default", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=HANG_S,
    )
    assert done.returncode == 0, done.stderr
    lines = [*done.stdout.splitlines(), *done.stderr.splitlines()]
    other = [line for line in lines if not any(re.fullmatch(known, line) for known in KNOWN)]
    assert other == []
    for log in (run / "logs" / "attempt-1").glob("rank-*.log"):
        said = log.read_text().splitlines()
        assert not said or log.name == "rank-0.log"
        assert [line for line in said if not any(re.fullmatch(k, line) for k in KNOWN)] == []


@pytest.mark.parametrize(
    "command",
    [
        ("-m", "rwp_dist", "train", CONFIG, "variant=m-rwp", "schedule.steps=1"),
        (*LAUNCH[1:], "schedule.steps=1"),
        ("-m", "rwp_dist", "sweep", CONFIG, "--variants=sgd", "--seeds=1", "schedule.steps=1"),
        ("-m", "rwp_dist", "doctor", CONFIG),
    ],
    ids=lambda words: words[2],
)
def test_a_start_says_something_before_torch_could_be_imported(
    command: tuple[str, ...], digits: list[str], tmp_path: Path
) -> None:
    """On a quiet machine that is in half a second; a busy one is slower at importing torch too."""
    place = f"--dir={tmp_path}/sweep" if "sweep" in command else f"run.dir={tmp_path}/run"
    begin = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, *command, *digits, place],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        assert process.stdout is not None
        first = process.stdout.readline()
        after_s = time.monotonic() - begin
    finally:
        process.kill()
        process.communicate()
    begin = time.monotonic()
    subprocess.run([sys.executable, "-c", "import torch"], check=True)
    assert first.endswith(" ...\n")
    assert after_s < max(PATIENCE_S, time.monotonic() - begin)
