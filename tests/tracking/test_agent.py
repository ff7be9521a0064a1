"""`wandb agent`: a sweep of W&B's own trains with our command line."""

import os
import subprocess
import sys
from pathlib import Path

import yaml
from support.until import HANG_S
from support.wandb_server import Sweep, wandb_server

from rwp_dist.config.load import load_settings
from rwp_dist.record.directory import RunDir

ROOT = Path(__file__).parents[2]
POINTS = [{"method.sigma": 0.1}, {"method.sigma": 0.2}]


def test_an_agent_trains_each_point_of_its_sweep_in_a_folder_of_its_own(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "rwp_dist"]
    shards = "shards synthetic --num 16 --size 12x12 --classes 2 --out data"
    subprocess.run([*command, *shards.split()], cwd=tmp_path, check=True, capture_output=True)
    (tmp_path / "small.yaml").write_text(
        "data: {train: data, val: data, image_size: 12, channels: 3, workers: 0}\n"
        "model: {num_classes: 2}\nbatch: {global: 8, per_rank: 4}\nschedule: {steps: 2}\n"
        "method: {name: m-rwp}\ntracking: {log_every: 1}\n"
    )
    config = yaml.safe_dump(
        {
            "program": "small.yaml",
            "command": [*command, "train", "${program}", "${args_no_hyphens}"],
            "method": "grid",
            "parameters": {"method.sigma": {"values": [0.1, 0.2]}},
        }
    )
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("WANDB_")}
    with wandb_server() as server:
        server.sweeps["sweep1"] = Sweep(config, "small.yaml", list(POINTS))
        agent = [sys.executable, "-m", "wandb", "agent", "team/vision/sweep1"]
        done = subprocess.run(
            agent,
            cwd=tmp_path,
            env=inherited | server.environment() | {"PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=HANG_S,
        )
        assert done.returncode == 0, done.stdout + done.stderr
    sigmas = {}
    for folder in (tmp_path / "runs" / "small").iterdir():
        run = RunDir(folder)
        assert run.wandb_id() in server.runs, done.stdout + done.stderr
        recorded = server.runs[run.wandb_id()]
        sigmas[folder.name] = load_settings(run.config).method.sigma
        assert recorded.config["method"]["value"]["sigma"] == sigmas[folder.name]
        assert {("eval", 2), ("train", 1), ("train", 2)} <= set(recorded.seen())
        assert recorded.project == "vision"
        assert recorded.setting("sweep") == "sweep1"
    assert sigmas == {"m-rwp-s0-point1": 0.1, "m-rwp-s0-point0": 0.2}
