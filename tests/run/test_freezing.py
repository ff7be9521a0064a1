"""Frozen parameters are neither perturbed, reduced, decayed nor updated."""

import pytest
import torch
from support.checkpoints import everything
from support.ranks import run_ranks
from support.small import (
    ENGINES,
    buffers_of,
    run_all,
    same_bits,
    small_net,
    small_parts,
    small_settings,
    split_over,
    weights_of,
)
from torch import nn

from rwp_dist.base.errors import ConfigError
from rwp_dist.run.evaluate import clean_network, evaluate_parts
from rwp_dist.run.freezing import freeze_parameters

FREEZE = "model.freeze=['conv1.*', 'bn1.*', 'linear1.bias']"
FROZEN = ("conv1.weight", "bn1.weight", "bn1.bias", "linear1.bias")


class ByHand(type(small_net())):
    """The same network, frozen as its author would."""

    def train(self, mode=True):
        super().train(mode)
        self.bn1.eval()
        return self


def by_hand():
    net = small_net()
    for name in FROZEN:
        net.get_parameter(name).requires_grad_(False)
    net.__class__ = ByHand
    return net


def learnt(net):
    """Statistics that are not those of a layer that has seen nothing."""
    net.bn1.running_mean.fill_(0.3)
    net.bn1.running_var.fill_(0.7)
    return net


def ends(cases):
    found = []
    for case in cases:
        for net, more in ((small_net(), (FREEZE,)), (by_hand(), ())):
            settings = small_settings(*case, *more, "optimizer.weight_decay=0.1", split_over(2, 2))
            with small_parts(settings, learnt(net)) as parts:
                perturbed = [rows.name for rows in parts.perturbed.rows]
                trained, before = list(parts.engine.trained), weights_of(parts)
                run_all(parts)
                with clean_network(parts, 10):
                    result, _ = evaluate_parts(parts)
                    evaluated = buffers_of(parts)
                state = parts.engine.optimizer_state(keep=True)
                moved = [
                    n for n, w in parts.engine.full_weights().items() if (w != before[n]).any()
                ]
                found.append(
                    (everything(parts), perturbed, trained, moved, evaluated, result, state)
                )
    return found


@pytest.mark.parametrize("engine", ENGINES)
def test_it_is_the_network_that_its_author_would_have_frozen(engine):
    methods = ("sgd", "sam", "rwp", "m-arwp")
    cases = [(f"method.name={method}", engine) for method in methods]
    for found in run_ranks(ends, 2, cases):
        for method, one, other in zip(methods, found[::2], found[1::2], strict=True):
            assert same_bits(one[0], other[0]), method
            bits, perturbed, trained, moved, evaluated, result, state = one
            names = {n.removeprefix("weight ") for n in bits if n.startswith("weight ")}
            for those in (trained, moved, list(state)):
                assert set(those) == names - set(FROZEN)
            assert set(perturbed) <= names - set(FROZEN)
            assert bool(perturbed) == (method != "sgd")
            assert (evaluated["bn1.running_mean"] == 0.3).all(), "statistics stay as they are"
            assert int(evaluated["bn1.num_batches_tracked"]) == 0
            assert int(evaluated["bn2.num_batches_tracked"]) > 0
            assert result == other[5]


def test_a_norm_of_which_one_parameter_is_frozen_learns_statistics():
    net = small_net()
    freeze_parameters(net, ["bn1.weight", "bn2.*"])
    net.train()
    assert net.bn1.training and not net.bn2.training
    assert type(net.bn2).__name__ == "BatchNorm2d" and isinstance(net.bn2, nn.BatchNorm2d)
    net.eval()
    assert not net.bn1.training


def test_ndim_below_2_names_every_bias_and_norm():
    net = small_net()
    freeze_parameters(net, ["ndim<2"])
    assert all(p.requires_grad == (p.ndim > 1) for p in net.parameters())


@pytest.mark.parametrize(
    ("patterns", "words"),
    [
        (["conv1.*", "norm*"], r"no parameter is named 'norm\*'"),
        (["*"], "names all parameters"),
    ],
)
def test_patterns_that_name_nothing_or_all_are_refused(patterns, words):
    with pytest.raises(ConfigError, match=words) as caught:
        freeze_parameters(small_net(), patterns)
    assert caught.value.key == "model.freeze" and caught.value.cure


def test_no_patterns_leave_a_network_alone():
    net = small_net()
    freeze_parameters(net, [])
    assert all(p.requires_grad for p in net.parameters())
    assert torch.equal(net.conv1.weight, small_net().conv1.weight)
