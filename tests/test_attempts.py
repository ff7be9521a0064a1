"""What a run's record says when ranks, data or code change between its attempts."""

import io
import shutil
from contextlib import redirect_stdout
from unittest.mock import patch

import pytest
import torch
import torch.distributed as dist
from support.ranks import run_ranks
from torch import nn

from rwp_dist import train as train_module
from rwp_dist.base.errors import ConfigError, DivergedError
from rwp_dist.config import load_settings
from rwp_dist.record import identity
from rwp_dist.record.directory import RunDir
from rwp_dist.record.identity import brief
from rwp_dist.run.checkpoint import list_checkpoints, read_checkpoint
from rwp_dist.shards.digits import write_digits
from rwp_dist.train import train, train_step

SMALL = (
    *("batch.global=256", "schedule.steps=12", "evaluation.every_epochs=0", "run.device=cpu"),
    *("data.lanes=1", "data.pad_last=true", "data.workers=0", "tracking.wandb=off"),
    *("checkpoint.keep_last=9", "tracking.log_every=2", "data.eval_crop_ratio=1.0"),
)


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("digits")
    write_digits(folder / "one")
    write_digits(folder / "two", seed=1)
    return folder


@pytest.fixture
def digits(shards, tmp_path):
    """Shards that a test may replace."""
    return shutil.copytree(shards / "one", tmp_path / "digits")


def overrides(digits, run_dir, *more):
    data = [f"data.train={digits}/train", f"data.val={digits}/test"]
    return [*data, *SMALL, f"run.dir={run_dir}", *more]


def run(settings, crash_at=None, on_rank_1=()):
    """The summary of a run, or what its user's error says."""
    more = on_rank_1 if dist.get_rank() == 1 else ()

    def crashing(parts, step, *args):
        if step == crash_at:
            raise RuntimeError("a crash")
        return train_step(parts, step, *args)

    with patch.object(train_module, "train_step", crashing):
        try:
            return train(load_settings(None, [*settings, *more]))
        except RuntimeError as error:
            return str(error)
        except (ConfigError, DivergedError) as error:
            return error


def heard(settings, crash_at=None, versions=identity.version_of):
    """The same, and what the rank printed."""
    text = io.StringIO()
    with redirect_stdout(text), patch.object(identity, "version_of", versions):
        return run(settings, crash_at), text.getvalue()


def crashed(settings, step=6):
    """What rank 0 of a run printed that crashed in this step."""
    (end, said), _ = run_ranks(heard, 2, settings, step)
    assert end == "a crash"
    return said


def content(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("stale", ["optimizer.lr=0.01", "run.seed=1", "other data"])
def test_a_rank_that_was_started_otherwise_keeps_all_from_starting(shards, tmp_path, stale):
    settings = overrides(shards / "one", tmp_path / "run")
    if stale == "other data":
        stale = f"data.train={shards}/two/train"
    one, other = run_ranks(run, 2, settings, None, (stale,))
    assert isinstance(one, ConfigError) and str(one) == str(other)
    key = stale.partition("=")[0]
    assert f"{key}" in str(one) and " on rank 0 (" in str(one) and " on rank 1 (" in str(one)
    assert not (tmp_path / "run").exists()


def test_a_rank_may_read_the_same_data_from_another_place(shards, digits, tmp_path):
    settings = overrides(shards / "one", tmp_path / "run")
    local = (f"data.train={digits}/train", "tracking.log_every=5", f"run.dir={tmp_path}/other")
    one, other = run_ranks(run, 2, settings, None, local)
    assert one["top1"] == other["top1"] > 10
    assert RunDir(tmp_path / "run").read_metrics("train")[0]["step"] == 2
    assert not (tmp_path / "other").exists()


def test_a_finished_run_that_is_started_again_keeps_its_record(digits, shards, tmp_path):
    settings = overrides(digits, tmp_path / "run", "schedule.steps=2")
    run_ranks(run, 2, settings)
    before = content(tmp_path / "run")
    again = [*settings, f"data.val={shards}/two/test", "batch.per_rank=16"]
    (summary, said), _ = run_ranks(heard, 2, again)
    assert summary == RunDir(tmp_path / "run").read_summary()
    assert content(tmp_path / "run") == before
    assert "finished already" in said
    for change in ("data.val.id: ", "batch.per_rank: 64 before, 16 now"):
        assert change in said
    shutil.rmtree(digits)  # a finished run does not need its data
    assert run_ranks(run, 2, settings)[0] == summary
    assert content(tmp_path / "run") == before
    refused, _ = run_ranks(run, 2, [*settings, "optimizer.lr=0.2"])
    assert "optimizer.lr: 0.1 there, 0.2 here" in str(refused)


def other_version(package):
    return "9.9"


def test_what_changed_between_attempts_is_said_once_and_kept(digits, shards, tmp_path):
    settings = overrides(digits, tmp_path / "run")
    crashed(settings)
    shutil.rmtree(digits / "test")
    shutil.copytree(shards / "two" / "test", digits / "test")
    assert crashed(settings, 10).count("data.val.id: ") == 1
    (summary, said), _ = run_ranks(heard, 2, settings, None, other_version)
    assert "data.val.id" not in said and "9.9 now" in said

    run_dir = RunDir(tmp_path / "run")
    first, second, third = run_dir.read_attempts()
    assert first["changed"] == "-"
    assert second["changed"].startswith("data.val.id: ") and " before, " in second["changed"]
    assert "torch: " in third["changed"] and third["changed"].count(";") == 1
    test_set, *versions = summary["changes"]
    assert test_set == f"{second['changed']} (after step 4)"
    assert all(change.endswith("9.9 now (after step 8)") for change in versions)
    assert summary["identity"] == brief(run_dir.read_identity()) | {"engine": "DDP"}
    saved = read_checkpoint(list_checkpoints(run_dir.checkpoints)[-1])["parts"]["history"]
    assert (brief(saved["identity"]), saved["changes"]) == (summary["identity"], summary["changes"])


def test_other_training_data_between_attempts_are_refused(digits, shards, tmp_path):
    settings = overrides(digits, tmp_path / "run")
    crashed(settings)
    before = content(tmp_path / "run" / "checkpoints")
    shutil.rmtree(digits / "train")
    shutil.copytree(shards / "two" / "train", digits / "train")
    refused, _ = run_ranks(run, 2, settings)
    assert "data.train.id: " in str(refused) and refused.exit_code == 2
    assert content(tmp_path / "run" / "checkpoints") == before


def test_a_run_that_ends_diverged_is_not_finished(digits, tmp_path):
    settings = overrides(digits, tmp_path / "run", "optimizer.lr=1e30", "schedule.steps=40")
    for _ in range(2):  # nor when it is started again
        error, _ = run_ranks(run, 2, settings)
        assert isinstance(error, DivergedError) and error.exit_code == 65
        run_dir = RunDir(tmp_path / "run")
        assert not run_dir.summary.exists()
        status = run_dir.read_status()
        assert (status["state"], status["exit_code"]) == ("failed", 65)
        assert "diverged" in status["message"]


class BlindInEvaluation(nn.Module):
    """A network whose outputs are numbers only while it trains."""

    def __init__(self, num_classes):
        super().__init__()
        self.layer = nn.Linear(64, num_classes)

    def forward(self, images):
        logits = self.layer(images.flatten(1))
        return logits if self.training else logits * torch.nan


def test_a_run_whose_test_loss_is_no_number_is_not_finished(digits, tmp_path):
    model = f"model.name={__name__}:BlindInEvaluation"
    settings = overrides(digits, tmp_path / "run", model, "schedule.steps=2", "method.name=sgd")
    error, _ = run_ranks(run, 2, settings)
    assert isinstance(error, DivergedError) and "its loss in the evaluation is nan" in str(error)
    assert not RunDir(tmp_path / "run").summary.exists()
