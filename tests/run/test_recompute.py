"""Gradient checkpointing: the same bits with less memory."""

from functools import partial

import pytest
import torch
from support.checkpoints import everything
from support.ranks import run_ranks
from support.small import (
    ENGINES,
    run_all,
    same_bits,
    small_parts,
    small_settings,
    split_over,
)
from torch import nn

from rwp_dist.base.errors import ConfigError, SettingsError
from rwp_dist.config import load_settings
from rwp_dist.run.flops import count_flops
from rwp_dist.run.memory import activation_bytes
from rwp_dist.run.models import build_model, build_shapes
from rwp_dist.run.recompute import find_blocks, recompute_blocks

METHODS = ("sgd", "sam", "m-rwp", "m-arwp", "last-sam")
ON = "model.checkpointing=true"


class Blocks(nn.Module):
    """A small network of two blocks with BatchNorm and dropout."""

    def __init__(self):
        super().__init__()
        self.one = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Tanh(), nn.Dropout(0.3))
        self.two = nn.Sequential(nn.Conv2d(4, 5, 3), nn.InstanceNorm2d(5, track_running_stats=True))
        self.three = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(20), nn.Dropout(0.3))
        self.head = nn.Linear(20, 3)

    def checkpointed_blocks(self):
        return [self.one, self.two, self.three]

    def forward(self, x):
        return self.head(self.three(self.two(self.one(x))))


def drawn():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Blocks()


def ends(cases):
    found = []
    for case in cases:
        with small_parts(small_settings(*case, steps=5), drawn()) as parts:
            run_all(parts)
            found.append(everything(parts))
    return found


def assert_same_with_and_without(cases):
    for found in run_ranks(ends, 2, [(*case, *more) for case in cases for more in ((), (ON,))]):
        for case, plain, again in zip(cases, found[::2], found[1::2], strict=True):
            assert same_bits(plain, again), case
            assert int(again["buffer three.1.num_batches_tracked"]) > 0


@pytest.mark.parametrize("engine", ENGINES)
def test_every_method_has_the_same_bits_with_and_without(engine):
    """With accumulation: weights, optimizer, BatchNorm's statistics and counts of batches."""
    assert_same_with_and_without(
        [(f"method.name={method}", engine, split_over(2, 2)) for method in METHODS]
    )


def test_in_bf16_and_with_frozen_parts_too():
    more = ("precision=bf16", "model.freeze=['one.1.*', 'two.0.*']", split_over(2, 2))
    assert_same_with_and_without([(f"method.name={m}", *more) for m in ("sam", "m-arwp")])


NETWORKS = {
    "resnet18": 64,
    "resnet50": 64,
    "cifar_resnet18": 32,
    "vit_s_16": 64,
    "plain_vit_s_16": 64,
    "swin_t": 64,
    "convnext_tiny": 64,
    "timm:resnet18": 64,
    "timm:test_vit": 32,
    "timm:convnext_atto": 64,
    "timm:swin_tiny_patch4_window7_224": 224,
    "timm:eva02_tiny_patch14_224": 56,
}
"""Networks, and the size of an image that they take."""


def settings_of(name, *more):
    options = {"vit_s_16": "{dropout: 0.1}", "timm:test_vit": "{drop_path_rate: 0.3}"}
    return load_settings(
        None,
        [
            f"model.name={name}",
            f"data.image_size={NETWORKS[name]}",
            "data.channels=3",
            f"model.options={options.get(name, '{}')}",
            *more,
        ],
    )


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_of_the_libraries_keep_less_and_compute_the_same(name):
    plain, again = build_model(settings_of(name)), build_model(settings_of(name))
    recompute_blocks(again)
    assert plain.state_dict().keys() == again.state_dict().keys()
    images = torch.randn(2, 3, *2 * [NETWORKS[name]])
    for model in (plain, again):
        torch.manual_seed(1)
        model.train()(images).square().sum().backward()
    for (key, one), other in zip(plain.named_parameters(), again.parameters(), strict=True):
        assert torch.equal(one.grad, other.grad), key
    assert same_bits(dict(plain.named_buffers()), dict(again.named_buffers()))
    settings = settings_of(name)
    kept = [activation_bytes(s, 4, build_shapes(s)) for s in (settings, settings_of(name, ON))]
    assert kept[1] < 0.75 * kept[0], kept


def test_deep_networks_keep_a_fraction():
    for name, share in (("resnet50", 0.55), ("plain_vit_s_16", 0.25)):
        settings = settings_of(name, "data.image_size=224")
        again = settings_of(name, "data.image_size=224", ON)
        plain, kept = (activation_bytes(s, 8, build_shapes(s)) for s in (settings, again))
        assert kept < share * plain, (name, kept / plain)


def test_a_second_backward_pass_and_a_copy_of_the_network_compute_the_same_too():
    from copy import deepcopy

    model = drawn()
    recompute_blocks(model)
    copy = deepcopy(model)
    for param in copy.parameters():
        param.data.zero_()
    out = model(torch.ones(2, 1, 6, 6)).sum()
    params = list(model.parameters())
    first = torch.autograd.grad(out, params, retain_graph=True)
    assert all(map(torch.equal, first, torch.autograd.grad(out, params)))
    assert int(model.one[1].num_batches_tracked) == 1
    assert not copy(torch.ones(2, 1, 6, 6)).any(), "a copy has its own weights"


def test_a_block_that_changes_what_it_depends_on_is_refused():
    model = drawn()
    nn.utils.parametrizations.spectral_norm(model.one[0])
    recompute_blocks(model)
    with pytest.raises(ConfigError, match=r"changes the buffer .*of a Sequential") as caught:
        model(torch.randn(2, 1, 6, 6)).sum().backward()
    assert caught.value.key == "model.checkpointing" and caught.value.cure


def refused(model, words):
    """The network's blocks are not known."""
    with pytest.raises(ConfigError, match=words) as caught:
        find_blocks(model)
    assert caught.value.key == "model.checkpointing" and caught.value.cure


def test_what_has_no_known_blocks_is_refused():
    refused(nn.Sequential(nn.Linear(2, 2)), "not known which modules of a Sequential are its")
    model = drawn()
    for returned, words in (
        ([model], "something else than modules inside"),
        ([nn.Linear(2, 2)], "something else"),
        ([], "something else"),
        ([model.one, model.one[0]], "one block is inside another"),
    ):
        model.checkpointed_blocks = partial(list, returned)
        refused(model, words)


def test_combinations_that_cannot_work_are_refused_before_torch():
    for more in ("run.compile=true", "deepspeed.zero_stage=3"):
        with pytest.raises(SettingsError) as caught:
            load_settings(None, [ON, "method.name=rwp", more])
        (error,) = caught.value.problems
        assert error.key == "model.checkpointing" and error.cure


def test_the_floating_point_operations_of_a_run_are_the_networks_own():
    settings = settings_of("resnet18")
    assert count_flops(build_model(settings), 3, 64) == count_flops(build_shapes(settings), 3, 64)
    again = count_flops(build_shapes(settings_of("resnet18", ON)), 3, 64)
    assert again > 1.2 * count_flops(build_shapes(settings), 3, 64)
