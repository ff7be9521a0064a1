"""The exported task. SkyPilot 0.14.1 itself has read it (``sky.Task.from_yaml_config``)."""

import subprocess
from pathlib import Path

import yaml
from click.testing import CliRunner

from launcher.cli import main

CONFIG = str(Path(__file__).parents[2] / "configs" / "digits.yaml")

NODES = """
export SKYPILOT_NUM_NODES=2 SKYPILOT_NODE_RANK=1 SKYPILOT_NUM_GPUS_PER_NODE=8
export SKYPILOT_NODE_IPS=$'10.0.0.1\\n10.0.0.2'
torchrun() { printf '%s\\n' "$@"; }
"""


def export(*arguments: str) -> dict:
    done = CliRunner().invoke(main, ["export", "skypilot", CONFIG, *arguments])
    assert done.exit_code == 0, done.output
    return yaml.safe_load(done.stdout)


def test_a_task_starts_every_node_with_the_run_in_the_bucket() -> None:
    task = export("variant=sgd 2x", "--nodes=2", "--accelerators=A100:4", "--spot")
    assert task["num_nodes"] == 2 and task["name"] == "sgd-2x-s0"
    assert task["resources"] == {"accelerators": "A100:4", "use_spot": True}
    assert task["secrets"] == {"WANDB_API_KEY": None}
    started = subprocess.run(
        ["bash", "-c", NODES + task["run"]], capture_output=True, text=True, check=True
    )
    told = started.stdout.splitlines()
    for option, value in {"--nnodes": "2", "--node-rank": "1", "--nproc-per-node": "8"}.items():
        assert told[told.index(option) + 1] == value
    assert told[told.index("--master-addr") + 1] == "10.0.0.1"
    assert told[-4:] == ["train", CONFIG, "variant=sgd 2x", "run.dir=/runs/digits/sgd 2x-s0"]
    (bucket,) = task["file_mounts"].items()
    # Plain MOUNT lets no file be appended to.
    assert bucket == ("/runs", {"name": "rwp-runs", "mode": "MOUNT_CACHED"})


def test_its_name_is_one_that_skypilot_takes() -> None:
    for name, shown in (("40% Nöise_x", "run-40-n-ise-x"), ("模型", "run"), ("Sgd.1", "sgd-1")):
        task = export(f"run.name={name}")
        assert task["name"] == shown
        assert f"/{name}" in task["run"]  # as it is, in the run directory
