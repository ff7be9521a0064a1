"""Networks by name, and which images they take."""

import pytest
import torch
from support.ranks import run_ranks
from support.small import small_parts, small_settings

from rwp_dist.base.errors import ConfigError
from rwp_dist.config import load_settings
from rwp_dist.perturb.rows import check_patterns
from rwp_dist.run.models import build_model, build_shapes


@pytest.mark.parametrize(
    ("overrides", "size", "cure"),
    [
        (["model.name=small_cnn"], 2, "set it to 8"),
        (["model.name=alexnet", "data.channels=3"], 32, "set it to 64"),
        (["model.name=maxvit_t", "data.channels=3"], 32, "set it to 224"),
    ],
)
def test_images_that_a_network_does_not_take_are_refused_with_the_cure(overrides, size, cure):
    with pytest.raises(ConfigError) as caught:
        build_model(load_settings(None, [*overrides, f"data.image_size={size}"]))
    assert caught.value.key == "data.image_size"
    assert "model.name" in caught.value.cure and cure in caught.value.cure
    assert "\n" not in str(caught.value)


def test_the_size_that_a_vision_transformer_cannot_be_built_for_is_refused():
    settings = ["model.name=vit_b_32", "data.channels=3", "data.image_size=50"]
    with pytest.raises(ConfigError) as caught:
        build_model(load_settings(None, settings))
    assert (caught.value.key, caught.value.cure) == ("model.name", "change data.image_size")


@pytest.mark.parametrize("name", ["resnet18", "squeezenet1_1", "shufflenet_v2_x0_5", "small_cnn"])
def test_trying_a_network_leaves_no_trace(name):
    settings = load_settings(
        None, [f"model.name={name}", "data.channels=3", "data.image_size=32", "model.num_classes=7"]
    )
    state = torch.get_rng_state()
    model, again = build_model(settings), build_model(settings)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(t.device.type == "cpu" for t in model.state_dict().values())
    assert not any(
        t.any() for name, t in model.state_dict().items() if name.endswith("num_batches_tracked")
    )
    for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 7)


def test_unknown_models_and_grey_images_are_refused_with_the_cure():
    for overrides, key, cure in (
        (["model.name=resnet5O"], "model.name", "did you mean resnet50?"),
        (["model.name=resnet18"], "data.channels", "set it to 3"),
    ):
        with pytest.raises(ConfigError) as caught:
            build_model(load_settings(None, overrides))
        assert (caught.value.key, caught.value.cure) == (key, cure)


def own_network(num_classes, width=4):
    return torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.Linear(64, width), torch.nn.Linear(width, num_classes)
    )


def no_network(num_classes):
    return num_classes


def test_a_network_of_the_users_is_named_with_its_options():
    name = f"model.name={__name__}:own_network"
    settings = load_settings(None, [name, "model.num_classes=3", "model.options={width: 7}"])
    model, again = build_model(settings), build_model(settings)
    assert [tuple(p.shape) for p in model.parameters()] == [(7, 64), (7,), (3, 7), (3,)]
    assert torch.equal(model[1].weight, again[1].weight), "run.seed draws its weights"


def test_what_is_no_network_or_takes_no_such_images_is_refused_by_the_setting():
    for overrides, key in (
        ([f"model.name={__name__}:no_network"], "model.name"),
        ([f"model.name={__name__}:nobody"], "model.name"),
        ([f"model.name={__name__}:own_network", "data.image_size=9"], "data.image_size"),
    ):
        with pytest.raises(ConfigError) as caught:
            build_model(load_settings(None, overrides))
        assert caught.value.key == key and caught.value.cure


def test_options_reach_the_projects_networks_and_torchvisions():
    overrides = ["model.options={widths: [4, 6]}"]
    convs = [
        p.shape for p in build_model(load_settings(None, overrides)).parameters() if p.ndim > 1
    ]
    assert convs == [(4, 1, 3, 3), (6, 4, 3, 3), (10, 6)]
    rgb = ["data.channels=3", "data.image_size=32"]
    model = build_model(
        load_settings(None, [*rgb, "model.name=mobilenet_v2", "model.options={dropout: 0.7}"])
    )
    assert model.classifier[0].p == 0.7
    for name in ("small_cnn", "resnet18"):
        with pytest.raises(ConfigError, match="takes no such options") as caught:
            build_model(
                load_settings(None, [*rgb, f"model.name={name}", "model.options={depth: 3}"])
            )
        assert caught.value.key == "model.options"


def test_models_of_timm_take_images_classes_and_options():
    timm = pytest.importorskip("timm")
    for name, size, channels in (
        ("test_vit", 64, 1),
        ("test_resnet.r160_in1k", 32, 3),
        ("test_convnext", 64, 1),
    ):
        images = [f"data.image_size={size}", f"data.channels={channels}", "model.num_classes=7"]
        settings = load_settings(None, [f"model.name=timm:{name}", *images])
        model, again = build_model(settings), build_model(settings)
        for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True):
            assert torch.equal(a, b)
        assert model(torch.zeros(2, channels, size, size)).shape == (2, 7)
        shapes = [p.shape for p in build_shapes(settings).parameters()]
        assert shapes == [p.shape for p in model.parameters()]
    options = "model.options={drop_path_rate: 0.3, attn_drop_rate: 0.2, global_pool: avg}"
    model = build_model(
        load_settings(
            None, ["model.name=timm:test_vit", options, "data.image_size=160", "data.channels=3"]
        )
    )
    drops = [m.drop_prob for m in model.modules() if isinstance(m, timm.layers.DropPath)]
    assert max(drops) == pytest.approx(0.3) and model.blocks[0].attn.attn_drop.p == 0.2
    assert model.global_pool == "avg"


@pytest.mark.parametrize(
    ("name", "cure"),
    [
        ("timm:resnet5o", "did you mean timm:resnet50?"),
        ("timm:vit_tiny_patch16_224.augreg_in1", "did you mean timm:vit_tiny_patch16_224"),
        ("timm:qqqqqqq", "name one of timm.list_models()"),
    ],
)
def test_models_that_timm_does_not_have_are_refused_with_the_cure(name, cure):
    pytest.importorskip("timm")
    with pytest.raises(ConfigError, match="timm has no model") as caught:
        build_model(load_settings(None, [f"model.name={name}", "data.channels=3"]))
    assert caught.value.key == "model.name" and cure in caught.value.cure


def test_options_that_a_model_of_timm_does_not_take_are_refused():
    pytest.importorskip("timm")
    settings = load_settings(
        None, ["model.name=timm:test_resnet", "data.image_size=32", "model.options={depth: 3}"]
    )
    with pytest.raises(ConfigError, match="takes no such options") as caught:
        build_model(settings)
    assert caught.value.key == "model.options"


def test_small_cnn_has_names_to_speak_of():
    names = [name for name, _ in build_model(load_settings(None)).named_parameters()]
    assert names[:4] == ["conv1.weight", "bn1.weight", "bn1.bias", "conv2.weight"]
    check_patterns(names, ["*.bias", "*bn*", "bn*", "conv?.weight", "ndim<2"], key="method.exclude")
    with pytest.raises(ConfigError) as caught:
        check_patterns(names, ["bn*", "norm*", "head.*"], key="method.exclude")
    assert caught.value.problem == "no parameter is named 'norm*' or 'head.*'"
    assert caught.value.key == "method.exclude"
    assert "conv1.weight, bn1.weight" in caught.value.cure


def build(settings):
    with small_parts(settings):
        pass


@pytest.mark.parametrize("method", ["m-rwp", "sgd"])
def test_a_run_refuses_to_exclude_what_there_is_not(method):
    with pytest.raises(ConfigError, match=r"method.exclude: no parameter is named 'norm\*'"):
        run_ranks(
            build, 1, small_settings("method.exclude=['bn*', 'norm*']", f"method.name={method}")
        )
