"""The command: what it prints, draws and refuses."""

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from rwp_dist.cli import main
from rwp_dist.perturb.methods import METHODS

GPUS = ("--gpus", "16", "--gpu", "a100", "--link", "100Gbit")


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "own.yaml"
    path.write_text("batch: {global: 256, per_rank: 16}\nschedule: {steps: 3600}\n")
    return path


def plan(*words: str | Path) -> Result:
    return CliRunner().invoke(main, ["plan", *map(str, words)])


def test_it_prints_a_row_of_time_and_one_of_memory_for_each_method(config: Path) -> None:
    found = plan(config, *GPUS, "--price", "2")
    assert found.exit_code == 0, found.output
    first = [line.split(" ")[0] for line in found.output.splitlines()]
    assert [first.count(name) for name in METHODS] == [2] * len(METHODS)
    assert "cost" in found.output
    assert "16 GPUs (a100, 2 nodes, 100 Gbit/s each)" in found.output
    assert "--feed" in found.output


def test_costs_are_shown_only_with_a_price(config: Path) -> None:
    assert "cost" not in plan(config, *GPUS).output


def test_what_a_node_reads_is_compared_with_what_gpus_take(config: Path) -> None:
    assert "keeps GPUs waiting" in plan(config, *GPUS, "--feed", "10").output
    assert "of what a node can read" in plan(config, *GPUS, "--feed", "1e9").output


def test_it_says_what_another_stage_would_take_and_what_it_leaves_out(config: Path) -> None:
    said = plan(config, *GPUS, "deepspeed.zero_stage=1", "run.compile=true").output
    assert "deepspeed.zero_stage=auto would take DDP, and sgd " in said
    tuned = ("deepspeed.zero_stage=1", "deepspeed.extra.zero_optimization.reduce_bucket_size=1000")
    assert "deepspeed.zero_stage=auto would take DDP" in plan(config, *GPUS, *tuned).output
    assert "run.compile is not in the model" in said and "last-sam: that ZeRO" in said
    sized = plan(config, *GPUS, "data.sizes=[[0,8],[0.5,12]]", "loss.teacher=elsewhere").output
    assert "small_cnn, 12 pixels" in sized and "(data.sizes) take less" in sized
    assert "The teacher's forward passes are not in the model" in sized
    sharded = plan(config, *GPUS, "deepspeed.zero_stage=3", "batch.per_rank=8").output
    assert "sam, asam, last-sam cannot train at stage 3" in sharded
    without = plan(config, *GPUS, "schedule.steps=null", "data.train=nowhere").output
    assert "give --images N" in without


def test_it_draws_curves(config: Path, tmp_path: Path) -> None:
    found = plan(config, *GPUS, "--out", tmp_path / "new")
    assert found.exit_code == 0, found.output
    assert (tmp_path / "new" / "plan.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--gpu", "gtx"), "choose from a100"),
        (("--link", "12"), "write it as 400Gbit"),
        (("--gpus", "7"), "batch.global"),
        (("model.name=nothing",), "model.name"),
        (("--feed", "nan"), "give a number"),
        (("--mfu", "0.2"), "set precision to bf16"),
        (("deepspeed.zero_stage=1", "deepspeed.extra.zero_optimization=5"), "zero_optimization"),
    ],
)
def test_what_it_cannot_plan_is_one_sentence_with_a_cure(
    config: Path, words: tuple[str, ...], said: str
) -> None:
    found = plan(config, *GPUS, *words)
    assert found.exit_code == 2
    assert said in found.output
    assert "Traceback" not in found.output
