"""Whole runs of two ranks on real shards: over a bad connection, and with bad samples."""

import multiprocessing
import os
import shutil
import signal
import zlib
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch
import torch.distributed as dist
from support.evaluations import evaluated
from support.faulty_server import FaultyServer
from support.ranks import run_ranks
from support.stream_sets import (
    BATCH,
    CLASSES,
    NUM,
    SIZE,
    flip_bit,
    load,
    read_source,
    rename_classes,
    served,
    write_set,
)

from rwp_dist import train as train_module
from rwp_dist.base.errors import CheckpointError, ConfigError, DataError, Interrupted
from rwp_dist.config import load_settings
from rwp_dist.data.batch import Batch, Step
from rwp_dist.data.classes import Classes
from rwp_dist.data.remote import Patience
from rwp_dist.data.remote.download import receive
from rwp_dist.record.directory import RunDir
from rwp_dist.run.checkpoint import read_checkpoint
from rwp_dist.run.evaluate import evaluate
from rwp_dist.run.task import Classification
from rwp_dist.shards.samples import Source
from rwp_dist.tracking import Tracker
from rwp_dist.train import train, train_step

EPOCHS = 2
PER_EPOCH = -(-NUM // BATCH)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_set(tmp_path_factory.mktemp("set") / "train")


@pytest.fixture(scope="module")
def damaged(folder, tmp_path_factory):
    """Four samples of this copy are damaged."""
    copy = Path(shutil.copytree(folder, tmp_path_factory.mktemp("damaged") / "train"))
    dataset = load(copy)
    for shard, row in ((0, 3), (1, 0), (4, 7), (6, 2)):
        flip_bit(copy, shard, int(dataset.firsts[shard]) + row, dataset.index)
    return copy


def overrides(train_on, run_dir, *more):
    return [
        f"data.train={train_on}",
        f"data.val={train_on}",
        f"data.image_size={SIZE}",
        "data.channels=3",
        "data.lanes=4",
        "data.window=16",
        "data.pad_last=true",
        "data.workers=1",
        "data.stall_s=1",
        f"data.cache_dir={run_dir}/cache",
        f"model.num_classes={CLASSES}",
        "augment.crop=random_resized",
        f"batch.global={BATCH}",
        "method.name=m-rwp",
        f"schedule.epochs={EPOCHS}",
        "evaluation.every_epochs=0",
        "checkpoint.every_epochs=0",
        "run.device=cpu",
        "run.seed=5",
        f"run.dir={run_dir}/run",
        "tracking.wandb=off",
        "tracking.log_every=1",
        *more,
    ]


def run(settings, interrupt_at=None, crash_at=None, stalls=()):
    """Train; what came of it: the summary, or the error's name, message and exit code.

    Only connections to the paths in ``stalls`` are given up after ``data.stall_s``: on a busy
    machine a good one may be as slow.
    """
    # A rank of the tests is a daemon, which may have no workers; those of a run may.
    multiprocessing.current_process()._config["daemon"] = False
    seen = []

    def looking(parts, step, *args):
        seen.append(step)
        if step == interrupt_at and dist.get_rank() == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        if step == crash_at:
            raise RuntimeError("a crash")
        return train_step(parts, step, *args)

    def patient(url, stall_s, opener):
        return receive(url, stall_s if url.endswith(tuple(stalls)) else 60.0, opener)

    with (
        patch.object(train_module, "train_step", looking),
        patch("rwp_dist.data.remote.cache.receive", patient),
        patch("rwp_dist.data.remote.download.receive", patient),
        patch.object(Patience, "wait_s", lambda self, failures, chance: 0.02 * chance),
    ):
        try:
            return train(load_settings(None, settings)), seen
        except (DataError, Interrupted, RuntimeError) as error:
            return (type(error).__name__, str(error), getattr(error, "exit_code", 1)), seen


def listed(run_dir, lists="rank-*"):
    """(step, sample) of all ranks' lists, or of evaluation's."""
    return sorted(
        tuple(int(field) for field in line.split("\t")[:2])
        for path in RunDir(run_dir).path.glob(f"bad_samples/{lists}.tsv")
        for line in path.read_text().splitlines()
    )


# --- connections ---


FAULTS = [["truncate", "flip"], [500, "reset"], ["stall", 503], [502], ["shorter"], ["silent"]]


def test_two_epochs_over_a_bad_connection_end_as_from_the_disk(folder, tmp_path):
    (expected, _), _ = run_ranks(run, 2, overrides(folder, tmp_path / "disk"))
    with FaultyServer(served(folder)) as server:
        del server.files["/train/samples.index"]  # then each index is fetched by itself
        for kind in (".tar", ".npy"):
            names = sorted(path for path in server.files if path.endswith(kind))
            for path, faults in zip(names, FAULTS, strict=False):
                server.faults[path] = list(faults)
        server.faults["/train/manifest.json"] = [503, "flip", "truncate"]
        stalls = [path for path, faults in server.faults.items() if {"stall", "silent"} & {*faults}]
        settings = overrides(server.url("/train"), tmp_path / "net")
        (summary, steps), _ = run_ranks(run, 2, settings, None, None, stalls)
        assert not any(server.faults.values())
    assert steps == list(range(EPOCHS * PER_EPOCH))
    assert summary["samples"] == EPOCHS * NUM and summary["bad_samples"] == 0
    for name in ("train_loss", "loss", "top1"):
        assert summary[name] == expected[name], name
    from_disk, over_net = (
        list(RunDir(tmp_path / place / "run").read_metrics("train")) for place in ("disk", "net")
    )
    assert all(r["download_retries"] == r["download_bytes_per_s"] == 0 for r in from_disk)
    assert sum(r["download_retries"] for r in over_net) >= sum(map(len, FAULTS))
    fetched = sum(r["download_bytes_per_s"] * r["step_s"] for r in over_net)
    assert fetched >= sum(path.stat().st_size for path in folder.glob("*.tar"))
    assert all(r["cache_evictions"] == 0 for r in over_net)


@pytest.mark.parametrize("fault", [404, 500, "stall"])
def test_a_shard_that_never_comes_stops_all_ranks_at_one_step_with_one_message(
    folder, tmp_path, fault
):
    with FaultyServer(served(folder)) as server:
        lost = sorted(path for path in server.files if path.endswith(".tar"))[2]
        server.always[lost] = fault
        settings = overrides(server.url("/train"), tmp_path, "data.retries=1", "data.stall_s=0.5")
        (first, steps), (second, others) = run_ranks(run, 2, settings, None, None, [lost])
    kind, message, code = first
    assert first == second and steps == others
    assert (kind, code) == ("DataError" if fault == 404 else "NoAttemptsLeftError", 1)
    assert lost in message and "\n" not in message and message.endswith(".")
    assert RunDir(tmp_path / "run").read_status()["state"] == "failed"


# --- classes ---


def run_and_what_it_says(settings):
    said = []
    with patch.object(Tracker, "say", lambda self, text: said.append(text)):
        (summary, _) = run(settings)
    return summary, said


def test_a_checkpoint_keeps_the_classes_and_a_run_with_others_does_not_go_on(folder, tmp_path):
    copy = Path(shutil.copytree(folder, tmp_path / "train"))
    settings = overrides(copy, tmp_path, f"model.num_classes={CLASSES + 1}")
    ((summary, said),) = run_ranks(run_and_what_it_says, 1, settings)
    assert summary["state"] == "finished"
    assert f"{CLASSES + 1} outputs for the {CLASSES} classes" in said[0]
    checkpoint = read_checkpoint(RunDir(tmp_path / "run").newest_checkpoint())
    names = tuple(f"class-{i}" for i in range(CLASSES))
    assert Classes.from_state(checkpoint["parts"]["history"]["classes"]).names == names
    (tmp_path / "run" / "summary.json").unlink()
    rename_classes(copy, "class-1", "class-0", *names[2:])
    with pytest.raises(ConfigError, match=r"label 0 is 'class-0' there, 'class-1' here"):
        run_ranks(run, 1, settings)


# --- bad samples ---


def test_bad_samples_are_counted_exactly_across_an_interruption(damaged, tmp_path):
    (whole, _), _ = run_ranks(run, 2, overrides(damaged, tmp_path / "whole"))
    assert whole["bad_samples"] == 4 * EPOCHS
    expected = listed(tmp_path / "whole/run")
    assert len(expected) == 4 * EPOCHS and len({sample for _, sample in expected}) == 4
    assert whole["samples"] == EPOCHS * (NUM - 4)

    settings = overrides(damaged, tmp_path / "parts")
    (stopped, steps), _ = run_ranks(run, 2, settings, 4)
    assert stopped[0] == "Interrupted" and steps == list(range(5))
    assert 0 < len(listed(tmp_path / "parts/run")) < len(expected)
    (summary, steps), _ = run_ranks(run, 2, settings)
    assert steps == list(range(5, EPOCHS * PER_EPOCH))
    assert summary["bad_samples"] == whole["bad_samples"]
    assert summary["samples"] == whole["samples"]
    assert listed(tmp_path / "parts/run") == expected


def test_after_a_crash_samples_that_come_again_on_other_ranks_are_counted_and_listed_once(
    damaged, tmp_path
):
    settings = overrides(damaged, tmp_path, "checkpoint.every_epochs=1")
    for (kind, *_), steps in run_ranks(run, 2, settings, None, 8):
        assert kind == "RuntimeError" and steps == list(range(9))
    before = listed(tmp_path / "run")
    assert before[-1][0] > PER_EPOCH  # some came after the checkpoint
    ((summary, steps),) = run_ranks(run, 1, settings)
    assert steps == list(range(PER_EPOCH, EPOCHS * PER_EPOCH))
    assert summary["bad_samples"] == 4 * EPOCHS
    assert len(listed(tmp_path / "run")) == 4 * EPOCHS == len(set(listed(tmp_path / "run")))


@pytest.mark.parametrize("limit", [0, 2, 5])
def test_above_the_limit_all_ranks_stop_at_the_same_step_with_a_list(damaged, tmp_path, limit):
    settings = overrides(damaged, tmp_path, f"data.max_bad_samples={limit}")
    (first, steps), (second, others) = run_ranks(run, 2, settings)
    assert first == second and steps == others
    kind, message, code = first
    assert (kind, code) == ("DataError", 1)
    assert message.startswith("data.max_bad_samples: ") and str(tmp_path) in message
    assert f"the limit of {limit};" in message
    assert "\n" not in message and message.endswith(".")
    found = listed(tmp_path / "run")
    # Up to the step that was not trained any more.
    assert len(found) > limit and found[-1][0] == len(steps)
    assert sum(step < len(steps) for step, _ in found) <= limit
    lists = sorted(p.name for p in (tmp_path / "run/bad_samples").iterdir())
    assert lists and set(lists) <= {"rank-0.tsv", "rank-1.tsv"}
    line = (tmp_path / "run/bad_samples" / lists[0]).read_text().splitlines()[0]
    assert "train-0000" in line and "crc32" in line and line.count("\t") == 2


# --- evaluation ---


@pytest.mark.parametrize("world_size", [1, 2])
def test_images_that_evaluation_cannot_read_are_counted_listed_and_left_out_of_top1(
    folder, tmp_path, world_size
):
    undecodable, damaged = {5, 60}, {3, 40, 99}
    val = write_set(tmp_path / "val", undecodable=undecodable)
    dataset = load(val)
    lost = {n: position_of(n, dataset.index, undecodable) for n in undecodable | damaged}
    for number in damaged:
        (shard,), _ = dataset.locate(np.array([lost[number]]))
        flip_bit(val, shard, lost[number], dataset.index)
    settings = overrides(folder, tmp_path, "data.max_bad_samples=0", "schedule.epochs=1")
    settings.append(f"data.val={val}")
    (summary, steps), *_ = run_ranks(run, world_size, settings)
    assert len(steps) == PER_EPOCH and summary["bad_samples"] == 0  # those of training
    assert summary["eval_bad_samples"] == len(lost)
    run_dir = RunDir(tmp_path / "run")
    (record,) = run_dir.read_metrics("eval")
    assert (record["num_samples"], record["bad_samples"]) == (NUM - len(lost), len(lost))
    (path,) = (run_dir.path / "bad_samples").iterdir()
    assert path.name == "evaluation.tsv"
    assert sorted(sample for _, sample in listed(run_dir.path, "evaluation")) == sorted(
        lost.values()
    )

    found, more = run_ranks(evaluation, world_size, settings)[0].splitlines()
    assert more.startswith(f"{len(lost)} more could not be read. The first: ")
    readable = write_set(tmp_path / "readable", without=lost)
    settings.append(f"data.val={readable}")
    assert found == run_ranks(evaluation, world_size, settings)[0]
    assert f"({NUM - len(lost)} images)" in found
    with pytest.raises(CheckpointError, match=r"another network .*; set model") as refused:
        run_ranks(evaluation, world_size, [*settings, f"model.num_classes={CLASSES + 1}"])
    assert "\n" not in str(refused.value)


def evaluation(settings):
    return evaluated(load_settings(None, settings))


def position_of(number, index, undecodable):
    """Where the writer's permutation has put an image of the set."""
    source = Source(f"{number:04d}.jpg", "jpg", number % CLASSES, "", number)
    crc32 = zlib.crc32(read_source(source, undecodable))
    # Undecodable ones are all alike: by their order.
    found = np.flatnonzero(index["crc32"] == crc32)
    return int(found[sorted(undecodable).index(number) if number in undecodable else 0])


def with_a_lost_shard(lost_by):
    batch = Batch(torch.zeros(2, 1, 1, 1), torch.zeros(2, dtype=torch.int64), torch.ones(2))

    def steps():
        yield Step([batch], [2])
        if dist.get_rank() == lost_by:
            raise DataError(f"shard of rank {lost_by} is lost.")
        yield Step([batch], [2])

    try:
        task = Classification()
        return evaluate(lambda images: images.flatten(1), steps(), torch.device("cpu"), task)
    except DataError as error:
        return str(error)


def test_an_evaluation_shard_that_one_rank_cannot_have_ends_all_with_one_message():
    assert run_ranks(with_a_lost_shard, 2, 1) == ["shard of rank 1 is lost."] * 2
    (result, bad), other = run_ranks(with_a_lost_shard, 2, None)
    assert (result["num_samples"], bad) == (8, []) and other == (result, bad)
