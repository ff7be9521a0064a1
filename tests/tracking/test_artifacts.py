"""Artifacts in W&B: what is uploaded, and when."""

import torch
from support.small import small_net
from support.tracked import finish, log, start

from rwp_dist.record.directory import RunDir
from rwp_dist.tracking.artifacts import export_weights


def checkpoint(run: RunDir, **parts):
    net = small_net()
    run.create()
    state = {
        "weights": dict(net.named_parameters()),
        "buffers": dict(net.named_buffers()),
        "parts": {"progress": {}, **parts},
    }
    torch.save(state, run.checkpoints / "step-00000040.pt")
    return net


def test_exported_weights_load_into_the_network(tmp_path):
    run = RunDir(tmp_path)
    net = checkpoint(run)
    other = small_net(seed=9)
    out = export_weights(run.newest_checkpoint(), tmp_path / "weights.pt")
    other.load_state_dict(torch.load(out))
    for name, value in net.state_dict().items():
        assert torch.equal(value, other.state_dict()[name])


def test_exported_weights_are_the_average_if_there_is_one(tmp_path):
    run = RunDir(tmp_path)
    average = {name: torch.zeros_like(p) for name, p in small_net().named_parameters()}
    checkpoint(run, average={"weights": average})
    out = torch.load(export_weights(run.newest_checkpoint(), tmp_path / "weights.pt"))
    assert all(torch.equal(out[name], value) for name, value in average.items())


def test_settings_are_uploaded_at_once_and_the_rest_of_a_finished_run(tmp_path, server):
    run = RunDir(tmp_path / "run")
    checkpoint(run)
    asked = "tracking.artifacts=[settings,checkpoint,weights]"
    tracker = start(run, 0, asked)
    log(tracker, 10)
    tracker.close("interrupted")
    recorded = server.runs[run.wandb_id()]
    assert list(recorded.artifacts) == [f"settings-{run.wandb_id()}"]
    tracker = start(run, 10, asked)
    log(tracker, 20)
    finish(tracker, run)
    files = {artifact.type: artifact.files for artifact in recorded.artifacts.values()}
    assert files == {
        "settings": ["config.yaml"],
        "checkpoint": ["step-00000040.pt"],
        "weights": ["weights.pt"],
    }
    assert all(artifact.committed for artifact in recorded.artifacts.values())


def test_no_artifacts_are_uploaded_if_none_are_asked_for(tmp_path, server):
    run = RunDir(tmp_path / "run")
    tracker = start(run, 0, "tracking.artifacts=[]")
    log(tracker, 20)
    finish(tracker, run)
    assert server.runs[run.wandb_id()].artifacts == {}
