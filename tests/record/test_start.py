"""Opening a run directory that another attempt has left."""

from unittest.mock import patch

import pytest

from rwp_dist.base.errors import ConfigError
from rwp_dist.config import load_settings
from rwp_dist.record import start


def attempt(folder, *overrides, ranks=2, step=4):
    """Open the folder as rank 0 of some ranks, and leave a checkpoint there."""
    settings = load_settings(None, [f"run.dir={folder}", *overrides])
    with (
        patch.object(start.dist, "get_rank", lambda: 0),
        patch.object(start.dist, "get_world_size", lambda: ranks),
    ):
        run_dir = start.open_run(settings)
    (run_dir.checkpoints / f"step-{step:08d}.pt").touch()
    return run_dir


def test_what_changes_the_updates_of_a_resumed_run_is_allowed_and_said(tmp_path, capsys):
    attempt(tmp_path)
    attempt(tmp_path, "tracking.log_every=3")
    assert capsys.readouterr().out == ""
    attempt(tmp_path, "batch.per_rank=16", "deepspeed.zero_stage=0", ranks=4)
    (line,) = capsys.readouterr().out.splitlines()
    for change in ("batch.per_rank: 64 -> 16", "deepspeed.zero_stage: 1 -> 0", "ranks: 2 -> 4"):
        assert change in line
    assert "log_every" not in line
    attempt(tmp_path, "batch.per_rank=16", "deepspeed.zero_stage=0", ranks=4)
    assert capsys.readouterr().out == ""


def test_a_finished_run_is_not_said_to_go_on(tmp_path, capsys):
    attempt(tmp_path).write_summary({"top1": 90.0})
    attempt(tmp_path, "batch.per_rank=16")
    assert capsys.readouterr().out == ""


def test_other_settings_are_refused_by_name(tmp_path):
    attempt(tmp_path)
    with pytest.raises(ConfigError) as caught:
        attempt(tmp_path, "method.sigma=3", "batch.per_rank=16")
    assert "method.sigma: 0.01 -> 3.0" in str(caught.value)
    assert "per_rank" not in str(caught.value)


@pytest.mark.parametrize(
    "override", ["data.train=elsewhere", "data.val=elsewhere", "run.label=renamed", "run.threads=2"]
)
def test_a_run_may_move_and_be_renamed(tmp_path, override):
    attempt(tmp_path)
    attempt(tmp_path, override)


@pytest.mark.parametrize(
    "override", ["run.seed=1", "evaluation.recalibrate_batches=0", "data.mix={other: 1}"]
)
def test_what_affects_the_result_may_not_change(tmp_path, override):
    attempt(tmp_path)
    with pytest.raises(ConfigError) as caught:
        attempt(tmp_path, override)
    assert caught.value.key == "run.dir"
    assert override.partition("=")[0] in caught.value.problem
