"""How a network is loaded without this project: by torchvision, timm, or a function of its own."""

from inspect import getsource
from typing import Any

from rwp_dist.base.named import is_named
from rwp_dist.config import TIMM, Settings

LIKE_TIMM = {
    *("resnet18", "resnet34", "resnet50", "resnet101", "resnet152"),
    *("resnext50_32x4d", "resnext101_32x8d", "wide_resnet50_2", "wide_resnet101_2", "densenet121"),
}
"""Networks of torchvision that timm has with the same names, so that it loads them too."""

CIFAR_RESNET = """\
import torch
from safetensors.torch import load_file
from torchvision.models import resnet18

model = resnet18(num_classes={num_classes})
model.conv1, model.maxpool = torch.nn.Conv2d(3, 64, 3, padding=1, bias=False), torch.nn.Identity()
model.load_state_dict(load_file("model.safetensors"))
model.eval()
"""

BY_TIMM = """\
import timm

model = timm.create_model("local-dir:.", pretrained=True).eval()
"""

BY_FUNCTION = """\
from safetensors.torch import load_file
from {module} import {function}

model = {function}({arguments})
model.load_state_dict(load_file("model.safetensors"))
model.eval()
"""

LOADING = """\
{source}

model = {function}({arguments})
model.load_state_dict(load_file("model.safetensors"))
model.eval()
"""
"""With the source of the network, because no other library has it."""

OF_SMALL_CNN = """\
from collections import OrderedDict
from collections.abc import Sequence
from itertools import pairwise

from safetensors.torch import load_file
from torch import nn


"""
"""What the source of ``small_cnn`` takes from elsewhere."""

VIT_PATCHES = {"vit_s_16": 16, "vit_s_32": 32}


def is_in_timm(settings: Settings) -> bool:
    """Whether timm knows the network, by its own names of weights."""
    name = settings.model.name
    like = name in LIKE_TIMM and not settings.model.options
    return name.startswith(TIMM) or (like and settings.data.channels == 3)


def loading_script(settings: Settings) -> str:
    """A few lines, to be run in the exported folder, after which ``model`` is the network."""
    name = settings.model.name
    known: dict[str, Any] = {"num_classes": settings.model.num_classes}
    options = settings.model.options
    if name.startswith(TIMM):
        return BY_TIMM
    if name == "cifar_resnet18":
        return CIFAR_RESNET.format(**known)
    if name in VIT_PATCHES:
        sizes = {"image_size": settings.data.image_size, "patch_size": VIT_PATCHES[name]}
        sizes |= {"num_layers": 12, "num_heads": 6, "hidden_dim": 384, "mlp_dim": 1536}
        return _script("torchvision.models", "VisionTransformer", sizes | known | options)
    if is_named(name):
        module, _, function = name.partition(":")
        return _script(module, function, known | options)
    if name == "small_cnn":
        from rwp_dist.run.models import small_cnn  # here, because it imports torch

        arguments = _written(known | {"channels": settings.data.channels} | options)
        source = OF_SMALL_CNN + getsource(small_cnn)
        return LOADING.format(source=source, function=name, arguments=arguments)
    if name.startswith("plain_vit_"):
        size, patch = name.removeprefix("plain_vit_").split("_")
        sizes = {"image_size": settings.data.image_size, "patch_size": int(patch)}
        from rwp_dist.run import plain_vit  # here, because it imports torch

        arguments = _written(known | sizes | options)
        source = f"from safetensors.torch import load_file\n\n{getsource(plain_vit)}"
        return LOADING.format(source=source, function=f"plain_vit_{size}", arguments=arguments)
    if name.startswith("vit_"):
        known["image_size"] = settings.data.image_size
    if name in ("googlenet", "inception_v3"):
        known |= {"aux_logits": False, "init_weights": False}
    return _script("torchvision.models", name, known | options)


def _script(module: str, function: str, arguments: dict[str, Any]) -> str:
    return BY_FUNCTION.format(module=module, function=function, arguments=_written(arguments))


def _written(arguments: dict[str, Any]) -> str:
    return ", ".join(f"{key}={value!r}" for key, value in arguments.items())
