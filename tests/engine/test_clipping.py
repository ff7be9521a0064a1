"""Gradients are clipped by their norm, their values, or row by row."""

import sys

import pytest
import torch
from support.ranks import run_ranks
from support.small import small_net, small_parts, small_settings

from rwp_dist.base.errors import ConfigError
from rwp_dist.engine.clipping import choose_clip

AGC = 0.05


def gradients(*overrides):
    """Of a network, clipped and not."""
    net = small_net()
    torch.manual_seed(1)
    for param in net.parameters():
        param.grad = torch.randn_like(param) * param.detach().abs().mean() * 0.2
    before = {name: p.grad.clone() for name, p in net.named_parameters()}
    clip = choose_clip(net, small_settings(*overrides))
    assert clip is not None
    clip(torch.cat([g.flatten() for g in before.values()]).norm())
    return net, before, {name: p.grad for name, p in net.named_parameters()}


def norms(tensor):
    """Of each row; of a vector as a whole."""
    tensor = tensor.double()
    return tensor.norm() if tensor.ndim < 2 else tensor.flatten(1).norm(dim=1)


def test_values_are_at_most_the_limit():
    _, before, after = gradients("optimizer.clip_value=0.01")
    for name, grad in before.items():
        assert torch.equal(after[name], grad.clamp(-0.01, 0.01))


def test_rows_are_clipped_against_their_weights_but_not_those_of_the_last_layer():
    net, before, after = gradients(f"optimizer.clip_agc={AGC}")
    clipped = 0
    for name, param in net.named_parameters():
        grad = before[name].double()
        limit = AGC * norms(param.detach()).clamp(min=1e-3)
        factor = torch.where(norms(grad) > limit, limit / norms(grad), 1.0)
        if name.startswith("linear2"):
            factor = torch.ones_like(factor)
        clipped += int((factor < 1).sum())
        wanted = grad * factor.view(-1, *[1] * (grad.ndim - 1)) if grad.ndim > 1 else grad * factor
        torch.testing.assert_close(after[name].double(), wanted, rtol=1e-6, atol=1e-9)
    assert clipped > 5


def test_nothing_is_clipped_unless_asked_for():
    assert choose_clip(small_net(), small_settings()) is None


@pytest.mark.parametrize(
    ("overrides", "key"),
    [
        (("optimizer.clip_norm=1", "optimizer.clip_value=1"), "optimizer.clip_value"),
        (("optimizer.clip_value=1", "optimizer.clip_agc=1"), "optimizer.clip_agc"),
        (("optimizer.clip_value=1", "deepspeed.zero_stage=1"), "optimizer.clip_value"),
        (("optimizer.clip_agc=1", "engine.name=deepspeed"), "optimizer.clip_agc"),
        (("precision=fp16", "deepspeed.zero_stage=2"), "precision"),
        (("precision=fp16", "engine.name=deepspeed", "deepspeed.zero_stage=1"), "precision"),
        (("precision=fp16", "deepspeed.extra={seed: 1}"), "precision"),
    ],
)
def test_what_an_engine_cannot_do_is_refused_with_the_cure(overrides, key):
    with pytest.raises(ConfigError) as caught:
        small_settings(*overrides)
    [error] = getattr(caught.value, "problems", [caught.value])
    assert error.key == key and "set" in error.cure


def test_adaptive_clipping_without_timm_is_refused_with_the_cure(monkeypatch):
    for name in ("timm", "timm.utils", "timm.utils.agc"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ConfigError, match=r"pip install 'rwp-dist\[timm\]'") as caught:
        choose_clip(small_net(), small_settings("optimizer.clip_agc=0.01"))
    assert caught.value.key == "optimizer.clip_agc"


def norm_and_gradient(*overrides):
    """Of an update whose gradient is clipped: the norm that is told, and what is left of it."""
    with small_parts(small_settings("method.name=sgd", *overrides)) as parts:
        engine = parts.engine
        engine.backward(engine.forward(torch.linspace(-1, 1, 4 * 36).view(4, 1, 6, 6)).sum())
        before = {n: p.detach().clone() for n, p in engine.params.items()}
        engine.step(lr=1.0)
        moved = torch.cat([(before[n] - p.detach()).flatten() for n, p in engine.params.items()])
        return engine.grad_norm(), float(moved.norm())


def test_the_norm_that_a_run_tells_is_that_before_clipping():
    plain = ("optimizer.momentum=0", "optimizer.weight_decay=0")
    (free,) = run_ranks(norm_and_gradient, 1, *plain)
    for kind in ("clip_norm", "clip_value", "clip_agc"):
        ((norm, moved),) = run_ranks(norm_and_gradient, 1, *plain, f"optimizer.{kind}=0.01")
        assert norm == free[0] and moved < 0.9 * free[1]
