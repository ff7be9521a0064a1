"""Optimizers of other libraries: what each computes is their paper's formula, and nothing else."""

import sys

import pytest
import torch
from support.checkpoints import everything, load, save
from support.properties import assert_resumes_exactly
from support.ranks import run_ranks
from support.small import NUM_CLASSES, run_all, same_bits, small_net, small_parts, small_settings
from torch import nn

from rwp_dist.base.errors import ConfigError
from rwp_dist.run.models import build_shapes
from rwp_dist.run.optimizers import build_optimizer
from rwp_dist.run.optimizers.muon import MuonAndAdamW, hidden_matrices

LR, DECAY, STEPS = 0.1, 0.05, 4


class Matrices(nn.Module):
    """Linear layers alone."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(36, 8), nn.Linear(8, 6)
        self.head = nn.Linear(6, NUM_CLASSES)

    def forward(self, images):
        return self.head(torch.tanh(self.second(torch.tanh(self.first(images.flatten(1))))))


def matrices(seed=0):
    torch.manual_seed(seed)
    return Matrices()


def lamb(w, gs, adapts):
    """Formula of the paper, with Adam's bias correction."""
    m, v = torch.zeros_like(w), torch.zeros_like(w)
    for t, g in enumerate(gs, start=1):
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        r = (m / (1 - 0.9**t)) / ((v / (1 - 0.999**t)).sqrt() + 1e-6)
        r = r + DECAY * w if adapts else r
        w = w - LR * (w.norm() / r.norm() if adapts else 1.0) * r
    return w


def lars(w, gs, adapts):
    """Formula of the paper."""
    m = torch.zeros_like(w)
    for g in gs:
        ratio = 0.001 * w.norm() / (g.norm() + DECAY * w.norm()) if adapts else 1.0
        m = 0.9 * m + ratio * (g + (DECAY * w if adapts else 0.0))
        w = w - LR * m
    return w


def lion(w, gs, adapts):
    """Formula of the paper."""
    m = torch.zeros_like(w)
    for g in gs:
        w = w - LR * ((0.9 * m + 0.1 * g).sign() + (DECAY * w if adapts else 0.0))
        m = 0.99 * m + 0.01 * g
    return w


@pytest.mark.parametrize("formula", [lamb, lars, lion], ids=lambda f: f.__name__)
def test_an_optimizer_of_timm_is_its_formula_without_clipping_of_its_own(formula):
    """Gradients are far above 1, the norm at which timm's LAMB clips unless told otherwise."""
    net = small_net()
    settings = small_settings(
        f"optimizer.name={formula.__name__}",
        f"optimizer.lr={LR}",
        f"optimizer.weight_decay={DECAY}",
        "optimizer.no_decay=['ndim<2']",
    )
    optimizer = build_optimizer(net, settings)
    start = {name: p.detach().double() for name, p in net.named_parameters()}
    given = {name: [] for name in start}
    torch.manual_seed(0)
    for _ in range(STEPS):
        for name, param in net.named_parameters():
            param.grad = 100.0 * torch.randn_like(param)
            given[name].append(param.grad.double())
        optimizer.step()
    for name, param in net.named_parameters():
        wanted = formula(start[name], given[name], param.ndim > 1)
        torch.testing.assert_close(param.detach().double(), wanted, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("name", ["lamb", "lars"])
def test_lamb_and_lars_adapt_the_same_parameters_at_any_decay(name):
    for decay in (0.0, 0.1):
        more = (f"optimizer.name={name}", f"optimizer.weight_decay={decay}")
        first, second = build_optimizer(small_net(), small_settings(*more)).param_groups
        assert (first["weight_decay"], second["weight_decay"]) == (decay, 0.0)
        assert (first["always_adapt"], second["always_adapt"]) == (True, False)
        assert {p.ndim for p in second["params"]} == {1}


@pytest.mark.parametrize("name", ["lamb", "lars", "lion"])
def test_without_timm_its_optimizers_are_refused_with_the_cure(name, monkeypatch):
    for module in ("timm", "timm.optim"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ConfigError, match="timm is not installed") as caught:
        build_optimizer(small_net(), small_settings(f"optimizer.name={name}"))
    assert caught.value.key == "optimizer.name"
    assert "pip install 'rwp-dist[timm]'" in caught.value.cure


@pytest.mark.parametrize("name", ["lamb", "lars", "muon"])
def test_what_looks_at_whole_parameters_is_refused_under_zero(name):
    settings = small_settings(f"optimizer.name={name}", "deepspeed.zero_stage=1")
    with pytest.raises(ConfigError, match="flat shards"):
        build_optimizer(small_net(), settings)


@pytest.mark.parametrize(
    ("name", "stages"), [("lamb", (0,)), ("lars", (0,)), ("lion", (0, 1, 2, 3))], ids=str
)
def test_an_optimizer_of_timm_resumes_exactly(name, stages, tmp_path):
    more = (f"optimizer.name={name}", "optimizer.lr=0.01", "optimizer.no_decay=['ndim<2']")
    assert_resumes_exactly("m-arwp", tmp_path, *more, stages=stages)


def state_after_three_updates(folder, name):
    """Saved by these ranks, or loaded if there is a checkpoint already: optimizer state, groups."""
    settings = small_settings("method.name=sgd", f"optimizer.name={name}", "optimizer.lr=0.01")
    with small_parts(settings, matrices()) as parts:
        if not load(folder, parts)[0]:
            run_all(parts, 0, 3)
            save(folder, parts, 3)
        return everything(parts), parts.engine.optimizer_groups()


@pytest.mark.parametrize("name", ["lamb", "lars", "lion", "muon"])
def test_a_state_is_the_same_on_another_number_of_ranks(name, tmp_path):
    (state, groups), _ = run_ranks(state_after_three_updates, 2, tmp_path, name)
    for other, other_groups in run_ranks(state_after_three_updates, 3, tmp_path, name):
        assert same_bits(other, state) and other_groups == groups


# --- Muon ---

MUON = ("optimizer.name=muon", "optimizer.lr=0.02", "optimizer.weight_decay=0.05")


def test_muon_takes_hidden_matrices_and_adamw_the_rest():
    net = matrices()
    optimizer = build_optimizer(net, small_settings(*MUON, "optimizer.no_decay=['ndim<2']"))
    assert isinstance(optimizer, MuonAndAdamW)
    muon, *rest = optimizer.param_groups
    assert muon["params"] == [net.first.weight, net.second.weight]
    assert [len(group["params"]) for group in rest] == [1, 3]
    vit = build_shapes(
        small_settings(
            "model.name=vit_s_16", "data.channels=3", "data.image_size=32", "data.mean=[0.5]"
        )
    )
    taken = {id(param) for param in hidden_matrices(vit)}
    named = {name for name, param in vit.named_parameters() if id(param) in taken}
    assert len(named) == 12 * 4 and all("encoder_layer" in name for name in named)


class Positions(Matrices):
    """With a table of positions as a Swin has it, tokens, and a convolution."""

    def __init__(self):
        super().__init__()
        self.relative_position_bias_table = nn.Parameter(torch.zeros(9, 2))
        self.reg_token = nn.Parameter(torch.zeros(4, 6))
        self.conv = nn.Conv2d(20, 20, 3)


def test_muon_leaves_positions_tokens_and_what_is_frozen_out_of_its_count():
    net = Positions()
    assert hidden_matrices(net) == [net.first.weight, net.second.weight]
    with pytest.raises(ConfigError, match="are convolutions for the most part"):
        build_optimizer(net, small_settings(*MUON))
    net.conv.requires_grad_(False)
    assert build_optimizer(net, small_settings(*MUON))
    for layer in (net.first, net.second):
        layer.requires_grad_(False)
    with pytest.raises(ConfigError, match="have none in hidden layers"):
        build_optimizer(net, small_settings(*MUON))


def test_muon_and_adamw_as_one_are_those_of_torch():
    one, two = matrices(), matrices()
    both = build_optimizer(one, small_settings(*MUON))
    muon = torch.optim.Muon(
        [two.first.weight, two.second.weight],
        lr=0.02,
        weight_decay=0.05,
        momentum=0.95,
        nesterov=True,
        adjust_lr_fn="match_rms_adamw",
    )
    others = [*two.head.parameters(), two.first.bias, two.second.bias]
    adamw = torch.optim.AdamW(others, lr=0.02, weight_decay=0.05)
    torch.manual_seed(0)
    for _ in range(3):
        for a, b in zip(one.parameters(), two.parameters(), strict=True):
            a.grad = torch.randn_like(a)
            b.grad = a.grad.clone()
        for optimizer in (both, muon, adamw):
            optimizer.step()
    for a, b in zip(one.parameters(), two.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)


def test_muon_refuses_networks_of_convolutions_and_torch_without_it(monkeypatch):
    with pytest.raises(ConfigError, match="convolutions") as caught:
        build_optimizer(small_net(), small_settings(*MUON))
    assert caught.value.key == "optimizer.name" and "sgd" in caught.value.cure
    monkeypatch.delattr(torch.optim, "Muon")
    with pytest.raises(ConfigError, match="has no Muon") as caught:
        build_optimizer(matrices(), small_settings(*MUON))
    assert "2.9" in caught.value.cure


def ends(folder):
    """Weights of muon undisturbed and resumed under DDP, and at DeepSpeed's stage 0."""
    found = []
    for engine in ("ddp", "deepspeed"):
        settings = small_settings("method.name=m-rwp", *MUON, f"engine.name={engine}", steps=6)
        with small_parts(settings, matrices()) as parts:
            run_all(parts, 0, 3)
            save(folder / engine, parts, 3)
            run_all(parts, 3)
            undisturbed = everything(parts)
        with small_parts(settings, matrices(seed=9)) as parts:
            load(folder / engine, parts)
            run_all(parts, 3)
            found.append((undisturbed, everything(parts)))
    return found


def test_a_run_with_muon_resumes_exactly_under_both_engines(tmp_path):
    for ddp, deepspeed in run_ranks(ends, 2, tmp_path):
        assert same_bits(*ddp) and same_bits(*deepspeed)
        assert same_bits(ddp[0], deepspeed[0])
        assert {name.partition(" ")[0] for name in ddp[0]} >= {"momentum_buffer", "exp_avg"}
