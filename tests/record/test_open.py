"""Opening a run directory that another attempt has left."""

from pathlib import Path

import pytest

from rwp_dist.base.errors import ConfigError
from rwp_dist.config import load_settings
from rwp_dist.record.directory import RunDir
from rwp_dist.record.ending import write_end, write_lost, write_refusal
from rwp_dist.record.identity import settings_identity
from rwp_dist.record.open import open_run
from rwp_dist.record.resume import changes_of, continued_settings


def attempt(
    folder: Path, *overrides: str, ranks: int = 2, step: int = 4, **identity: object
) -> list[str]:
    """Open the folder for a run on some ranks, and leave a checkpoint there; what has changed."""
    run_dir = RunDir(folder)
    settings = load_settings(None, [f"run.dir={folder}", *overrides])
    settings = continued_settings(run_dir, settings)
    now = settings_identity(settings, ranks) | identity
    changed = changes_of(run_dir, now)
    open_run(settings, now, gpus=["H200"], git={"commit": "abc"})
    (run_dir.checkpoints / f"step-{step:08d}.pt").touch()
    return changed


def test_settings_identity_and_environment_are_written(tmp_path: Path) -> None:
    attempt(tmp_path / "a" / "run", "run.seed=7")
    run_dir = RunDir(tmp_path / "a" / "run")
    assert load_settings(run_dir.config).run.seed == 7
    identity, environment = run_dir.read_identity(), run_dir.read_environment()
    assert identity and (identity["run.seed"], identity["ranks"]) == (7, 2)
    assert environment and (environment["world_size"], environment["gpus"]) == (2, ["H200"])
    assert environment["git"] == {"commit": "abc"}


def test_what_changes_the_updates_of_a_resumed_run_is_allowed_and_told(tmp_path: Path) -> None:
    attempt(tmp_path)
    assert attempt(tmp_path, "tracking.log_every=3") == []
    more = ("batch.per_rank=16", "deepspeed.zero_stage=0")
    assert attempt(tmp_path, *more, ranks=4) == [
        "batch.per_rank: 64 before, 16 now",
        "deepspeed.zero_stage: auto before, 0 now",
        "ranks: 2 before, 4 now",
    ]
    assert attempt(tmp_path, *more, ranks=4) == []


def test_other_evaluation_data_and_other_code_are_allowed_and_told(tmp_path: Path) -> None:
    known = {"data.train.id": "1", "data.val.id": "2", "torch": "2.14", "commit": "abc"}
    attempt(tmp_path, **known)
    assert attempt(tmp_path, **known) == []
    assert attempt(tmp_path, **known | {"data.val.id": "3", "torch": "2.15", "commit": "d"}) == [
        "data.val.id: 2 before, 3 now",
        "torch: 2.14 before, 2.15 now",
        "commit: abc before, d now",
    ]


def test_other_training_data_are_refused_and_nothing_is_written(tmp_path: Path) -> None:
    attempt(tmp_path, **{"data.train.id": "1"})
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(ConfigError, match=r"data\.train\.id: 1 there, 2 here"):
        attempt(tmp_path, **{"data.train.id": "2"})
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}


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
        f"run.dir: {tmp_path} holds another run (run.seed: 0 there, 1 here; method.sigma: 0.4 "
        "there, 3.0 here); choose another run.dir or run.label, or remove that folder."
    )


def test_a_place_that_takes_no_files_is_an_error_about_run_dir(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError) as caught:
        attempt(tmp_path / "file" / "run")
    assert caught.value.key == "run.dir"
    assert caught.value.cure == "set run.dir to a folder, or remove what stands in its place"


def test_a_run_that_goes_on_stays_on_its_page_in_wandb(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("WANDB_PROJECT", "WANDB_ENTITY", "WANDB_NAME"):
        monkeypatch.delenv(name, raising=False)
    attempt(tmp_path, "tracking.project=mine", "tracking.name=first")
    monkeypatch.setenv("WANDB_PROJECT", "other")
    monkeypatch.setenv("WANDB_ENTITY", "team")
    for override, project in (("run.threads=1", "mine"), ("tracking.project=asked", "asked")):
        attempt(tmp_path, override)
        tracking = load_settings(RunDir(tmp_path).config).tracking
        assert (tracking.project, tracking.entity, tracking.name) == (project, None, "first")


def ends(run_dir: RunDir) -> list[tuple[str, str, str]]:
    return [(a["state"], a["first_step"], a["last_step"]) for a in run_dir.read_attempts()]


def test_an_attempt_that_was_killed_is_a_lost_one_once_the_next_begins(tmp_path: Path) -> None:
    attempt(tmp_path)
    run_dir = RunDir(tmp_path)
    begun = run_dir.read_begun()
    run_dir.write_status("running", 7, 10)  # killed three steps after its checkpoint
    attempt(tmp_path)
    assert ends(run_dir) == [("lost", "0", "7")]
    assert begun and run_dir.read_attempts()[0]["started"] == begun["started"]
    attempt(tmp_path, step=6)  # the one before never came as far as its first step
    assert ends(run_dir) == [("lost", "0", "7"), ("lost", "4", "4")]
    write_end(run_dir, "finished", (6, 10, 10))
    write_lost(run_dir)
    assert ends(run_dir)[2:] == [("finished", "6", "10")] and run_dir.read_begun() is None


def test_a_refused_start_tells_of_the_lost_attempt_before_it(tmp_path: Path) -> None:
    attempt(tmp_path)
    write_refusal(RunDir(tmp_path), ConfigError("no data"))
    assert ends(RunDir(tmp_path)) == [("lost", "0", "4"), ("failed", "4", "4")]


def test_a_refusal_that_cannot_be_written_down_leaves_the_error_to_be_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempt(tmp_path)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(RunDir, "write_status", full)
    write_refusal(RunDir(tmp_path), ConfigError("no data"))


def test_a_lost_attempt_that_its_slurm_job_has_recorded_has_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir = RunDir(tmp_path)
    monkeypatch.setenv("RWP_ATTEMPT", "17.0")
    attempt(tmp_path)
    run_dir.append_attempt("2026-01-02T01:04:05.678+00:00", "lost", 0, 0)  # by the job
    assert run_dir.read_begun() is None
    monkeypatch.setenv("RWP_ATTEMPT", "17.1")
    attempt(tmp_path)
    assert [line["job"] for line in run_dir.read_attempts()] == ["17.0"]
    begun = run_dir.read_begun()
    assert begun and begun["job"] == "17.1"


def test_a_finished_run_that_goes_on_keeps_no_numbers_of_the_shorter_one(tmp_path: Path) -> None:
    attempt(tmp_path)
    run_dir = RunDir(tmp_path)
    run_dir.write_measurement("evaluation", {"numbers": {"top1": 1.0}})
    run_dir.per_class.mkdir()
    (run_dir.per_class / "val.json").write_text("{}")
    attempt(tmp_path)
    assert run_dir.read_measurements() and run_dir.per_class.is_dir()
    run_dir.write_summary({"steps": 4})
    attempt(tmp_path)
    assert run_dir.read_summary() is None
    assert not run_dir.measured.exists() and not run_dir.per_class.exists()
