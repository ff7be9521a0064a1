"""The command on finished runs: files, numbers, one rank or two, and what it refuses."""

import json
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from click.testing import CliRunner
from support.evaluations import measured_numbers
from support.ranks import run_ranks

from rwp_dist.base.errors import ConfigError, RwpError
from rwp_dist.cli import main
from rwp_dist.compare.pictures import pictures_of
from rwp_dist.config import load_settings
from rwp_dist.flatness import landscape
from rwp_dist.flatness.command import Request, measure
from rwp_dist.flatness.landscape import read_sample
from rwp_dist.flatness.runs import find_runs
from rwp_dist.record.directory import RunDir
from rwp_dist.shards.digits import write_digits
from rwp_dist.train import train

SMALL = Request(images=25, batch=10, directions=2, hessian=True)
SHORT = {
    "hessian": {"TRACE_PRODUCTS": 9, "DENSITY_RUNS": 1, "DENSITY_STEPS": 5},
    "slices": {"POINTS": 3, "LINE_POINTS": 13},
}
"""What takes less time than what users get."""
KEYS = {
    *("flatness.loss", "flatness.random_loss_increase", "flatness.adversarial_loss_increase"),
    *("flatness.radius", "flatness.top_eigenvalue", "flatness.trace"),
}


def train_runs(folder: Path) -> None:
    for label, rate in (("sgd", 0.1), ("slow", 0.02)):
        settings = [
            *(f"data.train={folder}/digits/train", f"data.val={folder}/digits/test"),
            *("batch.global=64", "batch.per_rank=64", "schedule.steps=15", f"optimizer.lr={rate}"),
            *("run.device=cpu", "data.eval_crop_ratio=1.0", "data.lanes=1", "data.workers=0"),
            *(f"run.label={label}", f"run.dir={folder}/{label}", "tracking.wandb=off"),
        ]
        train(load_settings(None, settings))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two finished runs on the digits, measured on two ranks."""
    folder = tmp_path_factory.mktemp("flatness")
    write_digits(folder / "digits")
    run_ranks(train_runs, 1, folder)
    everything = replace(SMALL, slices=("around", "between"))
    run_ranks(measured, 2, [folder], folder / "out", everything)
    return folder


def measured(paths: list[Path], out: Path, request: Request) -> str:
    with ExitStack() as stack:
        for module, values in SHORT.items():
            stack.enter_context(patch.multiple(f"rwp_dist.flatness.{module}", **values))
        return measure(find_runs(paths), request, out)


def test_numbers_and_pictures_are_written(folder: Path) -> None:
    for label in ("sgd", "slow"):
        assert measured_numbers(RunDir(folder / label)).keys() == KEYS
        content = RunDir(folder / label).read_measurement("flatness")
        assert content is not None
        assert content["images"] == 25
        assert len(content["random"]["loss"]) == 2
    for name in ("flatness", "flatness-around", "flatness-between"):
        assert (folder / "out" / f"{name}.png").read_bytes()[:4] == b"\x89PNG"
    runs = [folder / "sgd", folder / "slow"]
    assert len(pictures_of(runs, folder / "out", "flatness*.png")) == 3
    assert pictures_of(runs[:1], folder / "out", "flatness*.png") == []
    line, plane = json.loads((folder / "out" / "flatness-around.json").read_text())[:2]
    assert (len(line["y"]), len(plane["y"])) == (1, 3)
    [between] = json.loads((folder / "out" / "flatness-between.json").read_text())
    assert between["runs"] == {"sgd": [0.0, 0.0], "slow": [1.0, 0.0]}


def test_one_rank_gets_the_numbers_of_two(folder: Path, tmp_path: Path) -> None:
    kept = folder / "sgd" / "measured" / "flatness.jsonl"
    before = measured_numbers(RunDir(folder / "sgd"))
    content = kept.read_text()
    kept.unlink()
    [text] = run_ranks(measured, 1, [folder / "sgd"], tmp_path, SMALL)
    kept.write_text(content)
    assert f"Written: {tmp_path / 'flatness.png'}" in text
    after = measured_numbers(RunDir(folder / "sgd"))
    assert after == pytest.approx(before, rel=1e-3)


def test_a_second_call_computes_nothing(folder: Path, tmp_path: Path) -> None:
    kept = folder / "sgd" / "measured" / "flatness.jsonl"
    before = kept.read_text()
    run_ranks(measured_without_computing, 1, [folder], tmp_path)
    assert kept.read_text() == before
    assert (tmp_path / "flatness.png").exists()


def measured_without_computing(paths: list[Path], out: Path) -> None:
    def compute(*args: object) -> None:
        raise AssertionError("computed again")

    with patch.object(landscape.Landscape, "_logits", compute):
        measured(paths, out, SMALL)


def test_other_pixels_or_another_batch_are_another_sample(folder: Path) -> None:
    config, digests = RunDir(folder / "sgd").config, set()
    for ratio, batch in ((1.0, 10), (0.5, 10), (1.0, 5)):
        settings = load_settings(config, [f"data.eval_crop_ratio={ratio}"])
        digests.add(read_sample(settings, 20, batch, torch.device("cpu")).digest)
    assert len(digests) == 3


def test_the_command_line_says_what_it_found(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    options = ["--images", "25", "--batch", "10", "--directions", "2", "--out", str(out)]
    result = CliRunner().invoke(main, ["flatness", str(folder / "sgd"), *options])
    assert result.exit_code == 0, result.output
    assert f"Written: {out / 'flatness.png'}" in result.output


def test_what_cannot_be_measured_is_refused_with_the_cure(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(RwpError, match=r"no finished run to measure .*no run directory is there"):
        find_runs([tmp_path])
    with pytest.raises(ConfigError, match="--checkpoint: one file for 2 runs"):
        find_runs([folder], checkpoint=tmp_path / "step-00000001.pt")
    config = RunDir(folder / "slow").config
    text = config.read_text()
    config.write_text(text.replace("/digits/train", "/others/train"))
    with pytest.raises(ConfigError, match=r"data\.train: the runs differ in it"):
        find_runs([folder])
    assert find_runs([folder], [f"data.train={folder}/digits/train"])
    config.write_text(text)
