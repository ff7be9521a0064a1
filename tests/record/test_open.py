"""Opening a run directory that another attempt has left."""

from pathlib import Path

import pytest

from rwp_dist.base.errors import ConfigError, RunDirError
from rwp_dist.config import load_settings
from rwp_dist.record.directory import RunDir
from rwp_dist.record.open import open_run


def attempt(folder: Path, *overrides: str, ranks: int = 2, step: int = 4) -> RunDir:
    """Open the folder for a run on some ranks, and leave a checkpoint there."""
    settings = load_settings(None, [f"run.dir={folder}", *overrides])
    open_run(settings, world_size=ranks, gpus=["H200"])
    run_dir = RunDir(folder)
    (run_dir.checkpoints / f"step-{step:08d}.pt").touch()
    return run_dir


def test_settings_and_environment_are_written(tmp_path: Path) -> None:
    run_dir = attempt(tmp_path / "a" / "run", "run.seed=7")
    assert load_settings(run_dir.config).run.seed == 7
    environment = run_dir.read_environment()
    assert environment and (environment["world_size"], environment["gpus"]) == (2, ["H200"])


def test_what_changes_the_updates_of_a_resumed_run_is_allowed_and_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
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


def test_a_finished_run_is_not_said_to_go_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    attempt(tmp_path).write_summary({"top1": 90.0})
    attempt(tmp_path, "batch.per_rank=16")
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    "override", ["data.train=elsewhere", "data.val=elsewhere", "run.label=renamed", "run.threads=2"]
)
def test_a_run_may_move_and_be_renamed(tmp_path: Path, override: str) -> None:
    attempt(tmp_path)
    attempt(tmp_path, override)


@pytest.mark.parametrize(
    "override",
    ["method.sigma=3", "run.seed=1", "evaluation.recalibrate_batches=0", "data.mix={other: 1}"],
)
def test_what_affects_the_result_may_not_change(tmp_path: Path, override: str) -> None:
    attempt(tmp_path)
    with pytest.raises(ConfigError) as caught:
        attempt(tmp_path, override, "batch.per_rank=16")
    assert caught.value.key == "run.dir"
    assert override.partition("=")[0] in caught.value.problem
    assert "per_rank" not in caught.value.problem


def test_other_settings_are_refused_in_one_sentence(tmp_path: Path) -> None:
    attempt(tmp_path)
    with pytest.raises(ConfigError) as caught:
        attempt(tmp_path, "method.sigma=3", "run.seed=1")
    assert str(caught.value) == (
        f"run.dir: {tmp_path} holds a run with other settings (method.sigma: 0.4 -> 3.0, "
        "run.seed: 0 -> 1); choose another run.dir or run.label, or remove that folder."
    )


def test_a_place_that_takes_no_files_is_an_error_about_run_dir(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RunDirError) as caught:
        attempt(tmp_path / "file" / "run")
    assert caught.value.key == "run.dir"
    assert caught.value.cure == "set run.dir to a folder of yours"


def test_a_run_that_goes_on_stays_on_its_page_in_wandb(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("WANDB_PROJECT", "WANDB_ENTITY", "WANDB_NAME"):
        monkeypatch.delenv(name, raising=False)
    attempt(tmp_path, "tracking.project=mine", "tracking.name=first")
    monkeypatch.setenv("WANDB_PROJECT", "other")
    monkeypatch.setenv("WANDB_ENTITY", "team")
    for override, project in (("run.threads=1", "mine"), ("tracking.project=asked", "asked")):
        tracking = load_settings(attempt(tmp_path, override).config).tracking
        assert (tracking.project, tracking.entity, tracking.name) == (project, None, "first")
