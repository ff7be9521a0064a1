"""Networks by name: torchvision's classification models, and a small one for small images."""

import difflib

import torch
from torch import nn

from rwp_dist.config import Settings
from rwp_dist.errors import ConfigError

SMALL_CNN = "small_cnn"


def small_cnn(num_classes: int, channels: int) -> nn.Module:
    """Three convolutions with BatchNorm (32, 64, 64 channels) for 8x8 to 32x32 images.

    Halves the image twice, then averages: ``[B, channels, H, W]`` to ``[B, num_classes]``.
    """

    def block(inputs: int, outputs: int) -> list[nn.Module]:
        convolution = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        return [convolution, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]

    return nn.Sequential(
        *block(channels, 32),
        nn.MaxPool2d(2),
        *block(32, 64),
        nn.MaxPool2d(2),
        *block(64, 64),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(64, num_classes),
    )


def build_model(settings: Settings) -> nn.Module:
    """The settings' network with weights drawn from ``run.seed``, the same on every rank.

    Raises:
        ConfigError: there is no such model, or it does not take such images.
    """
    import torchvision

    name, num_classes = settings.model.name, settings.model.num_classes
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.run.seed)
        if name == SMALL_CNN:
            return small_cnn(num_classes, settings.data.channels)
        known = torchvision.models.list_models(module=torchvision.models)
        if name not in known:
            near = difflib.get_close_matches(name, [SMALL_CNN, *known], n=1)
            hint = f"did you mean {near[0]}?" if near else f"use {SMALL_CNN} or a torchvision name."
            raise ConfigError(f"model.name: there is no model {name!r}; {hint}")
        if settings.data.channels != 3:
            raise ConfigError(f"data.channels: {name} takes RGB images; set data.channels to 3.")
        options = {"image_size": settings.data.image_size} if name.startswith("vit_") else {}
        if name in ("googlenet", "inception_v3"):
            options["aux_logits"] = False
            options["init_weights"] = True
        try:
            return torchvision.models.get_model(
                name, weights=None, num_classes=num_classes, **options
            )
        except (ValueError, RuntimeError, AssertionError) as error:
            raise ConfigError(
                f"model.name: {name} cannot be built for {settings.data.image_size} pixel images "
                f"({error}); change data.image_size."
            ) from None
