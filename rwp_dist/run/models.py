"""Networks by name: torchvision's and timm's, and some that they lack."""

import difflib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from rwp_dist.base.errors import ConfigError
from rwp_dist.base.named import is_named, load_named
from rwp_dist.config import TIMM, Settings
from rwp_dist.run.freezing import freeze_parameters
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


def vit_s(num_classes: int, image_size: int, patch_size: int, **options: Any) -> nn.Module:
    """ViT-S, half as wide as ViT-B: 12 layers of 6 heads and 384 channels, an MLP of 1,536."""
    from torchvision.models import VisionTransformer

    sizes = (image_size, patch_size, 12, 6, 384, 1536)
    return VisionTransformer(*sizes, num_classes=num_classes, **options)


def plain_vit(size: str, **options: Any) -> nn.Module:
    """A ViT with fixed positions and without a class token; ``size``: s or b."""
    from rwp_dist.run import plain_vit as plain  # imports torchvision

    build = {"s": plain.plain_vit_s, "b": plain.plain_vit_b}[size]
    return build(**options)


OWN: dict[str, Callable[..., nn.Module]] = {
    "small_cnn": small_cnn,
    "cifar_resnet18": cifar_resnet18,
    "vit_s_16": partial(vit_s, patch_size=16),
    "vit_s_32": partial(vit_s, patch_size=32),
    "plain_vit_s_16": partial(plain_vit, "s", patch_size=16),
    "plain_vit_b_16": partial(plain_vit, "b", patch_size=16),
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
        cures = f"use {own}, a name of torchvision, timm:NAME, or module:function of yours"
        hint = f"did you mean {near[0]}?" if near else cures
        raise ConfigError(f"there is no model {name!r}", key="model.name", cure=hint)
    return partial(torchvision.models.get_model, name, weights=None)


def _of_timm(name: str, settings: Settings) -> Callable[..., nn.Module]:
    """A network's function, for the settings' images.

    Raises:
        ConfigError: there is no such model, or timm is not installed.
    """
    timm, name = import_timm("model.name"), name.removeprefix(TIMM)
    made_for = find_in_timm(name, "model.name")
    options: dict[str, Any] = {"in_chans": settings.data.channels}
    size = settings.data.image_size
    if made_for and made_for.fixed_input_size and made_for.input_size[-1] != size:
        options["img_size"] = size
    return partial(timm.create_model, name, pretrained=False, **options)


def find_in_timm(name: str, key: str) -> Any:
    """What timm knows of the weights of a model, its ``PretrainedCfg``. None: nothing.

    Raises:
        ConfigError: there is no such model; ``key`` is the setting that names it.
    """
    timm = import_timm(key)
    if timm.is_model(name):
        with suppress(RuntimeError):  # there is no such tag
            return timm.get_pretrained_cfg(name)
    names = timm.list_models() + timm.list_models(include_tags=True)
    near = difflib.get_close_matches(name, names, n=1)
    cure = f"did you mean {TIMM}{near[0]}?" if near else "name one of timm.list_models()"
    raise ConfigError(f"timm has no model {name!r}", key=key, cure=cure)


def import_timm(key: str) -> Any:
    """The package timm.

    Raises:
        ConfigError: it is not installed; ``key`` is the setting that names it.
    """
    try:
        import timm
    except ImportError as error:
        raise ConfigError(
            f"the package timm cannot be imported ({error})",
            key=key,
            cure="install it (pip install 'rwp-dist[timm]')",
        ) from None
    return timm


def draw_model(settings: Settings) -> nn.Module:
    """The network, with weights from torch's generator, on torch's device, as they stand.

    Raises:
        ConfigError: there is no such model, or it cannot be built for such images.
    """
    name, data = settings.model.name, settings.data
    options: dict[str, object] = {"num_classes": settings.model.num_classes}
    if name.startswith(TIMM):
        build = _of_timm(name, settings)
    elif is_named(name):
        return _own_network(settings)
    else:
        build = OWN.get(name) or _of_torchvision(name)
        options |= _of_images(name, settings)
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


def _of_images(name: str, settings: Settings) -> dict[str, object]:
    """What a network of torchvision or of ours is told about the images.

    Raises:
        ConfigError: it does not take such.
    """
    data, options = settings.data, dict[str, object]()
    if name == "small_cnn":
        options["channels"] = data.channels
    elif data.channels != 3:
        raise ConfigError(f"{name} takes RGB images", key="data.channels", cure="set it to 3")
    if name.startswith(("vit_", "plain_vit_")):
        options["image_size"] = data.image_size
    if name in ("googlenet", "inception_v3"):
        options |= {"aux_logits": False, "init_weights": True}
    return options


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
            model = draw_model(settings)
    except ConfigError:
        if not (is_named(settings.model.name) or settings.model.name.startswith(TIMM)):
            raise
        with torch.random.fork_rng(devices=[]):  # the function needs values
            model = draw_model(settings).to("meta")
    freeze_parameters(model, settings.model.freeze)
    with_checkpointing(model, settings)
    return model


def with_checkpointing(model: nn.Module, settings: Settings) -> None:
    """Have the network's blocks computed again in backward passes, if the settings ask for it.

    Raises:
        ConfigError: it is not known which modules are its blocks.
    """
    if settings.model.checkpointing:
        from rwp_dist.run.recompute import recompute_blocks  # imports torch's compiler

        recompute_blocks(model)
