"""Optimizers by name and by ``module:function``, and the groups that they get."""

import pytest
import torch
from support.properties import assert_resumes_exactly
from support.ranks import run_ranks
from support.small import run_all, same_bits, small_net, small_parts, small_settings, split_over

from rwp_dist.base.errors import ConfigError, SettingsError
from rwp_dist.config import load_settings, tree
from rwp_dist.run.models import build_shapes
from rwp_dist.run.optimizers import OPTIMIZERS, build_optimizer, group_parameters


class OwnSGD(torch.optim.SGD):
    """A user's own."""


def elementwise(groups, lr, momentum=0.0):
    """What looks at each element alone."""
    return OwnSGD(groups, lr=lr, momentum=momentum)


elementwise.elementwise = True


def by_norm(groups, lr):
    """What looks at whole parameters, or says nothing about it."""
    return OwnSGD(groups, lr=lr)


def slow_head(groups, lr):
    """The linear layers learn at a tenth of the rate."""
    params = [param for group in groups for param in group["params"]]
    head = [p for p in params if p.ndim == 2]
    rest = [p for p in params if p.ndim != 2]
    own = [{"params": rest}, {"params": head, "lr_factor": 0.1}]
    return OwnSGD(own, lr=lr, momentum=0.9, weight_decay=groups[0]["weight_decay"])


slow_head.elementwise = True

OWN = f"optimizer.name={__name__}:elementwise"
BY_NORM = f"optimizer.name={__name__}:by_norm"
SLOW_HEAD = f"optimizer.name={__name__}:slow_head"
DECAY = ("optimizer.weight_decay=0.05", "optimizer.no_decay=['ndim<2']")


def test_an_optimizer_of_the_users_gets_groups_rate_and_its_options():
    settings = small_settings(OWN, "optimizer.lr=0.3", "optimizer.options={momentum: 0.5}", *DECAY)
    optimizer = build_optimizer(small_net(), settings)
    assert isinstance(optimizer, OwnSGD)
    assert [group["lr"] for group in optimizer.param_groups] == [0.3, 0.3]
    assert [group["momentum"] for group in optimizer.param_groups] == [0.5, 0.5]
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.05, 0.0]


def test_one_that_is_not_elementwise_is_refused_where_zero_shares_out_and_taken_at_stage_0():
    for stage in (1, 2, 3):
        with pytest.raises(ConfigError, match="flat shards") as caught:
            build_optimizer(small_net(), small_settings(BY_NORM, f"deepspeed.zero_stage={stage}"))
        assert caught.value.key == "optimizer.name"
        assert caught.value.cure == "set deepspeed.zero_stage to 0"
    assert build_optimizer(small_net(), small_settings(BY_NORM, "deepspeed.zero_stage=0"))


def test_names_that_there_are_not_are_refused_with_the_cure():
    with pytest.raises(SettingsError) as refused:
        small_settings("optimizer.name=adamv")
    (error,) = refused.value.problems
    assert error.key == "optimizer.name" and "'muon' or module:function" in error.cure
    with pytest.raises(ConfigError) as caught:
        build_optimizer(small_net(), small_settings("optimizer.no_decay=['norm*']"))
    assert caught.value.key == "optimizer.no_decay"


def names_of_groups(model, settings):
    """Names of the parameters of each group by its decay."""
    names = {id(param): name for name, param in model.named_parameters()}
    return {
        group["weight_decay"]: {names[id(param)] for param in group["params"]}
        for group in group_parameters(model, settings)
    }


def shapes(*overrides):
    settings = load_settings(None, ["data.channels=3", "optimizer.weight_decay=0.1", *overrides])
    return names_of_groups(build_shapes(settings), settings)


def test_a_transformer_does_not_decay_norms_biases_tokens_and_positions_unless_told_to():
    vit = ["model.name=vit_s_16", "data.image_size=32"]
    groups = shapes(*vit)
    free = groups[0.0]
    assert {"class_token", "encoder.pos_embedding", "encoder.ln.weight", "heads.head.bias"} <= free
    assert all(name.endswith("weight") for name in groups[0.1])
    assert "conv_proj.weight" in groups[0.1] and len(groups[0.1]) == 1 + 12 * 4 + 1
    assert shapes(*vit, "optimizer.no_decay=[]").keys() == {0.1}


def test_other_networks_decay_everything_unless_told_not_to():
    resnet = ["model.name=resnet18", "data.image_size=64"]
    assert shapes(*resnet).keys() == {0.1}
    groups = shapes(*resnet, "optimizer.no_decay=['ndim<2', 'fc.*']")
    assert {"bn1.weight", "bn1.bias", "fc.weight", "fc.bias"} <= groups[0.0]
    assert all(name.endswith("weight") and "bn" not in name for name in groups[0.1])


def test_frozen_parameters_are_left_to_themselves():
    net = small_net()
    net.conv1.weight.requires_grad_(False)
    optimizer = build_optimizer(net, small_settings())
    assert sum(len(group["params"]) for group in optimizer.param_groups) == 9


class Strided(torch.nn.Module):
    """A transposed parameter, and perhaps one with gaps in its memory."""

    def __init__(self, *, gaps):
        super().__init__()
        torch.manual_seed(0)
        self.transposed = torch.nn.Parameter(torch.randn(7, 5).T)
        self.other = torch.nn.Parameter(torch.randn(7, 8)[:, : 5 if gaps else 8])


@pytest.mark.parametrize("gaps", [False, True])
@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_one_kernel_updates_all_elements_by_their_own_gradients(name, gaps):
    """Fused, unless a parameter has gaps in its memory."""
    nets = [Strided(gaps=gaps) for _ in range(2)]
    fused = build_optimizer(nets[0], small_settings(f"optimizer.name={name}", *DECAY))
    assert [group["fused"] for group in fused.param_groups] == [not gaps]
    loop = build_optimizer(nets[1], small_settings(f"optimizer.name={name}", *DECAY))
    loop.param_groups[0]["fused"] = False
    for step in range(3):
        for net, optimizer in zip(nets, (fused, loop), strict=True):
            for param in net.parameters():
                values = torch.arange(float(param.numel())).reshape(param.shape).sin() * (step + 1)
                param.grad = torch.empty_like(param).copy_(values)
            optimizer.step()
    for a, b in zip(*(net.parameters() for net in nets), strict=True):
        torch.testing.assert_close(a, b, rtol=0 if name == "sgd" else 1e-6, atol=0)


def test_networks_of_shapes_alone_are_updated_without_fusing():
    settings = small_settings("data.channels=3", "model.name=resnet18")
    assert not build_optimizer(build_shapes(settings), settings).param_groups[0]["fused"]


def ends(cases):
    found = []
    for case in cases:
        with small_parts(small_settings(*case, split_over(2, 2))) as parts:
            run_all(parts, stop=4)
            groups = parts.engine.optimizer.param_groups
            found.append((parts.engine.full_weights(), [group["lr"] for group in groups]))
    return found


@pytest.mark.parametrize("more", [DECAY, (SLOW_HEAD,), ("optimizer.name=adamw", *DECAY)], ids=str)
def test_two_groups_of_parameters_compute_the_same_at_every_stage(more):
    """Against stage 0, which is torch's optimizer itself."""
    # Stage 3 draws other noise, so sgd is compared there.
    methods = (("m-rwp", 0), ("m-rwp", 1), ("m-rwp", 2), ("sgd", 0), ("sgd", 3))
    cases = [(f"method.name={m}", f"deepspeed.zero_stage={s}", *more) for m, s in methods]
    for found in run_ranks(ends, 2, cases):
        for first, other in ((0, 1), (0, 2), (3, 4)):
            for name, wanted in found[first][0].items():
                torch.testing.assert_close(found[other][0][name], wanted, rtol=1e-3, atol=1e-5)
        rates = [sorted(set(rates)) for _, rates in found]
        assert rates == [rates[0]] * len(rates)
        assert len(rates[0]) == (2 if SLOW_HEAD in more else 1)


def test_groups_matter():
    """Otherwise agreement of the stages would prove nothing."""
    plain, decayed, slow = run_ranks(ends, 1, [(), DECAY, (SLOW_HEAD,)])[0]
    for one, other in ((plain, decayed), (plain, slow), (decayed, slow)):
        assert not same_bits(one[0], other[0])


@pytest.mark.parametrize(
    "more", [DECAY, (SLOW_HEAD,), ("optimizer.name=adamw", "optimizer.lr=0.01", *DECAY)], ids=str
)
def test_a_run_with_two_groups_resumes_exactly_at_every_stage(more, tmp_path):
    assert_resumes_exactly("m-arwp", tmp_path, *more)


class Counting(torch.optim.SGD):
    """Keeps a number for each group and each parameter, as schedule-free optimizers do."""

    def step(self, closure=None):
        super().step(closure)
        for group in self.param_groups:
            group["k"] = group.get("k", 0) + 1
            for param in group["params"]:
                self.state[param]["seen"] = self.state[param].get("seen", 0) + 1
                with torch.no_grad():  # so that a lost counter changes the weights
                    param.mul_(1.0 - 0.001 * group["k"] * self.state[param]["seen"])


def counting(groups, lr):
    return Counting(groups, lr=lr, momentum=0.9)


@pytest.mark.parametrize("name", ["torch.optim:Adafactor", f"{__name__}:counting"])
def test_an_optimizer_of_your_own_resumes_exactly_whatever_it_keeps(name, tmp_path):
    assert_resumes_exactly("sgd", tmp_path, f"optimizer.name={name}", stages=(0,))


def test_the_settings_know_the_names_of_all_optimizers():
    assert OPTIMIZERS.keys() == tree.OPTIMIZERS.keys()
