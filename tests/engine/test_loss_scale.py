"""fp16's losses are scaled by GradScaler's rule, and nothing else in a run knows of it."""

import math
from itertools import pairwise

import pytest
import torch
from support.checkpoints import everything, load, save
from support.methods import METHOD_SETTINGS, overrides
from support.ranks import run_ranks
from support.small import run_all, run_steps, same_bits, small_net, small_parts, small_settings
from torch import nn

from rwp_dist.engine import loss_scale
from rwp_dist.engine.loss_scale import LossScale
from rwp_dist.run.progress import Progress
from rwp_dist.tracking.alerts import Divergence

CPU = torch.device("cpu")
HUGE = {"scale": 2.0**40, "in_a_row": 5}


@pytest.mark.parametrize("applied", [True, False])
def test_the_scale_is_that_of_torchs_grad_scaler(applied, monkeypatch):
    monkeypatch.setattr(loss_scale, "INTERVAL", 3)
    (param,) = params = [nn.Parameter(torch.ones(()))]
    theirs = torch.amp.GradScaler("cpu", growth_interval=3)
    ours, optimizer = LossScale(params, CPU), torch.optim.SGD(params, lr=0.1)
    for step in range(30):
        finite = (step * 7) % 10 > 1
        theirs.scale(param * 1.0)
        param.grad = torch.full((), 1.0 if finite else float("nan"))
        theirs.step(optimizer)
        theirs.update()
        ours.after_step(step, torch.tensor(finite) if applied else finite)
        assert float(ours.scaled(torch.ones(()))) == theirs.get_scale(), step


def test_hooks_that_come_later_see_true_gradients_also_in_ascent():
    param = nn.Parameter(torch.linspace(1e-30, 3.0, 7))
    scale, seen = LossScale([param], CPU), []
    param.register_hook(lambda grad: seen.append(grad.clone()))
    loss = (param**3).sum()
    (found,) = torch.autograd.grad(scale.scaled(loss), [param], retain_graph=True)
    scale.scaled(loss).backward()
    for grad in (found, param.grad, *seen):
        assert torch.equal(grad, 3 * param.detach() ** 2)
    assert len(seen) == 2
    scale.close()


def first_gradient(scale):
    """Of the first layer, from a loss so small that fp16 has no number for its gradients."""
    with small_parts(small_settings("method.name=sgd", "precision=fp16")) as parts:
        engine = parts.engine
        engine.loss_scale.load_state_dict({"scale": scale, "in_a_row": 0})
        images = torch.linspace(-1, 1, 4 * 36).view(4, 1, 6, 6)
        engine.backward(1e-7 * engine.forward(images).square().sum())
        return engine.trained["conv1.weight"].grad.clone()


def test_gradients_too_small_for_fp16_are_not_lost():
    (lost,), (kept,) = (run_ranks(first_gradient, 1, scale) for scale in (1.0, 2.0**16))
    assert not lost.any() and kept.all() and kept.isfinite().all()


def trained(method):
    """After every update all but BatchNorm's statistics, the scale, and the skipped updates.

    The scale is one under which gradients are infinite at first.
    """
    settings = small_settings(*overrides(method), "precision=fp16", steps=32)
    found = []
    with small_parts(settings) as parts:
        engine = parts.engine
        engine.loss_scale.load_state_dict(HUGE)
        for _ in run_steps(parts, 0, 32):
            state = {n: t for n, t in everything(parts).items() if not n.startswith("buffer ")}
            found.append((state, engine.loss_scale.state_dict()["scale"], engine.skipped_steps))
    return found


@pytest.mark.parametrize("method", METHOD_SETTINGS)
def test_a_skipped_update_changes_nothing_but_the_scale(method):
    """Also SAM's ascent, whose gradient is infinite too, and ARWP's energy."""
    start = {f"weight {n}": p.detach() for n, p in small_net().named_parameters()}
    for found in run_ranks(trained, 2, method):
        assert same_bits(start, {n: found[0][0][n] for n in start})
        for (before, scale, skipped), (after, next_scale, more) in pairwise(found):
            assert next_scale == scale / (2 if more > skipped else 1)
            assert same_bits(before, after) == (more > skipped)
        assert 20 < found[-1][2] < 32, "some are skipped, and then no more"
        assert all(tensor.isfinite().all() for tensor in found[-1][0].values())


def resumed(folder):
    """The scale at the end of a run that is interrupted while it falls, and undisturbed."""
    settings = small_settings("method.name=m-arwp", "precision=fp16", steps=30)
    with small_parts(settings) as parts:
        parts.engine.loss_scale.load_state_dict(HUGE)
        run_all(parts, 0, 7)
        save(folder, parts, 7)
        run_all(parts, 7)
        undisturbed = everything(parts), parts.engine.loss_scale.state_dict()
    with small_parts(settings, small_net(seed=9)) as parts:
        load(folder, parts)
        run_all(parts, 7)
        return undisturbed, (everything(parts), parts.engine.loss_scale.state_dict())


def test_a_run_resumes_with_its_scale(tmp_path):
    for undisturbed, again in run_ranks(resumed, 2, tmp_path):
        assert same_bits(undisturbed[0], again[0])
        assert undisturbed[1] == again[1] and undisturbed[1]["in_a_row"] > 0


def recorded():
    """Records of training while the scale falls to one without overflows, every 4 steps; alerts."""
    settings = small_settings("method.name=sam", "precision=fp16", steps=32)
    records, divergence = [], Divergence(2.3, "sam", 0, 0, scaled=True)
    with small_parts(settings) as parts:
        parts.engine.loss_scale.load_state_dict({"scale": 2.0**34, "in_a_row": 0})
        progress = Progress(parts)
        for step in run_steps(parts, 0, 32, progress):
            if step % 4 == 3:
                record = progress.train_record(step + 1, 0)
                records.append((record, divergence.look(record)))
    return records


def test_losses_of_skipped_updates_are_in_no_mean_and_raise_no_alert():
    for found in run_ranks(recorded, 2):
        before, skipped_in = 0, []
        for record, alert in found:
            skipped = record["skipped_steps"] - before
            before += skipped
            skipped_in.append(skipped)
            assert alert is None
            assert math.isnan(record["loss"]) == (skipped == 4)
            if skipped < 4:
                assert 1.0 < record["loss"] < 4.0, "the mean is over those that count"
                assert record["loss"] == pytest.approx(record["perturbed_loss"], rel=1e-3)
                assert record["loss_gap"] == record["perturbed_loss"] - record["clean_loss"]
        assert skipped_in[0] == 4 and max(n for n in skipped_in if n < 4) > 0
