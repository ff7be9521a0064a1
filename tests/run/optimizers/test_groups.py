"""Groups of parameters: their decay and their rate follow from names and layers alone."""

import pytest
import timm
import torch
from support.small import small_net, small_settings
from torch import nn

from rwp_dist.base.errors import ConfigError
from rwp_dist.config import load_settings
from rwp_dist.run.models import build_shapes
from rwp_dist.run.optimizers import build_optimizer, group_parameters
from rwp_dist.run.optimizers.layers import number_layers


def by_name(model, settings):
    """Decay and factor of each parameter."""
    names = {id(param): name for name, param in model.named_parameters()}
    found = {}
    for group in group_parameters(model, settings):
        for param in group["params"]:
            name = names.pop(id(param))
            found[name] = group["weight_decay"], group.get("lr_factor", 1.0)
    assert not names
    return found


def test_factors_multiply_in_any_order_and_leave_others_alone():
    patterns = ("'conv*': 0.1", "'*.weight': 3", "'ndim<2': 0.7")
    forwards, backwards = (
        by_name(
            small_net(),
            small_settings(
                f"optimizer.lr_factors={{{', '.join(order)}}}",
                "optimizer.no_decay=['ndim<2']",
                "optimizer.weight_decay=0.1",
            ),
        )
        for order in (patterns, patterns[::-1])
    )
    assert forwards == backwards
    assert forwards["conv1.weight"] == (0.1, pytest.approx(0.3))
    assert forwards["bn1.weight"] == (0.0, pytest.approx(2.1))
    assert forwards["linear1.bias"] == (0.0, pytest.approx(0.7))


def test_tokens_of_a_transformer_are_not_decayed_and_layers_named_after_them_are():
    net = nn.Module()
    net.attention = nn.MultiheadAttention(2, 1)  # what makes it a transformer
    for name in ("cls_token", "dist_token", "reg_token"):
        setattr(net, name, nn.Parameter(torch.zeros(1, 1, 2)))
    net.register_tokens = nn.Parameter(torch.zeros(1, 4, 2))
    net.mlp_tokens = nn.Linear(2, 2)
    decayed, free = group_parameters(net, small_settings("optimizer.weight_decay=0.1"))
    assert free["weight_decay"] == 0.0
    assert any(param is net.mlp_tokens.weight for param in decayed["params"])
    assert sum(param.ndim == 3 for param in free["params"]) == 4
    assert all(param.ndim == 2 for param in decayed["params"])


def test_a_factor_that_names_nothing_is_refused():
    settings = small_settings("optimizer.lr_factors={'heads.*': 10}")
    with pytest.raises(ConfigError, match="no parameter is named") as caught:
        group_parameters(small_net(), settings)
    assert caught.value.key == "optimizer.lr_factors"


def test_without_factors_groups_are_those_of_before():
    """A run that an earlier version began has the state of as many groups in its checkpoint."""
    settings = small_settings("optimizer.weight_decay=0.1", "optimizer.no_decay=['ndim<2']")
    groups = group_parameters(small_net(), settings)
    assert [(g["weight_decay"], len(g["params"])) for g in groups] == [(0.1, 4), (0.0, 6)]
    assert all(group.keys() == {"params", "weight_decay"} for group in groups)
    assert len(group_parameters(small_net(), small_settings("optimizer.weight_decay=0"))) == 1


@pytest.mark.parametrize("name", ["lamb", "lars"])
def test_what_adapts_by_layer_leaves_out_norms_and_biases_of_any_network(name):
    found = by_name(small_net(), small_settings(f"optimizer.name={name}"))
    assert {n for n, (decay, _) in found.items() if not decay} == {
        n for n, p in small_net().named_parameters() if p.ndim < 2
    }


# --- layers ---


def shapes(name, size=32):
    return build_shapes(
        load_settings(None, [f"model.name={name}", "data.channels=3", f"data.image_size={size}"])
    )


def of_timm(name, **options):
    with torch.device("meta"):
        return timm.create_model(name, **options)


class Plain(nn.Module):
    """A vision transformer's names, without timm's code."""

    def __init__(self):
        super().__init__()
        self.patch_embed, self.pos_embed = nn.Linear(2, 2), nn.Parameter(torch.zeros(1, 2, 2))
        self.blocks = nn.Sequential(*(nn.Linear(2, 2) for _ in range(12)))
        self.norm, self.head = nn.LayerNorm(2), nn.Linear(2, 2)


# name of the network, how many layers it has, and parameters with their layers
NUMBERED = (
    (
        lambda: shapes("resnet50"),
        18,
        {
            "conv1.weight": 0,
            "bn1.bias": 0,
            "layer1.0.conv1.weight": 1,
            "layer1.2.bn3.weight": 3,
            "layer2.0.downsample.0.weight": 4,
            "layer4.2.conv3.weight": 16,
            "fc.bias": 17,
        },
    ),
    (
        lambda: shapes("cifar_resnet18"),
        10,
        {"conv1.weight": 0, "layer4.1.bn2.bias": 8, "fc.bias": 9},
    ),
    (
        lambda: shapes("vit_s_16"),
        14,
        {
            "class_token": 0,
            "conv_proj.weight": 0,
            "encoder.pos_embedding": 0,
            "encoder.layers.encoder_layer_0.mlp.0.weight": 1,
            "encoder.layers.encoder_layer_10.ln_1.bias": 11,
            "encoder.layers.encoder_layer_11.ln_1.bias": 12,
            "encoder.ln.weight": 12,
            "heads.head.weight": 13,
        },
    ),
    (
        lambda: of_timm("vit_tiny_patch16_224"),
        14,
        {
            "cls_token": 0,
            "pos_embed": 0,
            "patch_embed.proj.bias": 0,
            "blocks.0.norm1.weight": 1,
            "blocks.10.norm1.weight": 11,
            "norm.weight": 12,
            "head.bias": 13,
        },
    ),
    (lambda: of_timm("resnet18"), 10, {"conv1.weight": 0, "layer1.0.bn1.bias": 1, "fc.weight": 9}),
    (Plain, 14, {"pos_embed": 0, "blocks.2.weight": 3, "norm.bias": 12, "head.weight": 13}),
)


@pytest.mark.parametrize(("build", "count", "some"), NUMBERED)
def test_layers_are_numbered_from_the_stem_to_the_head(build, count, some):
    model = build()
    layers = number_layers(model, "it")
    assert layers.keys() == {name for name, _ in model.named_parameters()}
    assert set(layers.values()) == set(range(count))
    assert {name: layers[name] for name in some} == some


def test_a_network_of_timm_and_the_same_of_torchvision_have_the_same_layers():
    one, other = (number_layers(m, "it") for m in (of_timm("resnet50"), shapes("resnet50")))
    assert one == other


def test_each_layer_learns_slower_than_the_one_above_it():
    settings = load_settings(
        None,
        [
            *("model.name=vit_s_16", "data.channels=3", "data.image_size=32"),
            *("optimizer.layer_decay=0.75", "optimizer.lr_factors={'heads.*': 10}"),
        ],
    )
    model = build_shapes(settings)
    found = {name: factor for name, (_, factor) in by_name(model, settings).items()}
    assert found["heads.head.weight"] == 10
    assert found["encoder.ln.bias"] == found["encoder.layers.encoder_layer_11.ln_1.bias"] == 0.75
    assert found["class_token"] == found["conv_proj.weight"] == pytest.approx(0.75**13)
    assert len(build_optimizer(model, settings).param_groups) == 28  # of 14 layers, decayed and not


def test_a_network_whose_layers_are_not_known_is_refused_with_the_cure():
    with pytest.raises(ConfigError, match=r"conv1\.weight, bn1\.weight") as caught:
        group_parameters(small_net(), small_settings("optimizer.layer_decay=0.9"))
    assert caught.value.key == "optimizer.layer_decay" and "lr_factors" in caught.value.cure
