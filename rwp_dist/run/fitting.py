"""Weights of others in a network: names, another head, another resolution."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import isqrt
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rwp_dist.base.errors import ConfigError
from rwp_dist.data.classes import Classes

KEY = "model.init"


class Weights(NamedTuple):
    """What was read."""

    tensors: Mapping[str, Tensor]
    classes: tuple[str, ...] | None = None
    """Names of the classes that they were trained on, in the order of labels. None: not known."""


# --- names ---

PREFIXES = ("module.", "model.", "_orig_mod.")
"""What DistributedDataParallel, a wrapper or torch.compile puts before every name."""

RENAMES = (
    (r"^patch_embed\.proj\.", "conv_proj."),
    (r"^cls_token$", "class_token"),
    (r"^pos_embed$", "encoder.pos_embedding"),
    (r"^blocks\.(\d+)\.", r"encoder.layers.encoder_layer_\1."),
    (r"(encoder_layer_\d+)\.norm(\d)\.", r"\1.ln_\2."),
    (r"\.attn\.qkv\.", ".self_attention.in_proj_"),
    (r"\.attn\.proj\.", ".self_attention.out_proj."),
    (r"\.mlp\.(fc1|linear_1)\.", ".mlp.0."),
    (r"\.mlp\.(fc2|linear_2)\.", ".mlp.3."),
    (r"^norm\.", "encoder.ln."),
    (r"^head\.", "heads.head."),
    (r"(\.denselayer\d+\.(?:norm|conv))\.(\d)\.", r"\1\2."),
)
"""From timm's names in a ViT to torchvision's, and from torchvision's of before to those of now."""


def common_name(name: str) -> str:
    """One name for a tensor that libraries and wrappers call differently."""
    while starts := next((p for p in PREFIXES if name.startswith(p)), None):
        name = name.removeprefix(starts)
    for pattern, replacement in RENAMES:
        name = re.sub(pattern, replacement, name)
    return name


# --- fitting ---


@dataclass
class Fitted:
    """What became of the tensors of both sides, by name."""

    taken: list[str] = field(default_factory=list)
    interpolated: list[str] = field(default_factory=list)
    """Position embeddings, taken for another number of patches."""
    new: list[str] = field(default_factory=list)
    """Of the network, drawn from ``run.seed``."""
    unused: list[str] = field(default_factory=list)
    """Of the weights that were read."""

    def __str__(self) -> str:
        total = len(self.taken) + len(self.interpolated) + len(self.new)
        parts = [f"{len(self.taken)} of {total} tensors are taken"]
        for words, names in (
            ("interpolated", self.interpolated),
            ("made anew", self.new),
            ("not used of it", self.unused),
        ):
            if names:
                more = f" and {len(names) - 3} more" if len(names) > 3 else ""
                parts.append(f"{words}: {', '.join(names[:3])}{more}")
        return ", ".join(parts)


def fit_weights(model: nn.Module, weights: Weights, classes: Classes | None = None) -> Fitted:
    """Copy weights into a network, in place.

    Its head, the last layer, stays as it is if it has another number of classes, or ``classes``
    of other names; other tensors have to fit. Position embeddings are interpolated.

    Raises:
        ConfigError: a tensor has another shape, or most of the network's are missing; then nothing
            is copied.
    """
    own = model.state_dict()
    by_common = {common_name(name): name for name in own}
    head, fitted = head_of(model), Fitted()
    known = (weights.classes, classes.names if classes else None)
    new_head = head if None not in known and known[0] != known[1] else set[str]()
    found = dict[str, Tensor]()
    for name, tensor in weights.tensors.items():
        place = name if name in own else by_common.get(common_name(name))
        if place is None or place in new_head or place in found:
            fitted.unused.append(name)
            continue
        here, there = own[place].shape, tensor.shape
        if here == there:
            fitted.taken.append(place)
        elif place in head and here[1:] == there[1:]:
            fitted.unused.append(name)
            continue
        elif "pos_embed" in place and (resized := interpolated(tensor, here)) is not None:
            tensor = resized
            fitted.interpolated.append(place)
        else:
            raise _misfit(
                f"{place} is {list(here)} here and {list(there)} there",
                "name weights of the same network, with the same model.options and data.channels",
            )
        found[place] = tensor
    fitted.new = [name for name in own if name not in found]
    body = {name: p.numel() for name, p in model.named_parameters() if name not in head}
    if 2 * sum(body[name] for name in body if name in found) < sum(body.values()):
        missing = next(name for name in body if name not in found)
        raise _misfit(
            f"most of {type(model).__name__} is not in it, such as {missing}",
            "name weights of the same network",
        )
    with torch.no_grad():
        for name, tensor in found.items():
            own[name].copy_(tensor)
    return fitted


def head_of(model: nn.Module) -> set[str]:
    """Names of the parameters of the last module that has some: what gives the logits."""
    last = [name for name, m in model.named_modules() if any(True for _ in m.parameters(False))][-1]
    prefix = f"{last}." if last else ""
    own = model.get_submodule(last).named_parameters(recurse=False)
    return {prefix + name for name, _ in own}


def interpolated(embedding: Tensor, shape: torch.Size) -> Tensor | None:
    """Position embeddings of a square of patches for another square.

    Both are ``[1, tokens + side**2, channels]``; those of class tokens, which come first, are kept.
    Bicubic, with antialiasing where the square shrinks. None: they are not of this form.
    """
    if embedding.ndim != 3 or len(shape) != 3 or embedding.shape[2] != shape[2]:
        return None
    before, after = embedding.shape[1], shape[1]
    for tokens in range(min(before, after)):
        old, new = isqrt(before - tokens), isqrt(after - tokens)
        if old**2 == before - tokens and new**2 == after - tokens:
            kept, patches = embedding[:, :tokens], embedding[:, tokens:]
            square = patches.float().transpose(1, 2).unflatten(2, (old, old))  # [1, C, old, old]
            square = F.interpolate(square, (new, new), mode="bicubic", antialias=True)
            return torch.cat([kept.float(), square.flatten(2).transpose(1, 2)], dim=1)
    return None


def _misfit(problem: str, cure: str) -> ConfigError:
    return ConfigError(problem, key=KEY, cure=cure)
