"""Whole runs of ``train()`` on two ranks, on the digits."""

import json
import os
import signal
import threading
from contextlib import nullcontext
from unittest.mock import patch

import pytest
import torch
import torch.distributed as dist
from support.mounts import small_disk
from support.ranks import run_ranks
from support.small import same_bits

from rwp_dist import train as train_module
from rwp_dist.base.errors import CheckpointWriteError, ConfigError, Interrupted, ReplicaError
from rwp_dist.config import load_settings
from rwp_dist.data.stream import TrainStream
from rwp_dist.record.directory import RunDir
from rwp_dist.run import build as build_module
from rwp_dist.run.checkpoint import list_checkpoints, read_checkpoint
from rwp_dist.run.memory import with_stage
from rwp_dist.shards.digits import write_digits
from rwp_dist.tracking.columns import COLUMNS
from rwp_dist.train import train, train_step

STEPS = 12  # three epochs of four steps


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    folder = tmp_path_factory.mktemp("digits")
    write_digits(folder)
    return folder


def overrides(digits, run_dir, *more):
    return [
        f"data.train={digits}/train",
        f"data.val={digits}/test",
        "batch.global=256",
        f"schedule.steps={STEPS}",
        "method.name=m-arwp",
        "method.scale=rms",
        "method.sigma=0.5",
        "checkpoint.keep_last=9",
        "run.device=cpu",
        "data.eval_crop_ratio=1.0",
        "data.lanes=1",
        "data.pad_last=true",
        "data.workers=0",
        f"run.dir={run_dir}",
        "tracking.wandb=off",
        "tracking.log_every=2",
        *more,
    ]


def run(settings):
    """The summary of a whole run, or the message of its end, and the steps that it trained."""
    steps = []

    def counting(parts, step, *args):
        steps.append(step)
        return train_step(parts, step, *args)

    with patch.object(train_module, "train_step", counting):
        try:
            return train(load_settings(None, settings)), steps
        except Interrupted as error:
            return str(error), steps


def test_a_run_leaves_a_complete_directory_and_is_not_trained_twice(digits, tmp_path):
    settings = overrides(digits, tmp_path / "run", "evaluation.every_epochs=1")
    (summary, steps), (other, _) = run_ranks(run, 2, settings)
    assert summary["steps"] == STEPS and steps == list(range(STEPS))
    assert summary["method"] == "m-arwp" and summary["world_size"] == 2
    assert summary["samples"] == 3 * 1000 and summary["skipped_steps"] == 0
    assert summary["loss"] == other["loss"] and 10 < summary["top1"] < 100
    assert {"label", "seed", "top5", "train_s", "step_s", "train_loss"} <= summary.keys()

    run_dir = RunDir(tmp_path / "run")
    assert json.loads(run_dir.summary.read_text()) == run_dir.read_summary()
    assert run_dir.read_summary()["top1"] == summary["top1"]
    assert run_dir.read_status()["state"] == "finished"
    assert run_dir.read_environment()["world_size"] == 2
    assert [r["step"] for r in run_dir.read_metrics("train")] == [2, 4, 6, 8, 10, 12]
    assert [r["step"] for r in run_dir.read_metrics("eval")] == [4, 8, 12]
    for record in run_dir.read_metrics():
        columns = {column.key for column in COLUMNS[record["kind"]]}
        assert record.keys() - {"kind", "time", "step", "total_steps"} == columns
    for record in run_dir.read_metrics("train"):
        left_out = {"cache_hits", "mfu"}  # they have no cache, and no peak
        assert {key for key, value in record.items() if value is None} <= left_out | {
            "noise_hidden"
        }
        gap = record["perturbed_loss"] - record["clean_loss"]
        assert record["loss_gap"] == gap and 0 <= record["step_spread"] < 1
    for record, epoch in zip(run_dir.read_metrics("checkpoint"), (1, 2, 3), strict=True):
        path = run_dir.checkpoints / f"step-{4 * epoch:08d}.pt"
        assert record["step"] == 4 * epoch and record["bytes"] == path.stat().st_size
        assert 0 < record["save_s"] < summary["wall_s"]
    *_, last = evaluations = run_dir.read_metrics("eval")
    for key in ("samples", "train_s", "device_seconds"):
        assert 0 < evaluations[0][key] < evaluations[1][key] < last[key] == summary[key]
    assert last["train_s"] < last["wall_s"] < summary["wall_s"]
    assert [p.name for p in list_checkpoints(run_dir.checkpoints)] == [
        f"step-{step:08d}.pt" for step in (4, 8, 12)
    ]
    (attempt,) = run_dir.read_attempts()
    assert (attempt["state"], attempt["first_step"], attempt["last_step"]) == (
        "finished",
        "0",
        "12",
    )
    assert load_settings(run_dir.config).method.sigma == 0.5

    for again, steps in run_ranks(run, 2, settings):
        assert again == run_dir.read_summary() and steps == []
    assert len(run_dir.read_attempts()) == 1


def test_a_directory_with_other_settings_is_refused_by_their_keys(digits, tmp_path):
    settings = overrides(digits, tmp_path, "schedule.steps=2")
    run_ranks(run, 2, settings)
    with pytest.raises(ConfigError) as refused:
        run_ranks(run, 2, [*settings, "method.sigma=0.25", "run.seed=4"])
    assert "method.sigma: 0.5 there, 0.25 here" in str(refused.value)
    assert "run.seed: 0 there, 4 here" in str(refused.value)


def ends_on_a_full_disk(settings):
    try:
        train(load_settings(None, settings))
    except Exception as error:
        return type(error), str(error)


def test_the_first_error_on_a_full_disk_is_the_one_that_is_told(digits, tmp_path):
    """Also where there is no room to write down how the attempt has ended."""
    with small_disk(tmp_path / "disk", "size=64k") as disk:
        settings = overrides(digits, disk / "run", "schedule.steps=1")
        [(kind, said)] = run_ranks(ends_on_a_full_disk, 1, settings)
    assert kind is CheckpointWriteError and "(No space left on device); free space" in said


def interrupted(settings, at_step):
    """The last rank is sent a signal during one step."""

    def with_a_signal(parts, step, *args):
        if step == at_step and dist.get_rank() == dist.get_world_size() - 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return train_step(parts, step, *args)

    with (
        patch.object(train_module, "train_step", with_a_signal),
        pytest.raises(Interrupted) as stop,
    ):
        train(load_settings(None, settings))
    return str(stop.value)


@pytest.mark.parametrize("stage", [0, 1, 2])
def test_a_signal_to_one_rank_stops_all_and_the_resumed_run_ends_as_if_undisturbed(
    digits, tmp_path, stage
):
    # Two micro-batches on two ranks: both have clean passes and statistics of their own.
    more = (f"deepspeed.zero_stage={stage}", "checkpoint.every_epochs=0", "batch.per_rank=64")
    more += ("evaluation.every_epochs=1",)
    run_ranks(run, 2, overrides(digits, tmp_path / "undisturbed", *more))
    settings = overrides(digits, tmp_path / "resumed", *more)
    first, second = run_ranks(interrupted, 2, settings, 4)
    assert first == second and first.startswith(f"Stopped after step 5 of {STEPS}")

    run_dir = RunDir(tmp_path / "resumed")
    assert [p.name for p in list_checkpoints(run_dir.checkpoints)] == ["step-00000005.pt"]
    assert run_dir.read_status()["state"] == "interrupted"
    assert run_dir.read_summary() is None

    for summary, steps in run_ranks(run, 2, settings):
        assert steps == list(range(5, STEPS)) and summary["samples"] == 3 * 1000
    assert [a["state"] for a in run_dir.read_attempts()] == ["interrupted", "finished"]
    assert [a["first_step"] for a in run_dir.read_attempts()] == ["0", "5"]
    assert [r["step"] for r in run_dir.read_metrics("train")] == [2, 4, 6, 8, 10, 12]
    assert run_dir.read_metrics("train")[-1]["samples"] == 3000
    assert [r["step"] for r in run_dir.read_metrics("checkpoint")] == [5, STEPS]
    evaluations = run_dir.read_metrics("eval")
    assert [r["samples"] for r in evaluations] == [1000, 2000, 3000]
    for key in ("train_s", "device_seconds", "wall_s"):  # they go on, and do not begin anew
        # The records are rank 0's; the other rank's summary has a clock of its own.
        times = [r[key] for r in evaluations]
        assert 0 < times[0] < times[1] < times[2] <= run_dir.read_summary()[key]

    ends = [
        read_checkpoint(list_checkpoints(tmp_path / name / "checkpoints")[-1])
        for name in ("undisturbed", "resumed")
    ]
    for part in ("weights", "buffers"):
        assert same_bits(ends[0][part], ends[1][part]), part
    moves = [end["parts"]["perturbed"]["move"]["energy"] for end in ends]
    assert moves[0] and same_bits(*moves)
    for name, state in ends[0]["optimizer"].items():
        assert same_bits(state, ends[1]["optimizer"][name]), name


def run_where_auto_is(stage, settings):
    """A whole run on GPUs of which the memory has ``auto`` choose this stage."""
    with patch.object(build_module, "with_zero_stage", lambda asked, *_: with_stage(asked, stage)):
        return run(settings)


def test_a_run_that_goes_on_at_another_stage_of_auto_says_so(digits, tmp_path):
    settings = overrides(digits, tmp_path, "batch.per_rank=64", "schedule.steps=4")
    run_ranks(interrupted, 2, settings, 1)
    told = "engine: DDP before, DeepSpeed at stage 1 now"
    for summary, _ in run_ranks(run_where_auto_is, 2, 1, settings):
        assert (summary["engine"], summary["zero_stage"]) == ("deepspeed", 1)
        assert summary["changes"] == [f"{told} (after step 2)"]
    assert [a["changed"] for a in RunDir(tmp_path).read_attempts()] == ["-", told]


def interrupted_at_once(settings):
    """A signal comes before the first step of an attempt."""

    def with_a_signal(progress):
        os.kill(os.getpid(), signal.SIGTERM)

    with patch.object(train_module.Progress, "start", with_a_signal), pytest.raises(Interrupted):
        train(load_settings(None, settings))


def stopped_while_reading(settings):
    """The last rank waits for samples that never come when it is sent a signal."""

    def never(stream, first, last):
        threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGTERM)).start()
        threading.Event().wait(600)
        yield

    last = dist.get_rank() == dist.get_world_size() - 1
    hanging = patch.object(TrainStream, "steps", never) if last else nullcontext()
    with hanging, pytest.raises(Interrupted) as stop:
        train(load_settings(None, settings))
    return str(stop.value)


def test_a_signal_ends_a_run_whose_data_do_not_come(digits, tmp_path):
    settings = overrides(digits, tmp_path, "schedule.steps=4", "batch.per_rank=64")
    for said in run_ranks(stopped_while_reading, 2, settings):
        assert said.startswith("Stopped after step 0 of 4")
    assert RunDir(tmp_path).read_status()["state"] == "interrupted"
    for summary, _ in run_ranks(run, 2, settings):
        assert summary["steps"] == 4


def test_every_checkpoint_has_one_record_however_often_a_run_stops_there(digits, tmp_path):
    settings = overrides(digits, tmp_path, "schedule.steps=8", "evaluation.every_epochs=0")

    def steps():
        return [record["step"] for record in RunDir(tmp_path).read_metrics("checkpoint")]

    run_ranks(interrupted, 1, settings, 3)  # in the step before a checkpoint
    assert steps() == [4]
    run_ranks(interrupted_at_once, 1, settings)
    assert steps() == [4]
    # Killed between a checkpoint and its record: the next attempt that saves there writes it.
    RunDir(tmp_path).metrics.write_text("")
    run_ranks(interrupted_at_once, 1, settings)
    assert steps() == [4]
    run_ranks(run, 1, settings)
    assert steps() == [4, 8]


def with_a_changed_weight(settings):
    """Something changes the least bits of some weights of rank 1 during the third step.

    Of some, because the next step's rounding may well undo one.
    """

    def changing(parts, step, *args):
        train_step(parts, step, *args)
        if step == 2 and dist.get_rank() == 1:
            weight = dict(parts.engine.module.named_parameters())["conv2.weight"]
            weight.detach().view(-1).view(torch.int32)[5:25] ^= 1

    with patch.object(train_module, "train_step", changing):
        train(load_settings(None, settings))


def test_a_deliberately_changed_weight_stops_the_run_and_is_named(digits, tmp_path):
    settings = overrides(digits, tmp_path, "run.check_replicas_every=4", "deepspeed.zero_stage=0")
    with pytest.raises(
        ReplicaError, match=r"After step 4 the weights of rank 1 .* first in conv2\.weight"
    ):
        run_ranks(with_a_changed_weight, 2, settings)
    assert RunDir(tmp_path).read_status()["state"] == "failed"


def buffers_at_checkpoints(settings):
    """The statistics of this rank whenever a checkpoint is written."""
    save, seen = train_module.save_checkpoint, []

    def looking(folder, engine, *args, **more):
        seen.append({n: b.clone() for n, b in engine.module.named_buffers()})
        return save(folder, engine, *args, **more)

    with patch.object(train_module, "save_checkpoint", looking):
        train(load_settings(None, settings))
    return seen


@pytest.mark.parametrize("method", ["m-rwp", "rwp"])
def test_a_checkpoint_holds_statistics_that_all_ranks_share(digits, tmp_path, method):
    settings = overrides(
        digits, tmp_path, f"method.name={method}", "method.sigma=0.01", "evaluation.every_epochs=0"
    )
    first, second = run_ranks(buffers_at_checkpoints, 2, settings)
    paths = list_checkpoints(tmp_path / "checkpoints")
    for path, one, other in zip(paths, first, second, strict=True):
        assert same_bits(one, other) and same_bits(one, read_checkpoint(path)["buffers"])


def test_a_run_learns_the_digits(digits, tmp_path):
    """Not how well: that is what the benchmarks measure."""
    settings = overrides(
        digits, tmp_path, "method.name=m-rwp", "batch.global=64", "schedule.steps=40"
    )
    (summary, _), _ = run_ranks(run, 2, settings)
    assert summary["top1"] > 50
