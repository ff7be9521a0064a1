"""ViTs without class token and with fixed positions."""

import math

import pytest
import torch

from rwp_dist.config import load_settings
from rwp_dist.run.models import build_model, build_shapes
from rwp_dist.run.optimizers import group_parameters
from rwp_dist.run.plain_vit import PlainViT, sines_and_cosines


def test_the_embedding_is_that_of_the_paper():
    """``posemb_sincos_2d`` of google-research/big_vision, written as loops."""
    side, width = 3, 16
    found = sines_and_cosines(side, width)
    assert found.shape == (1, side**2, width)
    for y in range(side):
        for x in range(side):
            omega = [1 / 10_000 ** (k / (width // 4 - 1)) for k in range(width // 4)]
            wanted = [
                wave(place * w) for place in (x, y) for wave in (math.sin, math.cos) for w in omega
            ]
            row = found[0, y * side + x]
            torch.testing.assert_close(row, torch.tensor(wanted), rtol=0, atol=1e-6)


def test_it_is_torchvisions_without_class_token_and_with_the_mean_over_patches():
    torch.manual_seed(0)
    net = PlainViT(32, 16, 2, 4, 32, 64, num_classes=5)
    names = dict(net.named_parameters())
    assert not {"class_token", "encoder.pos_embedding"} & (names.keys() | net.state_dict().keys())
    assert not names["heads.head.weight"].any()
    torch.nn.init.normal_(names["heads.head.weight"])
    images = torch.randn(3, 3, 32, 32)
    x = net.conv_proj(images).flatten(2).transpose(1, 2) + net.encoder.pos_embedding
    x = net.encoder.ln(net.encoder.layers(x))
    torch.testing.assert_close(net(images), net.heads.head(x.mean(1)))
    turned = net(images.flip(3))
    assert not torch.allclose(turned, net(images)), "positions count"


@pytest.mark.parametrize(
    ("name", "parameters"), [("plain_vit_s_16", 21_974_632), ("plain_vit_b_16", 86_415_592)]
)
def test_sizes_and_what_is_decayed(name, parameters):
    """Of ViT-S/16 and ViT-B/16 without class token (384, 768) and positions (197 x as many)."""
    images = ("data.channels=3", "data.image_size=224", "model.num_classes=1000")
    settings = load_settings(None, [f"model.name={name}", *images, "optimizer.weight_decay=0.1"])
    net = build_shapes(settings)
    assert sum(p.numel() for p in net.parameters()) == parameters
    names = {id(p): n for n, p in net.named_parameters()}
    groups = {
        g["weight_decay"]: {names[id(p)] for p in g["params"]}
        for g in group_parameters(net, settings)
    }
    decayed = {n for n, p in net.named_parameters() if p.ndim > 1}
    assert groups == {0.1: decayed, 0.0: set(names.values()) - decayed}
    assert decayed == {n for n in decayed if n.endswith("weight")}


def test_dropout_is_an_option_and_images_of_another_size_are_built_for():
    settings = load_settings(
        None,
        [
            *("model.name=plain_vit_s_16", "data.channels=3", "data.image_size=48"),
            "model.options={attention_dropout: 0.2, dropout: 0.1}",
        ],
    )
    net = build_model(settings)
    assert net.encoder.pos_embedding.shape == (1, 9, 384)
    assert net.encoder.layers[0].self_attention.dropout == 0.2
