"""Weights of others in a network: names, another head, another resolution."""

from functools import partial

import pytest
import torch
from support.small import same_bits, small_net
from torch import nn
from torchvision.models import VisionTransformer, resnet18

from rwp_dist.base.errors import ConfigError
from rwp_dist.data.classes import Classes
from rwp_dist.run.fitting import Weights, common_name, fit_weights, head_of, interpolated

timm = pytest.importorskip("timm")


def state_of(net):
    return {name: tensor.clone() for name, tensor in net.state_dict().items()}


def refused(make, words):
    with pytest.raises(ConfigError, match=words) as caught:
        make()
    error = caught.value
    assert error.key == "model.init" and error.cure and "\n" not in str(error)


def test_a_head_of_another_number_of_classes_is_new():
    other, net = small_net(seed=5), small_net()
    other.linear2 = nn.Linear(6, 7)
    head = net.linear2.weight.detach().clone()
    fitted = fit_weights(net, Weights(state_of(other)))
    assert fitted.new == ["linear2.weight", "linear2.bias"] == fitted.unused
    assert torch.equal(net.linear2.weight, head)
    assert torch.equal(net.linear1.weight, other.linear1.weight)
    assert "14 of 16 tensors are taken" in str(fitted) and "made anew: linear2.weight" in str(
        fitted
    )


@pytest.mark.parametrize(
    ("names", "is_new"),
    [(("a", "b", "c"), False), (("c", "b", "a"), True), (("d", "e", "f"), True), (None, False)],
)
def test_a_head_for_classes_of_other_names_is_new(names, is_new):
    other, net = small_net(seed=5), small_net()
    classes = Classes(3, names, "there") if names else None
    fitted = fit_weights(net, Weights(state_of(other), ("a", "b", "c")), classes)
    assert fitted.new == (["linear2.weight", "linear2.bias"] if is_new else [])
    assert torch.equal(net.linear2.weight, other.linear2.weight) != is_new


def test_another_shape_or_another_network_is_refused_and_changes_nothing():
    net = small_net()
    before = state_of(net)
    for state, words in (
        (state_of(small_net(1)) | {"conv2.weight": torch.ones(5, 4, 5, 5)}, r"conv2.weight is \[5"),
        ({"conv1.weight": torch.ones(4, 1, 3, 3)}, "most of SmallNet is not in it, such as"),
        ({}, "most of SmallNet"),
        (state_of(resnet18()), r"conv1.weight is \[4, 1, 3, 3\] here and \[64, 3, 7, 7\] there"),
    ):
        refused(partial(fit_weights, net, Weights(state)), words)
        assert same_bits(state_of(net), before)


def test_what_is_missing_is_made_anew_and_what_is_more_is_not_used():
    state = state_of(small_net(seed=5)) | {"projector.weight": torch.ones(2)}
    del state["linear1.bias"], state["bn1.num_batches_tracked"]
    fitted = fit_weights(small_net(), Weights(state))
    assert fitted.new == ["bn1.num_batches_tracked", "linear1.bias"]
    assert fitted.unused == ["projector.weight"]


def test_the_head_is_the_last_layer_of_every_kind_of_network():
    for net, head in (
        (resnet18(), "fc"),
        (VisionTransformer(32, 16, 1, 2, 8, 16), "heads.head"),
        (timm.create_model("test_vit"), "head"),
        (timm.create_model("test_efficientnet"), "classifier"),
        (nn.Linear(3, 2), ""),
    ):
        assert head_of(net) == {f"{head}.{kind}".lstrip(".") for kind in ("weight", "bias")}


# --- transformers ---


def vits(size=32, patch=16):
    """The same small ViT of torchvision and of timm."""
    from timm.models.vision_transformer import VisionTransformer as Timms

    torch.manual_seed(0)
    theirs = Timms(size, patch, num_classes=5, embed_dim=16, depth=2, num_heads=2, mlp_ratio=2)
    nn.init.normal_(theirs.head.weight)
    return VisionTransformer(size, patch, 2, 2, 16, 32, num_classes=5), theirs


@pytest.mark.parametrize("from_timm", [True, False])
def test_a_vit_of_timm_is_one_of_torchvision_and_back(from_timm):
    target, source = vits() if from_timm else reversed(vits())
    for param in source.parameters():
        nn.init.normal_(param, std=0.3)
    fitted = fit_weights(target, Weights(state_of(source)))
    assert (fitted.new, fitted.unused) == ([], [])
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(target.eval()(images), source.eval()(images))


def test_torchvisions_files_have_names_of_before():
    assert common_name("encoder.layers.encoder_layer_3.mlp.linear_2.bias") == (
        "encoder.layers.encoder_layer_3.mlp.3.bias"
    )
    name = "features.denseblock1.denselayer2.norm1.weight"
    assert common_name("features.denseblock1.denselayer2.norm.1.weight") == name


@pytest.mark.parametrize("tokens", [0, 1, 4])
def test_position_embeddings_of_another_resolution(tokens):
    """Class tokens are kept; a slope over the patches stays one; there and back is near."""
    side, more = 6, 9
    slope = torch.linspace(-1, 1, side)[None, :, None].expand(side, side, 3)
    old = torch.cat([torch.full((1, tokens, 3), 7.0), slope.reshape(1, -1, 3)], 1)
    new = interpolated(old, torch.Size([1, tokens + more**2, 3]))
    assert torch.equal(new[:, :tokens], old[:, :tokens])
    grid = new[0, tokens:].view(more, more, 3)
    steps = grid.diff(dim=1)[:, 2:-2]
    torch.testing.assert_close(steps, steps.mean().expand_as(steps), rtol=0.05, atol=0)
    assert grid.diff(dim=0).abs().max() < 1e-5
    back = interpolated(new, old.shape)
    assert (back - old).abs().max() < 0.15


def test_embeddings_of_another_form_are_refused():
    for before, after in (((1, 10, 4), (1, 10, 5)), ((1, 10, 4), (1, 12, 4)), ((9, 4), (16, 4))):
        assert interpolated(torch.zeros(before), torch.Size(after)) is None


def test_a_vit_of_another_resolution_and_number_of_classes():
    small, _ = vits(32)
    large = VisionTransformer(64, 16, 2, 2, 16, 32, num_classes=3)
    nn.init.normal_(small.class_token)
    fitted = fit_weights(large, Weights(state_of(small)))
    assert fitted.interpolated == ["encoder.pos_embedding"]
    assert fitted.new == ["heads.head.weight", "heads.head.bias"]
    assert torch.equal(large.class_token, small.class_token)
    positions = large.encoder.pos_embedding.detach(), small.encoder.pos_embedding.detach()
    assert torch.equal(positions[0][:, 0], positions[1][:, 0])
