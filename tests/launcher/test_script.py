"""What is submitted, byte for byte. ``WRITE_GOLDEN=1 pytest tests/launcher`` writes it anew."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner

from launcher.backends.slurm import JOB_LINE
from launcher.cli import main

ROOT = Path(__file__).parents[2]
GOLDEN = Path(__file__).parent / "golden"
CONFIG = str(ROOT / "configs" / "digits.yaml")
PLACES = ("data.train=/data/train", "data.val=/data/val")
SUBMIT = ("submit", CONFIG, *PLACES, "--venv=/envs/rwp")
SWEEP = ("sweep", CONFIG, *PLACES, "--venv=/envs/rwp", "--backend=slurm", "--dir=/runs/a b")

CASES = {
    "one_node.sh": (*SUBMIT, "variant=m-rwp", "run.dir=/runs/one"),
    "eight_nodes.sh": (
        *(
            *SUBMIT,
            "variant=sgd",
            "run.dir=/runs/eight",
            "--nodes=8",
            "--gpus=4",
            "batch.global=96",
        ),
        *("--time=3:00:00", "--partition=gpu", "--account=lab", "--cpus=48", "--max-attempts=9"),
        *("--option=qos=high", "--option=constraint=a100&nvme"),
    ),
    "container.sh": (
        *(*SUBMIT, "variant=sam", "run.dir=/runs/boxed", "--container=registry#rwp:1.0"),
        "--container-runtime=apptainer",
    ),
    "array.sh": (
        *(*SWEEP, "--variants=sgd,m-rwp", "--seeds=2", "--gpus=0", "--ranks=2", "--parallel=3"),
        "--grid=optimizer.lr=0.05,0.1",
    ),
    "docker.sh": (
        *(*SUBMIT, "variant=sam", "run.dir=/runs/boxed", "--backend=docker"),
        *("--container=rwp:1.0", "--option=memory=64g"),
    ),
}


def dry_run(*arguments: str) -> str:
    done = CliRunner().invoke(main, [*arguments, "--dry-run"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.mark.parametrize("name", CASES)
def test_the_rendered_script_is_the_golden_one(name: str) -> None:
    script = dry_run(*CASES[name])
    head, line, body = script.partition(f"{JOB_LINE}\n")
    head = re.sub("/code/[0-9a-f]{16}", "/code/DIGEST", head)
    if name == "docker.sh":
        head = head.replace(f"{os.getuid()}:{os.getgid()}", "0:0")
    else:
        # The golden file ends where the job script's own body begins, which comes unchanged.
        template = (ROOT / "slurm" / "imagenet_rwp.sh").read_text()
        assert line + body == template[template.index(JOB_LINE) :]
    if os.environ.get("WRITE_GOLDEN"):
        (GOLDEN / name).write_text(head)
    assert head == (GOLDEN / name).read_text()
    shell = "bash" if name != "docker.sh" else "sh"
    subprocess.run([shell, "-n"], input=script, text=True, check=True)


if shutil.which("docker"):  # to read the command, on machines that have it

    def test_docker_itself_understands_the_command() -> None:
        """Without an engine: its client reads all options before it looks for one."""
        script = dry_run(*CASES["docker.sh"]).replace("/runs/boxed/job.labels", "/dev/null")
        done = subprocess.run(
            ["sh", "-s"],
            input=script,
            env=os.environ | {"DOCKER_HOST": "tcp://127.0.0.1:1"},
            capture_output=True,
            text=True,
        )
        assert "127.0.0.1:1" in done.stderr and "unknown" not in done.stderr


def test_a_dry_run_makes_nothing(tmp_path: Path) -> None:
    for backend in ("slurm", "local"):
        dry_run("submit", CONFIG, f"run.dir={tmp_path}/run", f"--backend={backend}")
    assert list(tmp_path.iterdir()) == []


def test_runs_with_equal_settings_are_one_task() -> None:
    script = dry_run(*SWEEP, "--variants=sgd,sgd", "--seeds=2", "--grid=optimizer.lr=0.05,0.050")
    assert "#SBATCH --array=0-1\n" in script
