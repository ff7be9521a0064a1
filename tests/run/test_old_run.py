"""A run that version 0.1 wrote goes on with today's program.

``tests/fixtures/written_by_0_1``: two ranks, m-arwp, ZeRO 1, torch's noise, 12 steps, of which the
checkpoint holds the first six.
"""

import shutil
from pathlib import Path

import pytest
import torch
from support.ranks import run_ranks
from support.small import same_bits

from rwp_dist.config import load_settings
from rwp_dist.record.directory import RunDir
from rwp_dist.run.bad_samples import BadSamples
from rwp_dist.run.build import build_parts
from rwp_dist.run.checkpoint import FORMAT, list_checkpoints, load_checkpoint, read_checkpoint
from rwp_dist.run.evaluate import LastEvaluation
from rwp_dist.run.parts import SameData
from rwp_dist.run.progress import Progress
from rwp_dist.train import train

FIXTURE = Path(__file__).parents[1] / "fixtures" / "written_by_0_1"
OLD = RunDir(FIXTURE / "run")


def settings_of(folder: Path) -> list[str]:
    shards = [f"data.{kind}={FIXTURE}/shards/{kind}" for kind in ("train", "val")]
    return [*shards, f"run.dir={folder}", "run.device=cpu"]


def loaded(folder):
    """What every rank has after loading the old checkpoint."""
    parts = build_parts(load_settings(OLD.config, settings_of(folder)))
    progress, evaluation, bad = Progress(parts), LastEvaluation(), BadSamples(folder, 100)
    stateful = {
        "perturbed": parts.perturbed,
        "data": SameData(parts.train),
        "bad_samples": bad,
        "progress": progress,
        "evaluation": evaluation,
    }
    step, troubles = load_checkpoint(OLD.checkpoints, parts.engine, stateful)
    state = {
        "weights": parts.engine.full_weights(),
        "momentum": {
            n: s["momentum_buffer"] for n, s in parts.engine.optimizer_state(keep=True).items()
        },
        "energy": parts.perturbed.state_dict()["move"]["energy"],
        "own": parts.perturbed.state_dict()["statistics"],
    }
    parts.close()
    return step, troubles, state, progress.samples, bad.total, evaluation.result


def test_its_checkpoint_is_loaded_whole(tmp_path):
    (path,) = list_checkpoints(OLD.checkpoints)
    old = torch.load(path, weights_only=True)
    assert old["format"] == 1
    for step, troubles, state, samples, bad, evaluation in run_ranks(loaded, 2, tmp_path):
        assert (step, troubles) == (6, [])
        assert same_bits(state["weights"], old["weights"])
        momentum = {n: s["momentum_buffer"] for n, s in old["optimizer"].items()}
        assert same_bits(state["momentum"], momentum)
        assert same_bits(state["energy"], old["energy"])
        assert torch.equal(state["own"], old["statistics"])
        assert (samples, bad) == (48, old["progress"]["bad_samples"])
        (record,) = (r for r in OLD.read_metrics("eval") if r["step"] == 6)
        assert evaluation["loss"] == record["loss"] and evaluation["top1"] == record["top1"]


def go_on(folder):
    return train(load_settings(OLD.config, settings_of(folder)))


@pytest.fixture
def old_run(tmp_path):
    """The run as it was after six steps: it was not finished yet."""
    folder = Path(shutil.copytree(OLD.path, tmp_path / "run"))
    run_dir = RunDir(folder)
    run_dir.summary.unlink()
    lines = run_dir.metrics.read_text().splitlines(keepends=True)
    run_dir.metrics.write_text("".join(lines[:4]))
    return run_dir


def test_it_goes_on_to_the_losses_that_version_0_1_had(old_run):
    run_ranks(go_on, 2, old_run.path)
    for kind, steps in (("train", [8, 10, 12]), ("eval", [12])):
        wanted = {r["step"]: r for r in OLD.read_metrics(kind)}
        found = {r["step"]: r for r in old_run.read_metrics(kind)}
        assert found.keys() == wanted.keys() >= set(steps)
        for step in steps:
            assert found[step]["loss"] == pytest.approx(wanted[step]["loss"], abs=1e-4)
            assert found[step]["top1"] == pytest.approx(wanted[step]["top1"])
    newest = list_checkpoints(old_run.checkpoints)[-1]
    assert newest.name == "step-00000012.pt" and read_checkpoint(newest)["format"] == FORMAT
    summary = old_run.read_summary()
    assert summary["steps"] == 12 and summary["samples"] == OLD.read_summary()["samples"]
    assert [a["first_step"] for a in old_run.read_attempts()][-1] == "6"
