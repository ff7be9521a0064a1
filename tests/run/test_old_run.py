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
from torch import nn

from rwp_dist.config import load_settings
from rwp_dist.data.chosen import data_identity
from rwp_dist.record.directory import RunDir
from rwp_dist.run.bad_samples import BadSamples
from rwp_dist.run.build import build_parts
from rwp_dist.run.checkpoint import FORMAT, list_checkpoints, load_checkpoint, read_checkpoint
from rwp_dist.run.evaluate import LastEvaluation
from rwp_dist.run.history import History
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
        "history": History(data_identity(parts.settings)),
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
    ranks = run_ranks(loaded, 2, tmp_path)
    assert torch.equal(ranks[0][2]["own"], old["statistics"]) and ranks[1][2]["own"] is None
    for step, troubles, state, samples, bad, evaluation in ranks:
        assert (step, troubles) == (6, [])
        assert same_bits(state["weights"], old["weights"])
        momentum = {n: s["momentum_buffer"] for n, s in old["optimizer"].items()}
        assert same_bits(state["momentum"], momentum)
        assert same_bits(state["energy"], old["energy"])
        assert (samples, bad) == (48, old["progress"]["bad_samples"])
        (record,) = (r for r in OLD.read_metrics("eval") if r["step"] == 6)
        assert evaluation["loss"] == record["loss"] and evaluation["top1"] == record["top1"]


def go_on(folder, *more):
    return train(load_settings(OLD.config, [*settings_of(folder), *more]))


def test_it_goes_on_to_the_losses_that_version_0_1_had(tmp_path):
    run_dir = RunDir(shutil.copytree(OLD.path, tmp_path / "run"))
    run_dir.summary.unlink()
    summary, _ = run_ranks(go_on, 2, run_dir.path)
    for kind in ("train", "eval"):
        old, new = OLD.read_metrics(kind), run_dir.read_metrics(kind)
        assert [record["step"] for record in new] == [record["step"] for record in old]
        assert [record["top1"] for record in new] == [record["top1"] for record in old]
        # Other draws would change the second digit; another CPU rounds differently.
        losses = [record["loss"] for record in old]
        assert [record["loss"] for record in new] == pytest.approx(losses, rel=1e-5)
    newest = list_checkpoints(run_dir.checkpoints)[-1]
    assert newest.name == "step-00000012.pt" and read_checkpoint(newest)["format"] == FORMAT
    for key in ("steps", "samples", "top1"):
        assert summary[key] == OLD.read_summary()[key]
    attempt = run_dir.read_attempts()[-1]
    assert (attempt["first_step"], attempt["last_step"]) == ("6", "12")


class Transformer(nn.Module):
    """One block of attention over the four quarters of an image."""

    def __init__(self, num_classes):
        super().__init__()
        self.patches = nn.Conv2d(3, 8, kernel_size=4, stride=4)
        self.attention = nn.MultiheadAttention(8, num_heads=2, batch_first=True)
        self.norm = nn.LayerNorm(8)
        self.head = nn.Linear(8, num_classes)

    def forward(self, images):
        x = self.patches(images).flatten(2).transpose(1, 2)
        return self.head(self.norm(x + self.attention(x, x, x)[0]).mean(1))


def decayed_as_in_0_1(folder):
    """Final weights of a run that decays all, of the same run resumed with null, and of a new one
    with null; its directory says what one of 0.1 does."""
    model = f"model.name={__name__}:Transformer"
    more = (model, "optimizer.weight_decay=0.1", "checkpoint.every_epochs=2")

    def weights(run_dir, *more_still):
        go_on(run_dir.path, *more, *more_still)
        return read_checkpoint(run_dir.checkpoints / "step-00000012.pt")["weights"]

    run_dir = RunDir(folder / "run")
    found = [weights(run_dir, "optimizer.no_decay=[]")]
    text = run_dir.config.read_text()
    run_dir.config.write_text(text.replace("  no_decay: []\n", ""))
    for _ in range(2):  # the second time, the directory says what today's version wrote
        run_dir.summary.unlink()
        (run_dir.checkpoints / "step-00000012.pt").unlink()
        found.append(weights(run_dir))
    assert "  no_decay: []\n" in run_dir.config.read_text()
    return found, weights(RunDir(folder / "new"))


def test_a_transformer_goes_on_with_the_decay_that_it_began_with(tmp_path):
    ((first, *resumed), new) = run_ranks(decayed_as_in_0_1, 1, tmp_path)[0]
    for weights in resumed:
        assert same_bits(weights, first)
    assert not same_bits(new, first)
