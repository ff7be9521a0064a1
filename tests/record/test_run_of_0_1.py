"""A run directory that version 0.1 wrote is read, and its run goes on with the same numbers."""

import shutil
from pathlib import Path

import pytest
from support.ranks import run_ranks

from rwp_dist.config import differences, load_settings
from rwp_dist.record.directory import RunDir, run_directories
from rwp_dist.record.resume import changed_settings
from rwp_dist.train import train

FIXTURE = Path(__file__).parents[1] / "fixtures" / "written_by_0_1"
RUN = RunDir(FIXTURE / "run")


def test_its_files_are_read() -> None:
    assert list(run_directories(FIXTURE)) == [RUN.path]
    status, summary, environment = RUN.read_status(), RUN.read_summary(), RUN.read_environment()
    assert status and summary and environment
    assert (status["state"], status["step"]) == ("finished", 12)
    assert (summary["method"], summary["top1"]) == ("m-arwp", 100.0)
    assert environment["world_size"] == 2
    assert [record["step"] for record in RUN.read_metrics("train")] == [2, 4, 6, 8, 10, 12]
    assert [record["step"] for record in RUN.read_metrics("eval")] == [6, 12]
    [attempt] = RUN.read_attempts()
    assert (attempt["state"], attempt["last_step"]) == ("finished", "12")
    assert RUN.saved_step() == 6


def test_its_settings_are_read() -> None:
    settings = load_settings(RUN.config)
    assert (settings.method.name, settings.method.sigma, settings.method.eta) == (
        "m-arwp",
        0.05,
        100.0,
    )
    assert (settings.run.label, settings.run.seed, settings.run.dir) == ("m-arwp", 3, "run")
    assert changed_settings(RUN, settings, ranks=2) == []


def test_its_run_goes_on_from_its_checkpoint_with_the_same_numbers(tmp_path: Path) -> None:
    shutil.copytree(FIXTURE, tmp_path, dirs_exist_ok=True)
    run_dir = RunDir(tmp_path / "run")
    run_dir.summary.unlink()
    moved = [
        f"run.dir={run_dir.path}",
        f"data.train={tmp_path}/shards/train",
        f"data.val={tmp_path}/shards/val",
    ]
    settings = load_settings(run_dir.config, moved)
    changed = {difference.key for difference in differences(load_settings(RUN.config), settings)}
    assert changed == {"run.dir", "data.train", "data.val"}

    summary, _ = run_ranks(train, 2, settings)

    [_, attempt] = run_dir.read_attempts()
    assert (attempt["first_step"], attempt["last_step"]) == ("6", "12")
    for kind in ("train", "eval"):
        old, new = RUN.read_metrics(kind), run_dir.read_metrics(kind)
        assert [record["step"] for record in new] == [record["step"] for record in old]
        # Other draws would change the second digit; another CPU rounds differently.
        assert [record["loss"] for record in new] == pytest.approx(
            [record["loss"] for record in old], rel=1e-5
        )
    before = RUN.read_summary()
    assert before and summary["top1"] == before["top1"]
