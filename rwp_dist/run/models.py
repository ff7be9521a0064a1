"""Networks by name: torchvision's classification models, and four that it lacks."""

import difflib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from rwp_dist.base.errors import ConfigError
from rwp_dist.base.named import is_named, load_named
from rwp_dist.config import Settings
from rwp_dist.run.trial import check_parameters, try_network

CPU = torch.device("cpu")


def small_cnn(num_classes: int, channels: int, widths: Sequence[int] = (32, 64, 64)) -> nn.Module:
    """Convolutions with BatchNorm for 8x8 to 32x32 images.

    Halves the image between two of them, and averages it after the last: ``[B, channels, H, W]`` to
    ``[B, num_classes]``.

    Args:
        num_classes: of the output.
        channels: of the images.
        widths: channels of each convolution.
    """
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for number, (inputs, outputs) in enumerate(pairwise((channels, *widths)), start=1):
        if number > 1:
            layers[f"pool{number - 1}"] = nn.MaxPool2d(2)
        layers[f"conv{number}"] = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        layers[f"bn{number}"] = nn.BatchNorm2d(outputs)
        layers[f"relu{number}"] = nn.ReLU(inplace=True)
    layers["average"] = nn.AdaptiveAvgPool2d(1)
    layers["flatten"] = nn.Flatten()
    layers["linear"] = nn.Linear(widths[-1], num_classes)
    return nn.Sequential(layers)


def cifar_resnet18(num_classes: int) -> nn.Module:
    """ResNet-18 for 32x32 images: a 3x3 stem of stride 1 and no max-pooling, else torchvision's."""
    from torchvision.models import resnet18

    model = resnet18(weights=None, num_classes=num_classes)
    model.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")
    model.maxpool = nn.Identity()
    return model


def vit_s(num_classes: int, image_size: int, patch_size: int) -> nn.Module:
    """ViT-S, half as wide as ViT-B: 12 layers of 6 heads and 384 channels, an MLP of 1,536."""
    from torchvision.models import VisionTransformer

    return VisionTransformer(
        image_size, patch_size, 12, 6, hidden_dim=384, mlp_dim=1536, num_classes=num_classes
    )


OWN: dict[str, Callable[..., nn.Module]] = {
    "small_cnn": small_cnn,
    "cifar_resnet18": cifar_resnet18,
    "vit_s_16": partial(vit_s, patch_size=16),
    "vit_s_32": partial(vit_s, patch_size=32),
}
"""Networks of this project."""


def build_model(settings: Settings, device: torch.device = CPU) -> nn.Module:
    """The settings' network with weights drawn from ``run.seed``, the same on every rank.

    Raises:
        ConfigError: there is no such model, or it does not take such images.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.run.seed)
        model = draw_model(settings)
        for name, tensor in (*model.named_parameters(), *model.named_buffers()):
            if tensor.is_meta:
                raise ConfigError(
                    f"{name} is on the meta device, so it has no values",
                    key="model.name",
                    cure="return a network with values",
                )
        model.to(device)
        try_network(model, settings)
    return model


def _of_torchvision(name: str) -> Callable[..., nn.Module]:
    """A network's function.

    Raises:
        ConfigError: there is no such model.
    """
    import torchvision  # takes a second or more, and networks of our own do without

    theirs = torchvision.models.list_models(module=torchvision.models)
    if name not in theirs:
        near = difflib.get_close_matches(name, (*OWN, *theirs), n=1)
        own = ", ".join(OWN)
        cures = f"use {own}, a name of torchvision, or module:function of yours"
        hint = f"did you mean {near[0]}?" if near else cures
        raise ConfigError(f"there is no model {name!r}", key="model.name", cure=hint)
    return partial(torchvision.models.get_model, name, weights=None)


def draw_model(settings: Settings) -> nn.Module:
    """The network, with weights from torch's generator, on torch's device, as they stand.

    Raises:
        ConfigError: there is no such model, or it cannot be built for such images.
    """
    name, data = settings.model.name, settings.data
    if is_named(name):
        return _own_network(settings)
    build = OWN.get(name) or _of_torchvision(name)
    options: dict[str, object] = {"num_classes": settings.model.num_classes}
    if name == "small_cnn":
        options["channels"] = data.channels
    elif data.channels != 3:
        raise ConfigError(f"{name} takes RGB images", key="data.channels", cure="set it to 3")
    if name.startswith("vit_"):
        options["image_size"] = data.image_size
    if name in ("googlenet", "inception_v3"):
        options |= {"aux_logits": False, "init_weights": True}
    options |= settings.model.options
    try:
        return build(**options)
    except TypeError as error:
        raise ConfigError(
            f"{name} takes no such options ({error})",
            key="model.options",
            cure="leave out those that it does not have",
        ) from None
    except (ValueError, RuntimeError, AssertionError) as error:
        raise ConfigError(
            f"{name} cannot be built for {data.image_size} pixel images ({error})",
            key="model.name",
            cure="change data.image_size" + (" or model.options" if settings.model.options else ""),
        ) from None


def _own_network(settings: Settings) -> nn.Module:
    """What the user's ``function(num_classes=..., **model.options)`` returns."""
    name = settings.model.name
    build = load_named(name, key="model.name")
    try:
        model = build(num_classes=settings.model.num_classes, **settings.model.options)
    except Exception as error:  # the function is the user's, and may raise anything
        said = str(error).partition("\n")[0].rstrip(".")
        raise ConfigError(
            f"{name}, called with num_classes and model.options, fails "
            f"({type(error).__name__}: {said})",
            key="model.name",
            cure="mend it; `rwp-dist --debug train` shows where",
        ) from error
    if not isinstance(model, nn.Module):
        raise ConfigError(
            f"{name} returns {type(model).__name__}, and a network is a torch.nn.Module",
            key="model.name",
            cure="return one",
        )
    check_parameters(model, name)
    return model


class _NoValues(TorchFunctionMode):
    """Drawing weights that have no values: a loop that redraws some of them has nothing to do."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        return False if func is torch.Tensor.__bool__ else func(*args, **(kwargs or {}))


def build_shapes(settings: Settings) -> nn.Module:
    """The settings' network on the meta device: shapes without values, at no cost.

    Raises:
        ConfigError: there is no such model.
    """
    try:
        with torch.device("meta"), _NoValues():
            return draw_model(settings)
    except ConfigError:
        if not is_named(settings.model.name):
            raise
    with torch.random.fork_rng(devices=[]):  # the user's function needs values
        return draw_model(settings).to("meta")
